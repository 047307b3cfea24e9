-- Workers by their sessions, and the runs that were in the hands of one that died.
-- serves: 0002

-- One row for each process that walks runs. While it lives it holds the advisory lock (hashtext('runwire.workers'),
-- hashtext(worker_id)) on a session of its own: a row whose lock is free is that of a worker that died.
CREATE TABLE workers (
    worker_id  text        PRIMARY KEY CHECK (octet_length(worker_id) <= 256),
    host       text        NOT NULL,
    pid        integer     NOT NULL,
    agents     text[]      NOT NULL,
    slots      integer     NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE workers IS 'Who walks runs. runs.lease_owner names one of these, or somebody who knows nothing of sessions.';

-- Runs whose worker died under them, until they are over. A run that nobody has lost has no row.
CREATE TABLE run_losses (
    run_id      text        PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    losses      integer     NOT NULL CHECK (losses >= 0),
    seq         bigint      NOT NULL,
    fence       bigint      NOT NULL,
    worker_id   text        NOT NULL,
    lost_at     timestamptz NOT NULL DEFAULT now(),
    not_before  timestamptz NOT NULL DEFAULT now(),
    alone_s     real        NOT NULL DEFAULT 0,
    taken_at    timestamptz,
    parked      boolean     NOT NULL DEFAULT false
);
COMMENT ON COLUMN run_losses.losses IS 'Workers that died with the run, one after the other, since it last finished a node.';
COMMENT ON COLUMN run_losses.seq IS 'Newest seq of the log at the newest loss: a checkpoint beyond it is progress.';
COMMENT ON COLUMN run_losses.fence IS 'Of the worker that died: while it is the run''s, nobody has claimed it since.';
COMMENT ON COLUMN run_losses.alone_s IS 'Not 0 for a suspect: how long a worker that takes it takes no other suspect.';
COMMENT ON COLUMN run_losses.parked IS 'Too many: the next claim fails the run.';

ALTER TABLE run_losses ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_visible_run ON run_losses
    USING (EXISTS (SELECT FROM runs AS r WHERE r.run_id = run_losses.run_id));
