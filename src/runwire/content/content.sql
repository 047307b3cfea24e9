-- name: room
-- The run's and its tenant's use of content, for the limits, and the newest artifact of that name. The sum of the slots is exact.
-- Open parts count where there is a bound, but for the one that becomes this artifact.
SELECT r.artifacts,
       (SELECT coalesce(sum(u.bytes), 0)::bigint FROM content_usage AS u WHERE u.tenant = r.tenant)
       + CASE WHEN $3::bigint > 0 THEN
           (SELECT coalesce(sum(o.size), 0)::bigint FROM parts AS o
            WHERE o.tenant = r.tenant AND o.state = 'open' AND NOT (o.run_id = $1 AND o.n = $4))
       ELSE 0 END AS used,
       a.n, a.media_type, a.size, a.sha256, a.seq
FROM runs AS r LEFT JOIN LATERAL (
    SELECT * FROM artifacts AS a WHERE a.run_id = r.run_id AND a.name = $2 ORDER BY a.n DESC LIMIT 1
) AS a ON true
WHERE r.run_id = $1

-- name: owner
-- The owner of a run, looked at before an upload, to refuse it early. The append itself decides.
SELECT external, state::text AS state, fence, last_seq FROM runs WHERE run_id = $1

-- name: begin_upload
-- Comes before the object, so that one which is left behind is found. Returns nothing when there is no such run.
INSERT INTO content_objects (object, tenant, size) SELECT $1, tenant, $3 FROM runs WHERE run_id = $2 RETURNING tenant

-- name: uploaded
-- The object is in the store, and its note still stands: the grace counts from here. No row: it took longer than that.
UPDATE content_objects SET begun_at = clock_timestamp() WHERE object = $1 AND NOT condemned RETURNING object

-- name: disown
-- An object that nothing refers to, and that may have come after the collector deleted it, is deleted once more.
-- `begun_at` changes, so a collector that deleted it before does not take the note away.
INSERT INTO content_objects AS o (object, tenant, size, condemned) VALUES ($1, $2, $3, true)
ON CONFLICT (object) DO UPDATE SET condemned = true, begun_at = clock_timestamp()

-- name: refer
-- An artifact, and the bytes that it names, in the transaction that appends its event. The tenant is the run's, whoever
-- asks. No row: the upload was collected meanwhile. An object of bytes that the tenant has already stays unreferred to.
WITH run AS (
    SELECT tenant FROM runs WHERE run_id = $1
), held AS MATERIALIZED (
    SELECT object FROM content_objects WHERE object = $9 AND NOT condemned FOR UPDATE
), stored AS (
    INSERT INTO content_blobs AS b (tenant, sha256, size, data, object)
    SELECT run.tenant, $7, $6, $8, $9 FROM run WHERE $9::text IS NULL OR EXISTS (SELECT FROM held)
    -- Written even when it is there: so the collector, which looks at released_at again under the row's lock, leaves it.
    ON CONFLICT (tenant, sha256) DO UPDATE SET used_at = now(), released_at = NULL
    RETURNING b.tenant, b.sha256, b.object
), released AS (
    DELETE FROM content_objects AS o USING stored WHERE o.object = stored.object
)
INSERT INTO artifacts (run_id, n, tenant, name, media_type, size, sha256, seq)
SELECT $1, $2, stored.tenant, $4, $5, $6, stored.sha256, $3 FROM stored
RETURNING n

-- name: list
-- A run's artifacts that are told of: those whose events are stored. Nothing when there is no such run.
SELECT r.run_id, a.n, a.name, a.media_type, a.size, a.sha256, a.seq,
       floor(extract(epoch FROM a.created_at) * 1000)::bigint AS created_at,
       floor(extract(epoch FROM a.erased_at) * 1000)::bigint AS erased_at
FROM runs AS r LEFT JOIN artifacts AS a USING (run_id)
WHERE r.run_id = $1 AND ($2::text IS NULL OR a.run_id IS NULL OR a.name = $2)
ORDER BY a.n

