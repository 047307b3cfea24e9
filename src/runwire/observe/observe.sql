-- name: backlog
-- Events beyond their run's cursor, and the age of the oldest, NULL without one: one look-up in the log per run that
-- has any.
SELECT coalesce(sum(b.events), 0)::bigint AS events,
       (extract(epoch FROM clock_timestamp()) - min(e.ts_us) / 1e6)::float8 AS oldest_s
FROM (SELECT o.run_id, o.run_day, o.next_seq, r.last_seq - o.next_seq + 1 AS events
      FROM run_outbox AS o JOIN runs AS r ON r.run_id = ANY (ARRAY[o.run_id])
      WHERE NOT o.parked AND r.last_seq >= o.next_seq) AS b
LEFT JOIN LATERAL (SELECT ts_us FROM run_events
                   WHERE run_day = b.run_day AND run_id = b.run_id AND seq >= b.next_seq
                   ORDER BY seq LIMIT 1) AS e ON true

-- name: active
-- Open runs by state, each count and each oldest from an index of its own: closed runs cost nothing, idle ones little.
-- The age of a started run leaves out the time it waited, that of a waiting one is the time of this wait; NULL without
-- any. (An index takes only what no time zone can change, so what a started run is ordered by is a time since 2000.)
SELECT 'pending' AS state, (SELECT count(*) FROM runs WHERE state = 'pending') AS runs,
       extract(epoch FROM now() - (SELECT min(created_at) FROM runs WHERE state = 'pending'))::float8 AS oldest_s
UNION ALL
SELECT 'started', (SELECT count(*) FROM runs WHERE state = 'started'),
       extract(epoch FROM now() - timestamptz '2000-01-01 00:00:00+00'
                          - (SELECT min(started_at - timestamptz '2000-01-01 00:00:00+00' + waited_s * interval '1 second')
                             FROM runs WHERE state = 'started'))::float8
UNION ALL
SELECT 'waiting', (SELECT count(*) FROM runs WHERE state = 'waiting'),
       extract(epoch FROM now() - (SELECT min(waiting_since) FROM runs WHERE state = 'waiting'))::float8

-- name: unclaimed
-- Runs that a worker could claim, by agent, with the time since the first of them could be claimed: pending ones, those
-- whose worker's lease ended, and waiting ones that have their signal. Not suspects, which pause on purpose, nor timers,
-- which have an age of their own. Each kind from an index of its own.
SELECT u.agent, count(*) AS runs, extract(epoch FROM clock_timestamp() - min(u.since))::float8 AS oldest_s
FROM (
    SELECT agent, created_at AS since FROM runs
    WHERE state = 'pending' AND NOT external AND (lease_until IS NULL OR lease_until < now())
    UNION ALL
    SELECT r.agent, r.lease_until FROM runs AS r
    WHERE r.state = 'started' AND NOT r.external AND r.lease_until < now()
      AND NOT EXISTS (SELECT FROM run_losses AS l WHERE l.run_id = r.run_id AND l.fence = r.fence AND l.alone_s > 0)
    UNION ALL
    SELECT r.agent, greatest(r.waiting_since, (SELECT min(s.sent_at) FROM run_signals AS s
                                               WHERE s.run_id = r.run_id AND s.taken_at IS NULL
                                                 AND s.signal = ANY (string_to_array(r.waiting_for, ' '))))
    FROM runs AS r WHERE r.state = 'waiting' AND NOT r.external AND r.woken
) AS u
GROUP BY u.agent

-- name: overdue
-- Started runs by agent that have gone on, without their waits, for longer than their agent expects: agents $1 for $2
-- seconds, all others for $3. By the index of what started runs are ordered by, from the shortest of these times on.
SELECT r.agent, count(*) AS runs
FROM runs AS r LEFT JOIN unnest($1::text[], $2::float8[]) AS d (agent, expected_s) ON d.agent = r.agent
WHERE r.state = 'started'
  AND r.started_at - timestamptz '2000-01-01 00:00:00+00' + r.waited_s * interval '1 second'
      < now() - timestamptz '2000-01-01 00:00:00+00'
        - least($3::float8, (SELECT min(s) FROM unnest($2::float8[]) AS s)) * interval '1 second'
  AND r.started_at + r.waited_s * interval '1 second' < now() - coalesce(d.expected_s, $3::float8) * interval '1 second'
