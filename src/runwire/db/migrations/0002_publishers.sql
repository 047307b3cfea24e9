-- Publishers say that they live, and what they cannot do. Who watches them reads it here: a dead one cannot tell.

CREATE TABLE publishers (
    publisher_id  text        PRIMARY KEY,
    started_at    timestamptz NOT NULL DEFAULT now(),
    heartbeat_at  timestamptz NOT NULL DEFAULT now(),
    failing_since timestamptz,
    failing_code  text,
    CHECK ((failing_since IS NULL) = (failing_code IS NULL))
) WITH (fillfactor = 50);

-- The audit looks at runs that have just ended, however many ended before them.
CREATE INDEX runs_recently_closed ON runs (finished_at) WHERE finished_at IS NOT NULL;
