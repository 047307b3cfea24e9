-- name: store
-- Checkpoints of streams, of many clients in one statement. An id may name one as soon as this is committed. Returns the
-- keys that were free.
INSERT INTO stream_checkpoints (key, tenant, selector, since_us, roster, runs, joined, past, positions)
SELECT c.key, c.tenant, c.selector, c.since_us, c.roster, string_to_array(c.runs, ' '), string_to_array(c.joined, ' '),
       string_to_array(c.past, ' '), c.positions
FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[],
            $9::bytea[]) AS c (key, tenant, selector, since_us, roster, runs, joined, past, positions)
ON CONFLICT (key) DO NOTHING RETURNING key

-- name: load
-- A checkpoint, with the list of its runs, wherever that is stored.
SELECT c.selector, c.since_us, c.positions, r.runs || coalesce(c.joined, '{}') AS runs, coalesce(r.past, '{}') AS past
FROM stream_checkpoints AS c JOIN stream_checkpoints AS r ON r.key = coalesce(c.roster, c.key) AND r.tenant = c.tenant
WHERE c.key = $1 AND c.tenant = $2 AND r.runs IS NOT NULL

-- name: collect
-- Keys begin with their time. A list of runs stays longer than the checkpoints that refer to it.
DELETE FROM stream_checkpoints WHERE key IN (
    SELECT key FROM stream_checkpoints WHERE key < $1 AND (runs IS NULL OR key < $2) ORDER BY key LIMIT $3
)

-- name: members
-- Where the runs of a list are: how far their logs go, and when they were created.
SELECT run_id, state::text AS state, last_seq, (extract(epoch FROM created_at) * 1000000)::bigint AS created_us
FROM runs WHERE run_id = ANY ($1::text[])

-- name: fresh
-- The runs of these tenants that were created within the last $2 seconds and are in one of the sessions, or have one of
-- the labels' keys: for all streams of a process at once. While nothing starts it reads one page of an index.
SELECT r.run_id, r.tenant, r.session, r.labels::text AS labels,
       (extract(epoch FROM r.created_at) * 1000000)::bigint AS created_us
FROM unnest($1::text[]) AS t (tenant) CROSS JOIN LATERAL (
    SELECT run_id, f.tenant::text AS tenant, session::text AS session, labels, created_at FROM runs AS f
    WHERE f.tenant = t.tenant AND f.created_at >= now() - $2::float8 * interval '1 second'
      AND (f.session = ANY ($3::text[]) OR f.labels ?| $4::text[])
    ORDER BY f.created_at DESC, f.run_id DESC LIMIT $5
) AS r
ORDER BY r.created_at, r.run_id

-- name: found
-- The latest runs of a session or with labels, created at $4 or later.
SELECT f.id AS run_id, (extract(epoch FROM f.at) * 1000000)::bigint AS created_us
FROM find_runs($1, false, $2, $3::jsonb, NULL, NULL, NULL, to_timestamp(0) + $4::bigint * interval '1 microsecond',
               NULL, 'infinity', '', $5, $6) AS f
WHERE f.matched
