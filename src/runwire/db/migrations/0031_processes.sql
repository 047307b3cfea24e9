-- Every process says that it lives, whatever its roles: workers and publishers had rows of their own, the others none.
-- serves: 0002

CREATE TABLE processes (
    process_id text        PRIMARY KEY CHECK (octet_length(process_id) <= 256),
    host       text        NOT NULL CHECK (octet_length(host) <= 256),
    pid        integer     NOT NULL,
    version    text        NOT NULL CHECK (octet_length(version) <= 64),
    roles      text[]      NOT NULL CHECK (cardinality(roles) <= 16),
    agents     text[]      NOT NULL CHECK (cardinality(agents) <= 1000),
    slots      integer     NOT NULL CHECK (slots >= 0),
    walking    integer     NOT NULL DEFAULT 0 CHECK (walking >= 0),
    streams    integer     NOT NULL DEFAULT 0 CHECK (streams >= 0),
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE processes IS 'Written by each process every few seconds, removed when it stops. A row that is an hour old goes.';
COMMENT ON COLUMN processes.slots IS 'Runs that it can walk at a time; 0 without the role worker.';
COMMENT ON COLUMN processes.walking IS 'Runs that it walks.';
