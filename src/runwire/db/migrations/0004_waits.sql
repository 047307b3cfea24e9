-- How long a run has waited for signals: that time is nobody's fault, and no objective or alert counts it.
-- serves: 0002

ALTER TABLE runs ADD COLUMN waiting_since timestamptz,
                 ADD COLUMN waited_s double precision NOT NULL DEFAULT 0;
UPDATE runs SET waiting_since = now() WHERE state = 'waiting';
COMMENT ON COLUMN runs.waited_s IS 'Seconds spent in the state waiting, without a wait that still lasts.';

-- Held here, where every change of state comes by, whoever makes it.
CREATE FUNCTION runs_note_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'waiting' THEN
        NEW.waited_s := OLD.waited_s + greatest(extract(epoch FROM clock_timestamp() - OLD.waiting_since), 0);
    END IF;
    NEW.waiting_since := CASE WHEN NEW.state = 'waiting' THEN clock_timestamp() END;
    RETURN NEW;
END $$;
CREATE TRIGGER runs_wait BEFORE UPDATE ON runs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state AND (OLD.state = 'waiting' OR NEW.state = 'waiting'))
    EXECUTE FUNCTION runs_note_wait();
