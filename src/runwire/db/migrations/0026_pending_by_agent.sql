-- A claim finds its agents' pending runs by index, however many runs of agents that nobody serves wait before them.
-- serves: 0002

CREATE INDEX runs_pending_by_agent ON runs (agent, created_at) WHERE state = 'pending' AND NOT external;
