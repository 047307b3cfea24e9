-- name: place
-- The number that a part of this name gets, and its attempt: the newest part of the name is begun again unless it was
-- sealed. Its run's fence holder is the only one who asks. `used` is what its tenant has stored, open parts among it; it
-- is counted only where there is a bound.
SELECT coalesce(again.n, (SELECT coalesce(max(n), 0) + 1 FROM parts WHERE run_id = $1)) AS n,
       coalesce(again.attempt + 1, 1) AS attempt,
       (again.state = 'open') IS TRUE AS is_open,
       (SELECT count(*) FROM parts WHERE run_id = $1) AS parts,
       (SELECT count(*) FROM parts WHERE run_id = $1 AND state = 'open') AS open,
       (SELECT tenant FROM runs WHERE run_id = $1) AS tenant,
       CASE WHEN $3::bigint > 0 THEN
           (SELECT coalesce(sum(u.bytes), 0) FROM content_usage AS u JOIN runs AS r USING (tenant) WHERE r.run_id = $1)
           + (SELECT coalesce(sum(o.size), 0) FROM parts AS o JOIN runs AS r USING (tenant)
              WHERE r.run_id = $1 AND o.state = 'open')
       END::bigint AS used
FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
    SELECT n, attempt, state FROM (
        SELECT n, attempt, state FROM parts WHERE run_id = $1 AND name = $2 ORDER BY n DESC LIMIT 1
    ) AS newest WHERE state <> 'sealed'
) AS again ON true

-- name: forget
-- The bytes of an attempt that is begun again.
DELETE FROM part_chunks WHERE part_id = (SELECT part_id FROM parts WHERE run_id = $1 AND n = $2)

-- name: open
-- A new part, or a new attempt of one, in the transaction of the event that opens it. Another attempt than the caller
-- expects breaks the key.
INSERT INTO parts AS p (run_id, n, attempt, name, media_type, opened_seq, tail) VALUES ($1, $2, $3, $4, $5, $6, '')
ON CONFLICT (run_id, n) DO UPDATE SET
    part_id = DEFAULT, attempt = excluded.attempt, media_type = excluded.media_type, state = 'open', size = 0,
    row_at = 0, tail = '', opened_seq = excluded.opened_seq, ended_seq = NULL, written_us = NULL, erased_at = NULL
WHERE p.attempt = excluded.attempt - 1 AND p.state <> 'sealed'
RETURNING part_id

-- name: write
-- Bytes for the ends of parts, all or nothing for each part; one that is not returned was refused. `at` is the size that
-- the writer believes in, so that a repeat stores nothing twice; NULL takes any. The part's row is locked: a claim that
-- raises the run's fence meanwhile comes after this write, because its holder touches the part before it does anything
-- else with it. The bytes join the part's tail. Of a tail that is long enough, `whole` bytes become a row of chunks, a
-- multiple of 972: eight such rows fill a page. A tail that another write changed meanwhile waits for the next write,
-- and the size tells: no two states of an attempt have the same.
-- `ages`: an external run's lease has less than half of its time left.
WITH written AS (
    SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[])
        AS w (i, part_id, fence, at, bytes)
), clock AS (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us
), granted AS (
    UPDATE parts AS p SET
        size = p.size + octet_length(w.bytes),
        row_at = p.size - octet_length(coalesce(p.tail, '')) + CASE WHEN f.size = p.size THEN f.whole ELSE 0 END,
        tail = CASE WHEN f.size = p.size THEN substr(f.bytes, f.whole + 1) ELSE coalesce(p.tail, '') || w.bytes END,
        written_us = clock.us
    FROM written AS w LEFT JOIN LATERAL (
        SELECT q.size, coalesce(q.tail, '') || w.bytes AS bytes,
               (octet_length(coalesce(q.tail, '')) + octet_length(w.bytes)) / 972 * 972 AS whole
        FROM parts AS q
        WHERE q.part_id = w.part_id AND octet_length(coalesce(q.tail, '')) + octet_length(w.bytes) >= 972
        OFFSET 0
    ) AS f ON true, clock
    WHERE p.part_id = ANY (ARRAY[w.part_id]) AND p.state = 'open' AND (w.at IS NULL OR p.size = w.at)
      -- Not a join: a plan made while there were few runs would go through all that are active, for each part.
      AND w.fence = (SELECT CASE WHEN r.state IN ('pending', 'started') THEN r.fence END FROM runs AS r
                     WHERE r.run_id = ANY (ARRAY[p.run_id::text]))
    RETURNING w.i, p.part_id, p.size - octet_length(w.bytes) AS at, p.written_us, p.row_at,
              CASE WHEN f.size = p.size - octet_length(w.bytes) THEN substr(f.bytes, 1, f.whole) END AS row_bytes,
              (SELECT r.external AND r.lease_until < now() + r.lease_s * 0.5 * interval '1 second' FROM runs AS r
               WHERE r.run_id = ANY (ARRAY[p.run_id::text])) AS ages
), added AS (
    INSERT INTO part_chunks (part_id, at, bytes)
    SELECT part_id, row_at - octet_length(row_bytes), row_bytes FROM granted WHERE row_bytes IS NOT NULL
)
SELECT i, at, written_us, ages FROM granted

