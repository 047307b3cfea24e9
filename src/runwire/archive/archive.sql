-- name: lock
-- Whether this session is the archiver: one at a time writes, drops and restores. Asked before each step, since a
-- session that was lost has lost its lock, too.
SELECT EXISTS (SELECT FROM pg_locks
               WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted AND objsubid = 1
                 AND ((classid::bigint << 32) | objid::bigint) = $1)
       OR pg_try_advisory_lock($1) AS held

-- name: pending
-- The runs that finished longest ago and are in no batch, of those that finished before the limit.
SELECT r.run_id, r.run_day, r.tenant, r.agent, r.state::text AS state, r.last_seq, r.session, r.labels
FROM runs AS r
WHERE r.finished_at >= (SELECT archived_all FROM archive_progress) AND r.finished_at IS NOT NULL
  AND r.finished_at < now() - $1::int * interval '1 day'
  AND NOT EXISTS (SELECT FROM archived_runs AS a WHERE a.run_id = r.run_id)
  AND NOT EXISTS (SELECT FROM run_outbox AS o WHERE o.run_id = r.run_id)
  AND r.run_id <> ALL ($2::text[])
ORDER BY r.finished_at
LIMIT $3

-- name: pending_of_day
-- The same of one day.
SELECT r.run_id, r.run_day, r.tenant, r.agent, r.state::text AS state, r.last_seq, r.session, r.labels
FROM runs AS r
WHERE r.finished_at >= (SELECT archived_all FROM archive_progress) AND r.finished_at IS NOT NULL
  AND r.finished_at < now() - $1::int * interval '1 day'
  AND r.run_day = $4
  AND NOT EXISTS (SELECT FROM archived_runs AS a WHERE a.run_id = r.run_id)
  AND NOT EXISTS (SELECT FROM run_outbox AS o WHERE o.run_id = r.run_id)
  AND r.run_id <> ALL ($2::text[])
ORDER BY r.finished_at
LIMIT $3

-- name: advance
-- Nothing that finished before this moment is looked at again: up to the oldest run that is in no verified batch.
UPDATE archive_progress AS p SET archived_all = greatest(p.archived_all, coalesce(
    (SELECT r.finished_at FROM runs AS r
     WHERE r.finished_at >= (SELECT archived_all FROM archive_progress) AND r.finished_at IS NOT NULL
       AND NOT EXISTS (SELECT FROM archived_runs AS a JOIN archive_batches AS b USING (batch_id)
                       WHERE a.run_id = r.run_id AND b.state IN ('verified', 'dropped'))
     ORDER BY r.finished_at LIMIT 1),
    now() - $1::int * interval '1 day'))

-- name: unfinished
-- Batches that were left half done, oldest first.
SELECT batch_id, run_day, state::text AS state, path, runs, events, bytes, sha256, begun_at, keep_until
FROM archive_batches WHERE state IN ('writing', 'written') ORDER BY batch_id

-- name: batches
SELECT batch_id, run_day, state::text AS state, path, runs, events, bytes, sha256, begun_at, keep_until
FROM archive_batches
WHERE ($1::text IS NULL OR batch_id = $1) AND ($2::date IS NULL OR run_day = $2)
ORDER BY run_day, batch_id

-- name: proven
-- The proven batches of each day that had one proven lately.
SELECT batch_id, run_day, state::text AS state, path, runs, events, bytes, sha256, begun_at, keep_until
FROM archive_batches
WHERE state IN ('verified', 'dropped')
  AND run_day IN (SELECT run_day FROM archive_batches WHERE verified_at > now() - $1::int * interval '1 day')

-- name: begin
INSERT INTO archive_batches (batch_id, run_day, path, format) VALUES ($1, $2, $3, $4)

-- name: attempt
-- From here on the batch is this attempt's: an earlier one, whose archiver lost its lock, can record nothing any more.
UPDATE archive_batches SET path = $2 WHERE batch_id = $1 AND state = 'writing' RETURNING batch_id

-- name: give_up
-- A batch nothing was recorded of.
DELETE FROM archive_batches WHERE batch_id = $1 AND state = 'writing' AND path = $2

-- name: events
-- The logs of some runs of one day, each in order.
SELECT run_id, seq, ts_us, type::text AS type, source::text AS source, name, fn
FROM run_events
WHERE run_day = $1 AND run_id = ANY ($2::text[]) AND seq > $3
ORDER BY run_id, seq
LIMIT $4

-- name: record_batch
UPDATE archive_batches SET state = 'written', runs = $2, events = $3, bytes = $4, sha256 = $5
WHERE batch_id = $1 AND state = 'writing' AND path = $6
RETURNING batch_id

-- name: record_runs
INSERT INTO archived_runs (run_id, batch_id, begins, frames, events, chain, terminal_ts_us, terminal_source)
SELECT r.run_id, $1, r.begins, string_to_array(r.frames, ' ')::int[], r.events, r.chain, r.ts_us, r.source::event_source
FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bytea[], $7::bigint[], $8::text[])
    AS r (run_id, begins, frames, events, chain, ts_us, source)

