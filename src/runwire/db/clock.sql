-- name: now
-- Microseconds since the Unix epoch by PostgreSQL's clock, at some moment between the question and its answer.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