-- name: usage
-- The bytes that tenants have stored, open parts among them.
SELECT t.tenant, (coalesce((SELECT sum(u.bytes) FROM content_usage AS u WHERE u.tenant = t.tenant), 0)
       + coalesce((SELECT sum(o.size) FROM parts AS o WHERE o.tenant = t.tenant AND o.state = 'open'), 0))::bigint AS used
FROM unnest($1::text[]) AS t (tenant)

-- name: renew
-- The lease of an external run, as an append renews it.
UPDATE runs SET lease_until = now() + lease_s * interval '1 second'
WHERE run_id = $1 AND fence = $2 AND external AND state IN ('pending', 'started') AND lease_until IS NOT NULL

-- name: refused
-- Parts as they are now, to say why a write was refused.
SELECT p.part_id, p.state::text AS state, p.size, p.written_us, r.fence, r.last_seq, r.state::text AS run_state
FROM parts AS p JOIN runs AS r USING (run_id) WHERE p.part_id = ANY ($1::bigint[])

-- name: end
-- Seals or abandons attempts, in the transaction of the events that say so. Fewer rows than asked for: another owner of
-- the run was faster, or bytes are missing. A part that became an artifact keeps no bytes: `forget_bytes` follows.
UPDATE parts AS p SET
    state = e.state::part_state, ended_seq = e.seq, artifact = e.artifact,
    row_at = CASE WHEN e.artifact IS NULL THEN p.row_at ELSE p.size END,
    tail = CASE WHEN e.artifact IS NULL THEN p.tail ELSE '' END
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::int[]) AS e (part_id, state, seq, size, artifact)
WHERE p.part_id = e.part_id AND p.state = 'open' AND (e.size IS NULL OR p.size = e.size)
RETURNING p.part_id

-- name: forget_bytes
-- The rows of parts whose bytes are elsewhere, or gone.
DELETE FROM part_chunks WHERE part_id = ANY ($1::bigint[])

-- name: end_left
-- Parts that were open when their run ended. Their run is over, so no byte follows: its last event ended them.
UPDATE parts AS p SET state = 'abandoned', ended_seq = due.last_seq
FROM (SELECT o.part_id, r.last_seq FROM parts AS o JOIN runs AS r ON r.run_id = ANY (ARRAY[o.run_id::text])
      WHERE o.state = 'open' AND r.state IN ('finished', 'failed', 'cancelled')
      LIMIT $1 FOR UPDATE OF o SKIP LOCKED) AS due
WHERE p.part_id = ANY (ARRAY[due.part_id])
RETURNING p.part_id

-- name: expire
-- Bytes of parts without an artifact, of runs that ended before the limit. Those with one end with it.
WITH due AS MATERIALIZED (
    SELECT p.part_id FROM parts AS p JOIN runs AS r ON r.run_id = ANY (ARRAY[p.run_id::text])
    WHERE p.artifact IS NULL AND p.erased_at IS NULL AND p.state <> 'open'
      AND p.opened_at < now() - $1::int * interval '1 day' AND r.finished_at < now() - $1::int * interval '1 day'
    ORDER BY p.opened_at LIMIT $2 FOR UPDATE OF p SKIP LOCKED
), erased AS (
    UPDATE parts AS p SET erased_at = now(), row_at = p.size, tail = '' FROM due
    WHERE p.part_id = ANY (ARRAY[due.part_id]) RETURNING p.part_id
), gone AS (
    DELETE FROM part_chunks AS c USING erased WHERE c.part_id = ANY (ARRAY[erased.part_id])
)
SELECT part_id FROM erased

