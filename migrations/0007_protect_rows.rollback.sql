-- Take row security, the guard of columns that never change and the comments off the tables. No data is lost.

SET LOCAL ROLE todochat_owner;

DO $body$
DECLARE
    name text;
    object text;
BEGIN
    FOR name, object IN SELECT tablename, policyname FROM pg_policies WHERE policyname = tablename || '_owner' LOOP
        EXECUTE format('DROP POLICY %I ON public.%I', object, name);
        EXECUTE format('ALTER TABLE public.%I DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', name);
    END LOOP;
    FOR name, object IN SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE '%\_immutable' LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', object, name);
    END LOOP;
    FOR name, object IN
        SELECT c.table_name, c.column_name FROM information_schema.columns AS c
        WHERE c.table_schema = 'public'
            AND col_description(format('%I.%I', c.table_schema, c.table_name)::regclass, c.ordinal_position) IN (
                'UUID version 7.', 'When it was made; never changes.', 'When the row last really changed, by trigger.',
                '1, and one more with every real change, by trigger; the ETag.'
            )
    LOOP
        EXECUTE format('COMMENT ON COLUMN public.%I.%I IS NULL', name, object);
    END LOOP;
END
$body$;