GROUP BY r.agent

-- name: timers
-- Timers that were due more than a second ago, the time since the first of all was due (NULL without any, negative before),
-- and the signals that no run has taken. Each from an index of its own.
SELECT (SELECT count(*) FROM runs WHERE state = 'waiting' AND wake_at < now() - interval '1 second') AS overdue,
       extract(epoch FROM clock_timestamp() - (SELECT min(wake_at) FROM runs
                                               WHERE state = 'waiting' AND wake_at IS NOT NULL))::float8 AS oldest_s,
       (SELECT count(*) FROM run_signals WHERE taken_at IS NULL) AS signals

-- name: partitions_missing
-- How many of the days that must have a partition of the log lack it. Processes make them hourly, so the last of $1 days
-- ahead may be missing in the first hour of a day (UTC), and does not count.
SELECT count(*) FILTER (WHERE to_regclass('run_events_' || to_char(today + n, 'YYYYMMDD')) IS NULL)
FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS t, generate_series(0, greatest($1::int - 1, 0)) AS n

-- name: database_used
-- Shares of limits, each from counters that every role may read. Of 2^31 ids of transactions, half may pass unvacuumed.
SELECT (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)::float8
       / greatest(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, 1)
           AS connections,
       pg_notification_queue_usage() AS notifications,
       (SELECT max(age(datfrozenxid)) FROM pg_database)::float8 / 1073741824 AS transaction_ids

-- name: database_ages
-- Seconds since the oldest transaction began, but those of pg_dump, with prepared ones; by how much the standby that is
-- furthest behind lags; and the most bytes of WAL that a slot holds back. 0 without any. Sessions of other roles count where
-- the role may read statistics (pg_read_all_stats).
SELECT greatest((SELECT extract(epoch FROM clock_timestamp() - min(xact_start)) FROM pg_stat_activity
                 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
                   AND application_name <> 'pg_dump'),
                (SELECT extract(epoch FROM clock_timestamp() - min(prepared)) FROM pg_prepared_xacts
                 WHERE database = current_database()), 0)::float8 AS oldest_transaction_s,
       (SELECT coalesce(max(extract(epoch FROM replay_lag)), 0) FROM pg_stat_replication)::float8 AS standby_lag_s,
       (SELECT coalesce(max(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                                 ELSE pg_current_wal_lsn() END, restart_lsn)), 0)
        FROM pg_replication_slots)::float8 AS slot_retained_bytes

-- name: database_size
-- A look at each of its files, so it is asked now and then.
SELECT pg_database_size(current_database())

-- name: archive_pending
-- Seconds since the end of the run that ended first of those not proven to be in cold storage; none is pending where
-- nothing is ever archived. Those that ended before `archived_all` are all there: it keeps this from being a scan.
SELECT extract(epoch FROM now() - r.finished_at)::float8
FROM runs AS r
WHERE r.finished_at IS NOT NULL AND r.finished_at >= (SELECT archived_all FROM archive_progress)
  AND ($1 OR EXISTS (SELECT FROM archive_batches))
  AND NOT EXISTS (SELECT FROM archived_runs AS a JOIN archive_batches AS b USING (batch_id)
                  WHERE a.run_id = r.run_id AND b.state IN ('verified', 'dropped'))
ORDER BY r.finished_at LIMIT 1

-- name: publishers
-- The time since the freshest heartbeat, NULL when no publisher ever ran; and how many are alive.
SELECT extract(epoch FROM clock_timestamp() - max(heartbeat_at))::float8 AS age_s,
       count(*) FILTER (WHERE heartbeat_at > now() - $1::real * interval '1 second') AS alive
FROM publishers

-- name: publishers_per_shard
-- How many live publishers say that they publish the same runs. One that knows no shards says so of all.
SELECT coalesce(max(n), 0) AS most
FROM (SELECT count(*) AS n
      FROM publisher_shards AS s JOIN publishers AS p ON p.shards IS NULL OR s.shard = ANY (p.shards)
      WHERE p.heartbeat_at > now() - $1::real * interval '1 second'
      GROUP BY s.shard) AS held