-- name: erase
-- The bytes of one part without an artifact are gone from here on: `forget_bytes` follows in the same transaction, and
-- sees what was written until this one locked the row. Nothing while the part is open and its run goes on.
UPDATE parts AS p
SET erased_at = now(), row_at = p.size, tail = '', state = CASE p.state WHEN 'open' THEN 'abandoned' ELSE p.state END,
    ended_seq = coalesce(p.ended_seq, r.last_seq)
FROM runs AS r
WHERE p.run_id = $1 AND p.n = $2 AND r.run_id = p.run_id AND p.artifact IS NULL AND p.erased_at IS NULL
  AND (p.state <> 'open' OR r.state IN ('finished', 'failed', 'cancelled'))
RETURNING p.part_id

-- name: left_open
-- The parts that an earlier owner of the run has left open.
SELECT n, part_id, name FROM parts WHERE run_id = $1 AND state = 'open' ORDER BY n

-- name: of_run
SELECT p.run_id, p.n, p.part_id, p.attempt, p.name, p.media_type, p.state::text AS state, p.size, p.opened_seq,
       p.ended_seq, p.written_us, p.artifact,
       p.erased_at IS NOT NULL OR EXISTS (
           SELECT FROM artifacts AS a WHERE a.run_id = p.run_id AND a.n = p.artifact AND a.erased_at IS NOT NULL) AS erased,
       p.tenant, r.state::text AS run_state, r.external
FROM parts AS p JOIN runs AS r USING (run_id)
WHERE p.run_id = $1 AND ($2::int IS NULL OR p.n = $2) ORDER BY p.n

-- name: read
-- One part and its bytes from an offset on, from one snapshot: those of rows that begin within the limit, and no more of
-- one row than the limit; the tail is the last row. A write of many bytes is one row, and most reads want few.
SELECT p.run_id, p.n, p.part_id, p.attempt, p.name, p.media_type, p.state::text AS state, p.size, p.opened_seq,
       p.ended_seq, p.written_us, p.artifact,
       p.erased_at IS NOT NULL OR EXISTS (
           SELECT FROM artifacts AS a WHERE a.run_id = p.run_id AND a.n = p.artifact AND a.erased_at IS NOT NULL) AS erased,
       p.tenant, r.state::text AS run_state, r.external, c.at, c.bytes
FROM parts AS p JOIN runs AS r USING (run_id)
LEFT JOIN LATERAL (
    SELECT greatest(b.at, $3) AS at, substr(b.bytes, (greatest($3 - b.at, 0) + 1)::int, $5::int) AS bytes
    FROM (
        SELECT c.at, c.bytes FROM part_chunks AS c
        WHERE c.part_id = p.part_id AND $3::bigint < p.size - octet_length(coalesce(p.tail, '')) AND c.at < $3 + $5
          AND c.at >= coalesce((SELECT max(f.at) FROM part_chunks AS f WHERE f.part_id = p.part_id AND f.at <= $3), 0)
        UNION ALL
        SELECT p.row_at, p.tail WHERE p.tail <> '' AND $3 < p.size AND p.row_at < $3 + $5
    ) AS b
    ORDER BY b.at LIMIT $4
) AS c ON true
WHERE p.run_id = $1 AND p.n = $2
ORDER BY c.at

-- name: beyond
-- Bytes of attempts from an offset on, of many in one statement and from one snapshot: as in `read`.
SELECT w.i, p.size, p.written_us, c.bytes
FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS w (i, part_id, at)
JOIN parts AS p ON p.part_id = ANY (ARRAY[w.part_id]) AND p.size > w.at
CROSS JOIN LATERAL (
    SELECT string_agg(substr(b.bytes, (greatest(w.at - b.at, 0) + 1)::int, $4::int), ''::bytea ORDER BY b.at) AS bytes
    FROM (
        SELECT c.at, c.bytes FROM part_chunks AS c
        WHERE c.part_id = p.part_id AND w.at < p.size - octet_length(coalesce(p.tail, '')) AND c.at < w.at + $4
          AND c.at >= coalesce((SELECT max(f.at) FROM part_chunks AS f WHERE f.part_id = p.part_id AND f.at <= w.at), 0)
        UNION ALL
        SELECT p.row_at, p.tail WHERE p.tail <> '' AND p.row_at < w.at + $4
    ) AS b
) AS c
WHERE c.bytes IS NOT NULL

-- name: run
SELECT FROM runs WHERE run_id = $1
