-- Take back the privileges in this database, then drop the two roles unless something still uses them.
--
-- A role stays when another database of the cluster has granted it something, when a login is still a
-- member of it, or when this login did not make it. Migrating again finds it and goes on.

DO $body$
DECLARE
    role_name text;
    is_locked boolean := true;
BEGIN
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
    IF to_regclass('public._yoyo_migration') IS NOT NULL AND to_regrole('todochat_app') IS NOT NULL THEN
        REVOKE SELECT ON public._yoyo_migration FROM todochat_app;
    END IF;

    -- The locks of the migration, in its order: in the other one, two databases would wait for each other.
    FOREACH role_name IN ARRAY ARRAY['todochat_owner', 'todochat_app'] LOOP
        BEGIN
            EXECUTE format(
                'COMMENT ON ROLE %I IS %L', role_name, shobj_description(to_regrole(role_name), 'pg_authid')
            );
        EXCEPTION
            WHEN undefined_object OR insufficient_privilege THEN
                is_locked := false;
        END;
    END LOOP;

    FOREACH role_name IN ARRAY ARRAY['todochat_owner', 'todochat_app'] LOOP
        IF to_regrole(role_name) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON SCHEMA public FROM %I', role_name);
        END IF;
    END LOOP;

    FOREACH role_name IN ARRAY ARRAY['todochat_app', 'todochat_owner'] LOOP
        CONTINUE WHEN NOT is_locked OR to_regrole(role_name) IS NULL OR EXISTS (
            SELECT 1
            FROM pg_catalog.pg_auth_members AS m
            JOIN pg_catalog.pg_roles AS r ON r.oid = m.member
            WHERE m.roleid = to_regrole(role_name) AND r.rolname <> current_user AND NOT r.rolsuper
        );
        BEGIN
            EXECUTE format('DROP ROLE %I', role_name);
        EXCEPTION
            WHEN dependent_objects_still_exist OR insufficient_privilege THEN
                RAISE NOTICE 'role % stays: it is in use elsewhere or was made by another login', role_name;
        END;
    END LOOP;
END
$body$;