-- name: locate
-- An artifact, and where its bytes are; `present` tells a run without it from no run.
SELECT r.run_id, a.n, a.name, a.media_type, a.size, a.sha256, a.seq,
       floor(extract(epoch FROM a.created_at) * 1000)::bigint AS created_at,
       floor(extract(epoch FROM a.erased_at) * 1000)::bigint AS erased_at,
       b.data, b.object
FROM runs AS r
LEFT JOIN artifacts AS a ON a.run_id = r.run_id AND a.n = $2
LEFT JOIN content_blobs AS b ON b.tenant = a.tenant AND b.sha256 = a.sha256
WHERE r.run_id = $1

-- name: locate_newest
-- The same of the newest artifact of a name.
SELECT r.run_id, a.n, a.name, a.media_type, a.size, a.sha256, a.seq,
       floor(extract(epoch FROM a.created_at) * 1000)::bigint AS created_at,
       floor(extract(epoch FROM a.erased_at) * 1000)::bigint AS erased_at,
       b.data, b.object
FROM runs AS r
LEFT JOIN LATERAL (
    SELECT * FROM artifacts AS a WHERE a.run_id = r.run_id AND a.name = $2 ORDER BY a.n DESC LIMIT 1
) AS a ON true
LEFT JOIN content_blobs AS b ON b.tenant = a.tenant AND b.sha256 = a.sha256
WHERE r.run_id = $1

-- name: erase
-- A tombstone: the number stays taken, and nothing says what the bytes were. Erased twice it is erased once.
UPDATE artifacts AS a SET sha256 = NULL, erased_at = now()
FROM (SELECT run_id, n, tenant, sha256 FROM artifacts WHERE run_id = $1 AND n = $2 FOR UPDATE) AS was
WHERE a.run_id = was.run_id AND a.n = was.n AND a.sha256 IS NOT NULL
RETURNING was.tenant, was.sha256

-- name: drop_blob
-- Bytes that nothing refers to any more, at once. The foreign key refuses it while something does.
WITH gone AS (
    DELETE FROM content_blobs AS b
    WHERE b.tenant = $1 AND b.sha256 = $2
      AND NOT EXISTS (SELECT FROM artifacts AS a WHERE a.tenant = b.tenant AND a.sha256 = b.sha256)
    RETURNING b.tenant, b.object, b.size
)
INSERT INTO content_objects (object, tenant, size, condemned)
SELECT object, tenant, size, true FROM gone WHERE object IS NOT NULL
RETURNING object, begun_at

-- name: expire
-- Artifacts of runs that ended before the limit become tombstones.
WITH due AS (
    SELECT a.run_id, a.n FROM artifacts AS a JOIN runs AS r ON r.run_id = ANY (ARRAY[a.run_id])
    WHERE a.sha256 IS NOT NULL AND a.created_at < now() - $1::int * interval '1 day'
      AND r.finished_at < now() - $1::int * interval '1 day'
    ORDER BY a.created_at LIMIT $2 FOR UPDATE OF a SKIP LOCKED
)
UPDATE artifacts AS a SET sha256 = NULL, erased_at = now() FROM due WHERE a.run_id = due.run_id AND a.n = due.n
RETURNING a.run_id

