-- The findings of the audit outlive the observer that made them, and so does how far the audit has come.
-- serves: 0002

CREATE TABLE audit_findings (
    run_id          text        NOT NULL,
    invariant       text        NOT NULL CHECK (octet_length(invariant) <= 64),
    found_at        timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    acknowledged_by text,
    PRIMARY KEY (run_id, invariant)
);
COMMENT ON TABLE audit_findings IS 'Runs that break an invariant. A row goes when the audit finds its run mended.';
COMMENT ON COLUMN audit_findings.acknowledged_at IS 'Known to somebody: from here on it raises no alert, and is still looked at.';

CREATE TABLE audit_progress (
    one_row       boolean     PRIMARY KEY DEFAULT true CHECK (one_row),
    after         text        NOT NULL DEFAULT '',
    begun_at      timestamptz NOT NULL DEFAULT now(),
    covered_since timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE audit_progress IS 'The walk of the audit through all runs, in the order of their ids.';
COMMENT ON COLUMN audit_progress.after IS 'The last run that was looked at; empty where a walk begins.';
COMMENT ON COLUMN audit_progress.covered_since IS
    'Every run that was there then has been looked at since. Of this migration, until the first walk has ended.';
INSERT INTO audit_progress DEFAULT VALUES;
