-- name: beat
-- Which history the log is of: the server, its timeline, the database and the table (a restore makes another of one of
-- them), and a count that no history gives twice. Need not outlive a crash of the server: a count that comes again costs
-- reconnects.
WITH quick AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), beat AS (
    UPDATE log_epoch SET beats = beats + 1 FROM quick RETURNING beats
)
SELECT beats,
       concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
                 CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
                 (SELECT oid FROM pg_database WHERE datname = current_database()),
                 'runs'::regclass::oid, pg_relation_filenode('runs')) AS history
FROM beat
