-- Lists of runs find their page by index, whatever they are filtered by: a filter that matches nothing reads nothing.
-- serves: 0002

CREATE INDEX runs_listed_by_state ON runs (tenant, state, created_at DESC, run_id DESC);
-- Of an agent in any state, a look-up for each state there is.
CREATE INDEX runs_listed_by_agent ON runs (tenant, agent, state, created_at DESC, run_id DESC);

-- The ids of the runs `t` has, newest first, that come after (`before`, `before_id`). As the owner of the tables, because
-- row-level security keeps conditions on `state` from being looked up in an index; but never of another tenant than the
-- one its caller acts for. Each branch is planned for what is asked, and reads an index of its own.
CREATE FUNCTION list_runs(t text, wanted run_state, of_agent text, before timestamptz, before_id text, at_most integer)
RETURNS SETOF text LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 50 SET plan_cache_mode = force_custom_plan
SET search_path FROM CURRENT AS $$
DECLARE
    acting text := nullif(current_setting('runwire.tenant', true), '');
BEGIN
    IF acting IS NOT NULL AND acting <> t OR NOT has_table_privilege(session_user, 'runs', 'SELECT') THEN
        RETURN;
    END IF;
    IF of_agent IS NOT NULL THEN
        RETURN QUERY
            SELECT p.run_id::text
            FROM unnest(CASE WHEN wanted IS NULL THEN enum_range(NULL::run_state) ELSE ARRAY[wanted] END) AS s (state)
            CROSS JOIN LATERAL (
                SELECT r.run_id, r.created_at FROM runs AS r
                WHERE r.tenant = t AND r.agent = of_agent AND r.state = s.state
                  AND (r.created_at, r.run_id) < (before, before_id)
                ORDER BY r.created_at DESC, r.run_id DESC LIMIT at_most
            ) AS p
            ORDER BY p.created_at DESC, p.run_id DESC LIMIT at_most;
    ELSIF wanted IS NOT NULL THEN
        RETURN QUERY
            SELECT r.run_id::text FROM runs AS r
            WHERE r.tenant = t AND r.state = wanted AND (r.created_at, r.run_id) < (before, before_id)
            ORDER BY r.created_at DESC, r.run_id DESC LIMIT at_most;
    ELSE
        RETURN QUERY
            SELECT r.run_id::text FROM runs AS r
            WHERE r.tenant = t AND (r.created_at, r.run_id) < (before, before_id)
            ORDER BY r.created_at DESC, r.run_id DESC LIMIT at_most;
    END IF;
END $$;
