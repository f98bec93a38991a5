-- Make erase_user(), which ends an account for good.
-- Why: who asks to be erased must be gone from everywhere, also from other people's rows, which no policy of the service
--   lets it reach.
-- Locks: nothing that was there before.
-- Rollback loses: nothing. What was erased stays gone.
-- depends: 0009_create_sign_in
SET LOCAL ROLE todochat_owner;
CREATE FUNCTION public.erase_user(user_id uuid, version integer, records boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    caller constant text := coalesce(current_setting('app.user_id', true), '');
    sign_in_key bytea;
    assignees uuid[];
BEGIN
    IF nullif(caller, '')::uuid IS DISTINCT FROM erase_user.user_id
        AND NOT pg_has_role(session_user, 'todochat_owner', 'MEMBER')
    THEN
        RAISE EXCEPTION 'a transaction can erase the user it is for, and nobody else'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- This lock waits for whoever is adding something of the user's, and keeps others from beginning to.
    SELECT sha256(convert_to('account:' || lower(u.email COLLATE "C"), 'UTF8')) INTO sign_in_key
    FROM public.users AS u
    WHERE u.id = erase_user.user_id AND (erase_user.version IS NULL OR u.version = erase_user.version)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Row security is forced on the owner too. Where an operator erases, their own context comes back below,
    -- so that they, and not the user, are the actor in other people's trails.
    IF erase_user.records THEN
        EXECUTE format('SET LOCAL app.user_id = %L', erase_user.user_id);
        WITH deleted AS (
            DELETE FROM public.todos AS t
            WHERE t.user_id = erase_user.user_id
            RETURNING t.assigned_to
        )
        SELECT array_agg(DISTINCT d.assigned_to) INTO assignees
        FROM deleted AS d;
        DELETE FROM public.conversations AS c
        WHERE c.user_id = erase_user.user_id;
        EXECUTE format('SET LOCAL app.user_id = %L', caller);
    END IF;
    -- Identities, kept answers and counters go with the user; other people's todos are unassigned. What the user still
    -- owns is refused here, by the foreign keys.
    DELETE FROM public.users AS u
    WHERE u.id = erase_user.user_id;
    DELETE FROM public.sign_in_attempts AS s
    WHERE s.key = sign_in_key;
    -- An assignee's batch is answered with the todos it changed, and that answer may be kept for a day. It can be
    -- dropped: asked for again, the batch fails as a whole, since a todo of it is gone.
    SELECT assignees || array_agg(DISTINCT (a.before ->> 'assigned_to')::uuid) INTO assignees
    FROM public.audit_log AS a
    WHERE a.user_id = erase_user.user_id
        AND a.at > now() - interval '25 hours'
        AND a.table_name = 'todos'
        AND a.before ->> 'assigned_to' IS NOT NULL;
    DELETE FROM public.idempotency_keys AS k
    WHERE k.user_id = ANY (assignees)
        AND position(convert_to('"user_id":"' || erase_user.user_id || '"', 'UTF8') IN k.body) > 0;
    -- The lock of audit(): a commit of the user's that is on its way writes its entries before these go.
    PERFORM pg_advisory_xact_lock(uuid_hash_extended(erase_user.user_id, 0));
    DELETE FROM public.audit_log AS a
    WHERE a.user_id = erase_user.user_id;
    -- A client chooses its request ids: they may be words.
    UPDATE public.audit_log AS a
    SET request_id = NULL
    WHERE a.actor_id = erase_user.user_id AND a.actor_id <> a.user_id AND a.request_id IS NOT NULL;
    SET LOCAL app.request_id = '';
    RETURN true;
END
$body$;
COMMENT ON FUNCTION public.erase_user(uuid, integer, boolean) IS
    'Removes the user of the transaction (for a member of todochat_owner: any) and all they own, unassigns others'' '
    'todos, and leaves one entry without content. False, and nothing done, when there is no such user at that '
    'version; refused by a foreign key when they own todos or conversations and records is false. Give it more time '
    'than a usual statement.';

GRANT EXECUTE ON FUNCTION public.erase_user(uuid, integer, boolean) TO todochat_app;