-- name: forget_publishers
DELETE FROM publishers WHERE heartbeat_at < now() - interval '1 day'

-- name: open_runs
-- A page of the open runs in which something happens, or the terminal event waits, in the order of their ids.
SELECT r.run_id, r.last_seq
FROM (SELECT run_id FROM run_outbox WHERE NOT parked AND run_id > $1 ORDER BY run_id LIMIT $2) AS o
JOIN runs AS r ON r.run_id = ANY (ARRAY[o.run_id])
ORDER BY r.run_id

-- name: closed_runs
-- A page of the runs that ended within the last ten minutes, from where the last page ended; `after` is of the last row.
SELECT run_id, last_seq, finished_at AS after FROM runs
WHERE finished_at > greatest($1::timestamptz, now() - interval '10 minutes')
ORDER BY finished_at LIMIT $2

-- name: all_runs
-- A page of all runs, in the order of their ids.
SELECT run_id, last_seq FROM runs WHERE run_id > $1 ORDER BY run_id LIMIT $2

-- name: audit_progress
-- How far the walk through all runs has come, and since when every run has been looked at.
SELECT after, begun_at, extract(epoch FROM clock_timestamp() - covered_since)::float8 AS covered_s FROM audit_progress

-- name: audit_advance
-- The walk goes on after run $3; empty where it has come to its end and begins anew. Only the observer that read where the
-- walk was ($1, $2) moves it, so another one's look is never taken for one at runs in between.
UPDATE audit_progress
SET after = $3,
    covered_since = CASE WHEN $3 = '' THEN begun_at ELSE covered_since END,
    begun_at = CASE WHEN $3 = '' THEN clock_timestamp() ELSE begun_at END
WHERE after = $1 AND begun_at = $2

-- name: known_findings
-- A page of what is known to be broken, acknowledged or not, in the order of the runs' ids.
SELECT run_id, invariant FROM audit_findings WHERE run_id > $1 ORDER BY run_id, invariant LIMIT $2

-- name: settle_findings
-- After a look at runs $1 for invariants $2 that found $3 with $4: forgets what is mended, keeps what is not, and returns
-- what nobody had found before. In one order, so that two observers do not wait for each other.
WITH found AS (
    SELECT f.run_id, f.invariant FROM unnest($3::text[], $4::text[]) AS f (run_id, invariant)
), mended AS (
    DELETE FROM audit_findings AS a
    USING (SELECT run_id, invariant FROM audit_findings AS k
           WHERE k.run_id = ANY ($1::text[]) AND k.invariant = ANY ($2::text[])
             AND NOT EXISTS (SELECT FROM found AS f WHERE f.run_id = k.run_id AND f.invariant = k.invariant)
           FOR UPDATE SKIP LOCKED) AS m
    WHERE a.run_id = m.run_id AND a.invariant = m.invariant
)
INSERT INTO audit_findings (run_id, invariant)
SELECT run_id, invariant FROM found ORDER BY run_id, invariant
ON CONFLICT DO NOTHING
RETURNING run_id, invariant

-- name: open_findings
-- Runs by the invariant that they break, without what somebody has acknowledged.
SELECT invariant, count(*) AS runs FROM audit_findings WHERE acknowledged_at IS NULL GROUP BY invariant

