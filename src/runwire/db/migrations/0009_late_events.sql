-- A day's table leaves the log only when a look under its own lock finds nothing in it that is not in cold storage. A run
-- that was claimed while the day was on its way out brings the day back.
-- serves: 0002

-- Returns what keeps a day in the log: runs that go on, or have not begun, and runs with events that no proven batch has. Of runs
-- that were archived with fewer or more events than the log has, `archived` says how many. The day's table may be part
-- of the log or not. VOLATILE: under a lock it sees what was committed before the lock was granted.
CREATE FUNCTION kept_events(d date) RETURNS TABLE (run_id text, events bigint, archived bigint)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    partition text := 'run_events_' || to_char(d, 'YYYYMMDD');
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN QUERY EXECUTE format(
            'SELECT e.run_id, e.events, a.events
             FROM (SELECT run_id, count(*) AS events FROM ONLY %I GROUP BY run_id) AS e
             LEFT JOIN (archived_runs AS a JOIN archive_batches AS b
                        ON b.batch_id = a.batch_id AND b.state IN (''verified'', ''dropped''))
                 ON a.run_id = e.run_id
             WHERE a.run_id IS NULL OR a.events <> e.events', partition);
    END IF;
    -- Which of them have events is known above: these may have some in a moment. Three look-ups, each by its own index.
    RETURN QUERY
        SELECT r.run_id::text, 0::bigint, NULL::bigint FROM runs AS r WHERE r.state = 'pending' AND r.run_day = d
        UNION ALL
        SELECT r.run_id::text, 0::bigint, NULL::bigint FROM runs AS r WHERE r.state = 'started' AND r.run_day = d
        UNION ALL
        SELECT r.run_id::text, 0::bigint, NULL::bigint FROM runs AS r WHERE r.state = 'waiting' AND r.run_day = d;
END $$;

-- Drops the table of a day that was detached, or, when anything keeps it, makes it part of the log again. Returns
-- `dropped`, `kept`, `attached` (it is part of the log and stays) or `gone`.
CREATE FUNCTION drop_event_partition(d date) RETURNS text LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
    partition text := 'run_events_' || to_char(d, 'YYYYMMDD');
BEGIN
    BEGIN
        EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', partition);
    EXCEPTION WHEN undefined_table THEN
        RETURN 'gone';
    END;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(partition)) THEN
        RETURN 'attached';
    END IF;
    IF EXISTS (SELECT FROM kept_events(d)) THEN
        EXECUTE format('ALTER TABLE run_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, d, d + 1);
        RETURN 'kept';
    END IF;
    EXECUTE format('DROP TABLE %I', partition);
    RETURN 'dropped';
END $$;

-- Takes the rows of archived runs out of a day that still has others, which are copied over; the rest goes with the old
-- file, without a DELETE and its bloat. Only appends to this one old day wait meanwhile, readers for the swap at its end;
-- gives up at once (100 ms) when somebody is in the way. Returns how many events were kept, and NULL, having changed
-- nothing, when those would be more than `at_most`.
CREATE FUNCTION shrink_event_day(d date, at_most bigint) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
DECLARE
    partition text := 'run_events_' || to_char(d, 'YYYYMMDD');
    kept      bigint;
BEGIN
    EXECUTE format('LOCK TABLE ONLY %I IN SHARE MODE', partition);
    IF (SELECT coalesce(sum(k.events), 0) FROM kept_events(d) AS k) > at_most THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TEMPORARY TABLE carried_events ON COMMIT DROP AS
                    SELECT e.* FROM ONLY %I AS e WHERE e.run_id IN (SELECT k.run_id FROM kept_events(%L) AS k)',
                   partition, d);
    EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', partition);
    EXECUTE format('TRUNCATE ONLY %I', partition);
    EXECUTE format('INSERT INTO %I SELECT * FROM carried_events', partition);
    GET DIAGNOSTICS kept = ROW_COUNT;
    DROP TABLE carried_events;
    RETURN kept;
END $$;

-- As earlier versions ask for it: they said what to keep, from a look before the lock.
CREATE OR REPLACE FUNCTION shrink_event_partition(d date, keep text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT shrink_event_day(d, 9223372036854775807)
$$;

-- The partition of a day, made beside the log and then attached: ATTACH lets appends and reads go on, where CREATE TABLE
-- ... PARTITION OF would wait for every reader and hold up all who come after. A day's table that was taken out of the
-- log is attached again. Gives up after two seconds behind other DDL. Returns whether the log lacked it.
-- Runs as its owner: so a role that may do nothing to the schema can have days made, once it is granted EXECUTE.
CREATE OR REPLACE FUNCTION make_event_partition(d date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' AS $$
DECLARE
    partition text := 'run_events_' || to_char(d, 'YYYYMMDD');
    log       regclass := 'run_events'::regclass;
BEGIN
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(partition) AND inhparent = log) THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('runwire.partitions'));
    -- Asked of the tables: to_regclass may still know nothing of what was made while this waited.
    IF EXISTS (SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
               WHERE i.inhparent = log AND c.relname = partition) THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_class AS p ON p.oid = log
                   WHERE c.relname = partition AND c.relnamespace = p.relnamespace) THEN
        EXECUTE format('CREATE TABLE %I (LIKE run_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
                        WITH (autovacuum_vacuum_insert_scale_factor = 0.1)', partition);
    END IF;
    EXECUTE format('ALTER TABLE run_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, d, d + 1);
    RETURN true;
END $$;

DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION make_event_partition(date) SET search_path = %I, pg_temp',
                   (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'runs'::regclass));
END $$;
REVOKE EXECUTE ON FUNCTION make_event_partition(date) FROM PUBLIC;
