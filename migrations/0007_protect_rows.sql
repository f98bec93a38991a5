-- Hold what the tables of users' data have in common: row security, columns that never change, what columns mean.
-- Why: a table shows a transaction the rows of the user it is for, and no others, also where a query forgot its WHERE.
-- Locks: each of the tables, against everything, for a moment.
-- Rollback loses: no data; but the service refuses to start where row security is off.
-- depends: 0006_create_idempotency_keys
SET LOCAL ROLE todochat_owner;
DO $body$
DECLARE
    name text;
    fixed text;
    meaning text;
BEGIN
    FOR name IN
        SELECT c.table_name FROM information_schema.columns AS c
        WHERE c.table_schema = 'public' AND c.column_name = 'user_id'
    LOOP
        EXECUTE format(
            'ALTER TABLE public.%1$I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY %2$I ON public.%1$I
            USING (user_id = nullif(current_setting(''app.user_id'', true), '''')::uuid);
            COMMENT ON POLICY %2$I ON public.%1$I IS ''Rows of the user the transaction is for.''',
            name, name || '_owner'
        );
    END LOOP;
    FOR name, fixed IN VALUES
        ('users', 'id, created_at, updated_at, version'),
        ('identities', 'user_id, id, created_at, updated_at, version'),
        ('todos', 'user_id, id, number, created_at, updated_at, version'),
        ('conversations', 'user_id, id, created_at, version'),
        ('messages', 'user_id, conversation_id, position, id, sender_type, created_at, updated_at, version'),
        ('todo_conversation_links', 'user_id, id, todo_id, conversation_id, created_at, updated_at, version')
    LOOP
        EXECUTE format(
            'CREATE TRIGGER %2$I BEFORE UPDATE OF %3$s ON public.%1$I
            FOR EACH ROW WHEN ((%4$s) IS DISTINCT FROM (%5$s)) EXECUTE FUNCTION public.refuse_change(%1$L);
            COMMENT ON TRIGGER %2$I ON public.%1$I IS
                ''Refuses to set what never changes, or touch() alone may change.''',
            name, name || '_immutable', fixed,
            regexp_replace(fixed, '(\w+)', 'OLD.\1', 'g'), regexp_replace(fixed, '(\w+)', 'NEW.\1', 'g')
        );
    END LOOP;
    FOR name, fixed, meaning IN
        SELECT c.table_name, c.column_name, m.meaning
        FROM (VALUES
            ('id', 'UUID version 7.'),
            ('created_at', 'When it was made; never changes.'),
            ('updated_at', 'When the row last really changed, by trigger.'),
            ('version', '1, and one more with every real change, by trigger; the ETag.')
        ) AS m (column_name, meaning)
        JOIN information_schema.columns AS c USING (column_name)
        WHERE c.table_schema = 'public'
            AND col_description(format('%I.%I', c.table_schema, c.table_name)::regclass, c.ordinal_position) IS NULL
    LOOP
        EXECUTE format('COMMENT ON COLUMN public.%I.%I IS %L', name, fixed, meaning);
    END LOOP;
END
$body$;