-- name: audit
-- For each run the invariants it breaks, in one snapshot: an append shows in its run, log and cursor or in none.
-- Not of runs that are proven to be in cold storage, whose rows may be gone: those are the archive's audit's.
SELECT s.run_id, v.invariant
FROM (
    SELECT r.run_id, r.state, r.last_seq, r.state IN ('finished', 'failed', 'cancelled') AS closed,
           e.events, e.first_seq, e.newest_seq, t.terminals, t.terminal_seq, o.next_seq
    FROM unnest($1::text[]) AS asked (run_id)
    JOIN runs AS r ON r.run_id = ANY (ARRAY[asked.run_id])
                  AND NOT EXISTS (SELECT FROM archived_runs AS a JOIN archive_batches AS b USING (batch_id)
                                  WHERE a.run_id = r.run_id AND b.state IN ('verified', 'dropped'))
    LEFT JOIN run_outbox AS o ON o.run_id = r.run_id
    CROSS JOIN LATERAL (
        -- From the primary key alone.
        SELECT count(*) AS events, min(seq) AS first_seq, max(seq) AS newest_seq
        FROM run_events WHERE run_day = r.run_day AND run_id = r.run_id
    ) AS e
    CROSS JOIN LATERAL (
        -- From the index of terminal events.
        SELECT count(*) AS terminals, max(seq) AS terminal_seq
        FROM run_events WHERE run_day = r.run_day AND run_id = r.run_id AND type = 'RunFinished'
    ) AS t
) AS s,
LATERAL (VALUES
    ('density', s.events <> s.last_seq OR coalesce(s.newest_seq, 0) <> s.last_seq
                OR (s.last_seq > 0 AND s.first_seq <> 1)),
    ('single_terminal', s.terminals <> s.closed::int OR (s.closed AND s.terminal_seq IS DISTINCT FROM s.last_seq)),
    ('published_prefix', NOT s.closed AND s.next_seq IS NULL),
    ('cursor_within_log', s.next_seq > s.last_seq + 1 OR (s.closed AND s.next_seq > s.last_seq))
) AS v (invariant, broken)
WHERE v.broken

-- name: diagnose
-- Everything the database knows of where a run is, in one snapshot.
SELECT r.run_id, r.agent, r.state::text AS state, r.external, r.attempt, r.fence, r.lease_owner,
       nullif(r.waiting_for, '') AS waiting_for, r.error_code,
       extract(epoch FROM clock_timestamp() - r.waiting_since)::float8 AS waiting_s,
       extract(epoch FROM r.wake_at - clock_timestamp())::float8 AS timer_left_s,
       (SELECT count(*) FROM run_signals AS s WHERE s.run_id = r.run_id AND s.taken_at IS NULL) AS signals,
       (SELECT extract(epoch FROM clock_timestamp() - min(greatest(s.sent_at, r.waiting_since)))::float8
        FROM run_signals AS s WHERE s.run_id = r.run_id AND s.taken_at IS NULL
          AND s.signal = ANY (string_to_array(r.waiting_for, ' '))) AS signalled_s,
       r.traceparent, r.last_seq, o.run_id IS NOT NULL AS has_cursor, coalesce(o.next_seq - 1, r.last_seq) AS published_seq,
       extract(epoch FROM clock_timestamp() - r.created_at)::float8 AS age_s,
       extract(epoch FROM r.lease_until - clock_timestamp())::float8 AS lease_left_s,
       extract(epoch FROM clock_timestamp() - r.cancel_requested_at)::float8 AS cancel_age_s,
       e.type AS last_type, e.label AS last_label, e.age_s AS last_age_s,
       u.age_s AS unpublished_age_s,
       c.next_node,
       b.node AS blocked_node, b.at AS blocked_at, b.blocked_s, b.worker_id AS blocked_worker,
       extract(epoch FROM clock_timestamp() - b.seen_at)::float8 AS blocked_age_s,
       coalesce(l.losses, 0) AS losses, coalesce(l.alone_s > 0 AND l.fence = r.fence AND NOT l.parked, false) AS suspect,
       (extract(epoch FROM clock_timestamp() - r.started_at) - r.waited_s)::float8 AS worked_s,
       r.run_day,
       EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = to_regclass('run_events') AND NOT i.inhdetachpending
               AND i.inhrelid = to_regclass('run_events_' || to_char(r.run_day, 'YYYYMMDD'))) AS has_partition,
       pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS read_only
FROM runs AS r
LEFT JOIN run_outbox AS o USING (run_id)
LEFT JOIN run_checkpoints AS c USING (run_id)
LEFT JOIN run_blocks AS b USING (run_id)
LEFT JOIN run_losses AS l USING (run_id)
LEFT JOIN LATERAL (
    SELECT type::text AS type, coalesce(name, fn) AS label,
           (extract(epoch FROM clock_timestamp()) - ts_us / 1e6)::float8 AS age_s
    FROM run_events WHERE run_day = r.run_day AND run_id = r.run_id ORDER BY seq DESC LIMIT 1) AS e ON true
LEFT JOIN LATERAL (
    SELECT (extract(epoch FROM clock_timestamp()) - ts_us / 1e6)::float8 AS age_s
    FROM run_events WHERE run_day = r.run_day AND run_id = r.run_id AND seq >= o.next_seq ORDER BY seq LIMIT 1) AS u ON true
