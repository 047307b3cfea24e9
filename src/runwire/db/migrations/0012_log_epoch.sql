-- Tells a database from the same one as it was: processes count here, and none of them ever sees a number twice. After
-- a restore to an earlier point the count is lower than somebody remembers.
-- serves: 0002

CREATE TABLE log_epoch (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    beats bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO log_epoch DEFAULT VALUES;
