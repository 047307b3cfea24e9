-- Functions that run with the rights of the tables' owner look for tables and operators in the owner's schema alone, and in
-- a caller's temporary tables last: those that took the path of their migration looked there first.
-- serves: 0002

DO $$
DECLARE
    home text := (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE c.oid = 'runs'::regclass);
    f    regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
             WHERE p.prosecdef AND n.nspname = home
               AND p.proname IN ('make_event_partition', 'run_signals_arrive', 'list_runs', 'find_runs', 'runs_label') LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, home);
    END LOOP;
END $$;
