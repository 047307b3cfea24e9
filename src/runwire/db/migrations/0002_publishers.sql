-- Publishers say that they live. Who watches them reads it here, since a dead one cannot tell.

CREATE TABLE publishers (
    publisher_id text        PRIMARY KEY,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- What the observer counts is open runs, however many have finished before them.
CREATE INDEX runs_recently_closed ON runs (finished_at) WHERE finished_at IS NOT NULL;
