-- What the service asks about itself: at its start whether its login is a safe one and the tables are as the migrations
-- leave them, then whether it may serve.

-- name: check_login
-- What makes the session's login unfit for serving, because row security wouldn't bind it: what it is, or may become.
-- And what a restore by hand may have left: tables that the login can't read, tables and functions of another owner.
-- returns: one LoginCheck
-- index: none
SELECT
    session_user::text AS login,
    to_regclass('public.users') IS NOT NULL AS is_migrated,
    current_setting('enable_sort') = 'off' AND current_setting('jit') = 'off' AS has_plan_settings,
    EXISTS (
        SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolsuper AND pg_has_role(session_user, r.oid, 'MEMBER')
    ) AS is_superuser,
    EXISTS (
        SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolbypassrls AND pg_has_role(session_user, r.oid, 'MEMBER')
    ) AS bypasses_row_security,
    has_database_privilege(session_user, current_database(), 'TEMP') AS may_create_temporary_tables,
    ARRAY(
        SELECT c.relname::text
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace
            AND c.relkind IN ('r', 'p', 'v', 'm')
            AND pg_has_role(session_user, c.relowner, 'MEMBER')
        ORDER BY c.relname
    ) AS owned_tables,
    ARRAY(
        SELECT c.relname::text
        FROM pg_catalog.pg_class AS c
        INNER JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace
            AND c.relkind IN ('r', 'p')
            AND NOT (
                c.relrowsecurity
                AND c.relforcerowsecurity
                AND EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid)
            )
        ORDER BY c.relname
    ) AS unprotected_tables,
    coalesce(has_table_privilege(session_user, to_regclass('public.todos'), 'SELECT'), FALSE) AS may_read,
    ARRAY(
        SELECT c.relname::text
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace
            AND c.relkind IN ('r', 'p')
            AND c.relowner IS DISTINCT FROM to_regrole('todochat_owner')
            AND (
                c.relname IN ('users', 'sign_in_attempts')
                OR EXISTS (
                    SELECT FROM pg_catalog.pg_attribute AS a
                    WHERE a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped
                )
            )
        UNION ALL
        SELECT p.proname || '()'
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace
            AND p.prosecdef
            AND p.proowner IS DISTINCT FROM to_regrole('todochat_owner')
            AND (
                EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgfoid = p.oid)
                OR EXISTS (SELECT FROM aclexplode(p.proacl) AS g WHERE g.grantee = to_regrole('todochat_app'))
            )
        ORDER BY 1
    ) AS misowned;

-- name: list_applied_migrations
-- The names of the migrations the database has; a few dozen at most.
-- returns: many str
-- index: none
SELECT migration_id
FROM public._yoyo_migration
ORDER BY migration_id;
