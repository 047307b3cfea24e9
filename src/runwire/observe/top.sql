-- name: processes
-- Those seen in the last hour, with what their publisher cannot do at the moment.
SELECT p.process_id, p.host, p.pid, p.version, p.roles, p.slots, p.walking, p.streams, cardinality(p.agents) AS agents,
       extract(epoch FROM clock_timestamp() - p.started_at)::float8 AS up_s,
       extract(epoch FROM clock_timestamp() - p.seen_at)::float8 AS seen_s,
       (SELECT u.failing_code FROM publishers AS u
        WHERE starts_with(u.publisher_id, regexp_replace(p.process_id, '[^:]*$', '')) LIMIT 1) AS failing
FROM processes AS p ORDER BY p.host, p.pid, p.process_id LIMIT 1000

-- name: agents
-- Open runs by agent and state. Each state from an index of its own: closed runs cost nothing.
SELECT agent, state, runs FROM (
    SELECT agent, 'pending' AS state, count(*) AS runs FROM runs WHERE state = 'pending' GROUP BY agent
    UNION ALL SELECT agent, 'started', count(*) FROM runs WHERE state = 'started' GROUP BY agent
    UNION ALL SELECT agent, 'waiting', count(*) FROM runs WHERE state = 'waiting' GROUP BY agent
) AS open_runs ORDER BY agent

-- name: walkers
-- How many live workers know each agent.
SELECT agent, count(*) AS workers
FROM processes AS p CROSS JOIN LATERAL unnest(p.agents) AS agent
WHERE 'worker' = ANY (p.roles) AND p.seen_at > now() - $1::real * interval '1 second'
GROUP BY agent