WHERE r.run_id = $1

-- name: walkers
-- Of owner $1 whether it is a worker whose session is gone, and how many workers with agent $2 live. A worker holds a lock
-- while its session lasts; of an owner that is no known worker nothing is said.
SELECT coalesce(bool_or(w.worker_id = $1 AND NOT h.lives), false) AS owner_gone,
       count(*) FILTER (WHERE h.lives AND $2 = ANY (w.agents)) AS workers
FROM workers AS w
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT FROM pg_locks AS k
                   WHERE k.locktype = 'advisory' AND k.objsubid = 2 AND k.granted AND k.mode = 'ExclusiveLock'
                     AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                     AND k.classid::bigint = hashtext('runwire.workers')::bigint & 4294967295
                     AND k.objid::bigint = hashtext(w.worker_id)::bigint & 4294967295) AS lives) AS h
WHERE w.worker_id = $1::text OR $2::text = ANY (w.agents)

-- name: node_in_flight
-- The node that has started and not finished, with its age; none between two nodes.
SELECT name, seq, (extract(epoch FROM clock_timestamp()) - ts_us / 1e6)::float8 AS age_s, type::text AS type
FROM run_events
WHERE run_id = $1 AND run_day = (SELECT run_day FROM runs WHERE run_id = $1)
  AND type IN ('NodeStarted', 'NodeFinished')
ORDER BY seq DESC LIMIT 1

-- name: open_parts
-- The parts that the run's owner writes, with the time since their last bytes, or since the part's beginning.
SELECT p.n, p.attempt, p.size,
       (extract(epoch FROM clock_timestamp()) - coalesce(p.written_us, e.ts_us) / 1e6)::float8 AS quiet_s
FROM parts AS p JOIN runs AS r USING (run_id)
JOIN run_events AS e ON e.run_day = r.run_day AND e.run_id = r.run_id AND e.seq = p.opened_seq
WHERE p.run_id = $1 AND p.state = 'open' ORDER BY p.n LIMIT 20

-- name: last_error
SELECT fn FROM run_events
WHERE run_id = $1 AND run_day = (SELECT run_day FROM runs WHERE run_id = $1) AND fn LIKE 'error:%'
ORDER BY seq DESC LIMIT 1

-- name: publisher_health
SELECT publisher_id, failing_code,
       extract(epoch FROM clock_timestamp() - heartbeat_at)::float8 AS heartbeat_age_s,
       extract(epoch FROM clock_timestamp() - failing_since)::float8 AS failing_s
FROM publishers ORDER BY heartbeat_at DESC LIMIT 5

-- name: row_holders
-- Sessions of runwire that wait for a lock, and whom they wait for.
SELECT w.application_name AS waits, extract(epoch FROM clock_timestamp() - w.query_start)::float8 AS waited_s,
       b.pid AS held_by_pid, b.application_name AS held_by, b.state AS holder_state
FROM pg_stat_activity AS w
CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS blocking (pid)
JOIN pg_stat_activity AS b ON b.pid = blocking.pid
WHERE w.datname = current_database() AND w.application_name LIKE 'runwire %' AND w.wait_event_type = 'Lock'
ORDER BY waited_s DESC LIMIT 5

-- name: deaf_listeners
-- Connections that hear no notifications. Each says so by its session's name, which ends with its process.
SELECT split_part(application_name, ' of ', 1) AS listener, split_part(application_name, ' of ', 2) AS process,
       client_addr::text AS address
FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE $1 || ' %'
ORDER BY backend_start LIMIT 5

-- name: cursor_holder
-- The session that has locked the run's cursor: xmax of the row is its transaction. `pid` is NULL for a prepared one. No
-- row: the lock is gone, or several sessions share it.
SELECT l.pid, coalesce(a.application_name, '') AS held_by, a.state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS held_s
FROM run_outbox AS o
JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.transactionid = o.xmax
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE o.run_id = $1
LIMIT 1

-- name: outbox_is_free
-- No row: another session has locked the cursor, or there is none.
SELECT run_id FROM run_outbox WHERE run_id = $1 FOR UPDATE SKIP LOCKED
