-- What the service asks about itself: at its start whether its login is a safe one and the tables are as the migrations
-- leave them, then whether it may serve.

-- name: check_login
-- What makes the session's login unfit for serving, because row security wouldn't bind it: what it is, or may become.
-- And what a restore by hand may have left: tables that the login can't read.
-- returns: one LoginCheck
-- index: none
SELECT
    session_user::text AS login,
    to_regclass('public.users') IS NOT NULL AS is_migrated,
    current_setting('enable_sort') = 'off' AND current_setting('jit') = 'off' AS has_plan_settings,
    lower(chr(196)) = chr(228) AS has_letters, -- A with two dots, and a
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
            AND c.relowner = to_regrole('todochat_owner')
            AND NOT (
                c.relrowsecurity
                AND c.relforcerowsecurity
                AND EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid)
            )
        ORDER BY c.relname
    ) AS unprotected_tables,
    coalesce(has_table_privilege(session_user, to_regclass('public.todos'), 'SELECT'), FALSE) AS may_read;

-- name: list_misowned
-- What the migrations make and another role than todochat_owner owns, as a restore by hand may have left it: its kind, its
-- name, and whose it is. The parameters name what the migrations make: what else is in the schema is somebody else's, and
-- no concern of ours.
-- param tables: text[]
-- param functions: text[]
-- param domains: text[]
-- returns: many Misowned
-- index: none
SELECT f.kind, f.name, pg_get_userbyid(f.owner)::text AS owner
FROM (
    SELECT 'TABLE' AS kind, c.oid::regclass::text AS name, c.relowner AS owner
    FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace
        AND c.relkind IN ('r', 'p')
        AND c.relname = ANY (%(tables)s::text[])
    UNION ALL
    SELECT 'FUNCTION', replace(p.oid::regprocedure::text, ',', ', '), p.proowner
    FROM unnest(%(functions)s::text[]) AS s (signature)
    INNER JOIN pg_catalog.pg_proc AS p ON p.oid = to_regprocedure('public.' || s.signature)
    UNION ALL
    SELECT 'DOMAIN', t.oid::regtype::text, t.typowner
    FROM pg_catalog.pg_type AS t
    WHERE t.typnamespace = 'public'::regnamespace
        AND t.typtype = 'd'
        AND t.typname = ANY (%(domains)s::text[])
) AS f
WHERE f.owner IS DISTINCT FROM to_regrole('todochat_owner')
ORDER BY f.name;

-- name: list_applied_migrations
-- The names of the migrations the database has; a few dozen at most.
-- returns: many str
-- index: none
SELECT migration_id
FROM public._yoyo_migration
ORDER BY migration_id;
