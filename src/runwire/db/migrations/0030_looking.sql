-- A role may look at the pipeline, and at nothing that users have put into it.
-- serves: 0002

-- Run by the owner of the tables, once for each role that looks, and again after migrations. The role sees all rows of all
-- tenants if it has BYPASSRLS, which an administrator gives; without it, row-level security hides them.
CREATE FUNCTION runwire_let_look(looker name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    home  oid;
    owner oid;
    t     record;
BEGIN
    SELECT c.relnamespace, c.relowner INTO home, owner FROM pg_class AS c WHERE c.oid = 'runs'::regclass;
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', home::regnamespace, looker);
    FOR t IN SELECT c.oid::regclass AS name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
             FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.relnamespace = home AND c.relowner = owner AND c.relkind IN ('r', 'p') AND NOT c.relispartition
               AND c.relname <> 'service_secrets'
               AND (c.relname, a.attname) NOT IN (('runs', 'input'), ('run_checkpoints', 'state'), ('run_signals', 'data'),
                                                  ('content_blobs', 'data'), ('part_chunks', 'bytes'), ('parts', 'tail'))
             GROUP BY c.oid LOOP
        EXECUTE format('GRANT SELECT (%s) ON %s TO %I', t.columns, t.name, looker);
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION runwire_let_look(name) FROM PUBLIC;