-- name: collect_blobs
-- Bytes that lost their last artifact and got none for the grace go. Of those that have another one, only the mark goes.
-- `released_at` is looked at again under the row's lock: it is another one when an artifact came or went meanwhile.
WITH released AS MATERIALIZED (
    SELECT tenant, sha256, released_at FROM content_blobs
    WHERE released_at < now() - $1::float8 * interval '1 second'
    ORDER BY released_at LIMIT $2
), held AS MATERIALIZED (
    SELECT b.tenant, b.sha256,
           EXISTS (SELECT FROM artifacts AS a WHERE a.tenant = b.tenant AND a.sha256 = b.sha256) AS used
    FROM released AS r JOIN content_blobs AS b ON b.tenant = r.tenant AND b.sha256 = r.sha256
    WHERE b.released_at = r.released_at
    FOR UPDATE OF b SKIP LOCKED
), gone AS (
    DELETE FROM content_blobs AS b USING held AS h
    WHERE b.tenant = h.tenant AND b.sha256 = h.sha256 AND NOT h.used
    RETURNING b.tenant, b.object, b.size
), condemned AS (
    INSERT INTO content_objects (object, tenant, size, condemned)
    SELECT object, tenant, size, true FROM gone WHERE object IS NOT NULL
), kept AS (
    UPDATE content_blobs AS b SET released_at = NULL FROM held AS h
    WHERE b.tenant = h.tenant AND b.sha256 = h.sha256 AND h.used
    RETURNING b.tenant, b.sha256, b.data IS NOT NULL AS inline
), again AS (
    -- The artifact that went may have been the one that kept the bytes in PostgreSQL.
    UPDATE archive_batches AS g SET content_left = true
    FROM kept AS k JOIN artifacts AS a ON a.tenant = k.tenant AND a.sha256 = k.sha256
    JOIN archived_runs AS r ON r.run_id = a.run_id
    WHERE k.inline AND g.batch_id = r.batch_id AND g.state = 'dropped' AND NOT g.content_left
)
SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM kept) AS kept

-- name: condemn
-- Uploads that were left behind: from here on no artifact can be made of them.
UPDATE content_objects AS o SET condemned = true
FROM (SELECT object FROM content_objects
      WHERE NOT condemned AND begun_at < now() - $1::float8 * interval '1 second'
      LIMIT $2 FOR UPDATE SKIP LOCKED) AS late
WHERE o.object = late.object
RETURNING o.object

-- name: condemned
SELECT object, begun_at FROM content_objects WHERE condemned ORDER BY begun_at LIMIT $1

-- name: forget_objects
-- After they were deleted in the store. One that was disowned since has another time.
DELETE FROM content_objects AS o USING unnest($1::text[], $2::timestamptz[]) AS d (object, begun_at)
WHERE o.object = d.object AND o.begun_at = d.begun_at AND o.condemned

-- name: batch_to_move
-- The batch of archived runs that has left the log for longest, of those that may have content in PostgreSQL.
SELECT batch_id FROM archive_batches WHERE state = 'dropped' AND content_left ORDER BY dropped_at LIMIT 1

-- name: to_move
-- Bytes in PostgreSQL of runs of the batch, and of no run whose log is not in cold storage.
SELECT b.tenant, b.sha256, b.size, b.data
FROM archived_runs AS m JOIN artifacts AS a ON a.run_id = m.run_id
JOIN content_blobs AS b ON b.tenant = a.tenant AND b.sha256 = a.sha256
WHERE m.batch_id = $1 AND b.data IS NOT NULL AND b.size > 0
  AND NOT EXISTS (
      SELECT FROM artifacts AS a
      LEFT JOIN (archived_runs AS r JOIN archive_batches AS g ON g.batch_id = r.batch_id AND g.state = 'dropped')
          ON r.run_id = a.run_id
      WHERE a.tenant = b.tenant AND a.sha256 = b.sha256 AND r.run_id IS NULL)
LIMIT $2

-- name: batch_moved
-- Nothing of the batch is to be moved: it is looked at again when it is dropped again, or an artifact of its bytes goes.
UPDATE archive_batches SET content_left = false WHERE batch_id = $1 AND state = 'dropped' RETURNING batch_id

-- name: begin_move
INSERT INTO content_objects (object, tenant, size) VALUES ($1, $2, $3)

-- name: moved
-- The bytes are in the store, and proven there: they leave PostgreSQL.
WITH held AS MATERIALIZED (
    SELECT object FROM content_objects WHERE object = $3 AND NOT condemned FOR UPDATE
), moved AS (
    UPDATE content_blobs SET data = NULL, object = $3
    WHERE tenant = $1 AND sha256 = $2 AND data IS NOT NULL AND EXISTS (SELECT FROM held)
    RETURNING object
)
DELETE FROM content_objects AS o USING moved WHERE o.object = moved.object RETURNING o.object

-- name: orphans
-- Objects that no artifact refers to, past their grace: what the collector has still to do.
SELECT (SELECT count(*) FROM content_objects
        WHERE condemned OR begun_at < now() - $1::float8 * interval '1 second') AS n
