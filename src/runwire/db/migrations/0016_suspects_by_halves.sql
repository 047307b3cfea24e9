-- Of many suspects a worker takes half of those that were lost together, so that one of them holds up few of the others.
-- serves: 0002
ALTER TABLE run_losses ADD COLUMN company integer NOT NULL DEFAULT 1 CHECK (company >= 1);
COMMENT ON COLUMN run_losses.company IS 'How many suspects that were lost with it may be with one worker: half of them.';