-- name: places_of_batch
SELECT a.run_id, a.batch_id, b.path, b.run_day, a.begins, a.frames, a.events, a.chain, a.terminal_ts_us,
       a.terminal_source::text AS terminal_source, b.state::text AS state
FROM archived_runs AS a JOIN archive_batches AS b USING (batch_id)
WHERE a.batch_id = $1
ORDER BY a.begins

-- name: place
-- Where a run's log is in cold storage, once that was proven.
SELECT a.run_id, a.batch_id, b.path, b.run_day, a.begins, a.frames, a.events, a.chain, a.terminal_ts_us,
       a.terminal_source::text AS terminal_source, b.state::text AS state
FROM archived_runs AS a JOIN archive_batches AS b USING (batch_id)
WHERE a.run_id = $1 AND b.state IN ('verified', 'dropped')

-- name: next_places
-- A page of archived runs in the order of their ids, for the audit's round.
SELECT a.run_id, a.batch_id, b.path, b.run_day, a.begins, a.frames, a.events, a.chain, a.terminal_ts_us,
       a.terminal_source::text AS terminal_source, b.state::text AS state
FROM archived_runs AS a JOIN archive_batches AS b USING (batch_id)
WHERE a.run_id > $1 AND b.state IN ('verified', 'dropped')
ORDER BY a.run_id LIMIT $2

-- name: forget_runs
-- A batch that could not be proven is written anew: what was recorded of it goes.
DELETE FROM archived_runs AS a USING archive_batches AS b
WHERE a.batch_id = $1 AND b.batch_id = $1 AND b.state = 'written'

-- name: write_again
UPDATE archive_batches SET state = 'writing', sha256 = NULL, runs = 0, events = 0, bytes = 0
WHERE batch_id = $1 AND state = 'written'

-- name: mark_verified
-- Only what was read back: a batch that was written anew meanwhile is not.
UPDATE archive_batches SET state = 'verified', verified_at = now()
WHERE batch_id = $1 AND state = 'written' AND sha256 = $2
RETURNING batch_id

-- name: today
SELECT (now() AT TIME ZONE 'UTC')::date

-- name: due
-- Runs and events that are due for the archive, by day, up to a limit of runs.
SELECT run_day, count(*) AS runs, sum(last_seq)::bigint AS events
FROM (SELECT r.run_day, r.last_seq
      FROM runs AS r
      WHERE r.finished_at >= (SELECT archived_all FROM archive_progress) AND r.finished_at IS NOT NULL
        AND r.finished_at < now() - $1::int * interval '1 day'
        AND NOT EXISTS (SELECT FROM archived_runs AS a WHERE a.run_id = r.run_id)
        AND NOT EXISTS (SELECT FROM run_outbox AS o WHERE o.run_id = r.run_id)
      ORDER BY r.finished_at
      LIMIT $2) AS due
GROUP BY run_day
ORDER BY run_day

-- name: days_with_batches
-- Days of which something is proven to be in cold storage and that are not to be kept any longer.
SELECT run_day, bool_or(state = 'verified') AS marked_hot
FROM archive_batches
GROUP BY run_day
HAVING bool_or(state IN ('verified', 'dropped')) AND coalesce(max(keep_until) < now(), true)
ORDER BY run_day

-- name: kept
-- The runs that keep a day: a hint, which dropping and shrinking check again under their locks.
SELECT run_id, sum(events)::bigint AS events, max(archived) AS archived FROM kept_events($1) GROUP BY run_id

-- name: hot_archived
-- Whether a day's partition has any events that are in cold storage, too.
SELECT EXISTS (SELECT FROM run_events AS e JOIN archived_runs AS a USING (run_id) WHERE e.run_day = $1 AND e.seq = 1)

-- name: mark_dropped
-- Content of its runs that is in PostgreSQL is looked for from here on, also when it was before: the batch may have been
-- restored while other runs with the same content left.
UPDATE archive_batches SET state = 'dropped', dropped_at = now(), content_left = true
WHERE run_day = $1 AND state = 'verified'
RETURNING batch_id

-- name: put_back
-- Events of whole runs, back in the log; those that are there already stay as they are.
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)
SELECT $1, e.run_id, e.seq, e.ts_us, e.type::event_type, e.source::event_source, e.name, e.fn
FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[])
    AS e (run_id, seq, ts_us, type, source, name, fn)
ON CONFLICT DO NOTHING

-- name: keep
-- Restored rows stay for a while.
UPDATE archive_batches SET keep_until = greatest(keep_until, now() + $2::int * interval '1 day') WHERE batch_id = $1

-- name: mark_restored
UPDATE archive_batches SET state = 'verified' WHERE batch_id = $1 AND state = 'dropped'
