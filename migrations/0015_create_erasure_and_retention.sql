-- Make what erases a user for good, and what removes audit entries and idempotency keys past their age.
--
-- What: erase_user() for the service and the operator, also as the end of an account that owns nothing any
--   more, and an audit_delete() that is quiet within it; for
--   the operator alone find_prunable_user(), count_prunable_entries(), prune_audit_log(),
--   count_prunable_keys() and prune_idempotency_keys(); audit_prunes, which remembers how far a trail was
--   pruned; policies that let the owner of the tables change the trail and remove kept answers; an index
--   on the actors of entries in other people's trails.
-- Why: who asks to be erased must be gone from everywhere, also from other people's rows, which no
--   policy of the service lets it reach. A follower of the change feed who is behind what was pruned
--   must be told so, or would miss changes without knowing.
-- Code: runs before the release that erases and prunes; the release before does not notice.
-- Locks: audit_log, against writes, while its index is built: seconds for millions of entries.
-- Rollback loses: how far each trail was pruned. What was erased or pruned stays gone.
-- depends: 0014_create_restoring_mode

-- Part of one transaction with the functions that need it.
-- squawk-ignore-file require-concurrent-index-creation

SET LOCAL ROLE todochat_owner;
-- Functions with a body of SQL are checked as if they ran, and the owner has policies of its own here.
SET LOCAL row_security = on;

-- The operator's and erase_user()'s way to every trail. The service's role still can only read its user's.
CREATE POLICY audit_log_retention ON public.audit_log TO todochat_owner
USING (true);

CREATE POLICY idempotency_keys_retention ON public.idempotency_keys TO todochat_owner
USING (true);

COMMENT ON POLICY audit_log_retention ON public.audit_log IS
    'Erasure and retention, which run as the owner, remove entries of whoever''s trail.';
COMMENT ON POLICY idempotency_keys_retention ON public.idempotency_keys IS
    'Erasure and retention, which run as the owner, remove anybody''s kept answers.';

-- Small: most entries are of people changing their own data.
CREATE INDEX audit_log_actor_id_idx ON public.audit_log (actor_id, user_id)
WHERE actor_id <> user_id;

COMMENT ON INDEX public.audit_log_actor_id_idx IS
    'Serves erase_user(), which takes request ids off entries that the user caused in other people''s trails.';

CREATE TABLE public.audit_prunes (
    user_id uuid NOT NULL,
    commit_order bigint NOT NULL,
    id uuid NOT NULL,
    CONSTRAINT audit_prunes_pkey PRIMARY KEY (user_id),
    CONSTRAINT audit_prunes_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE
);

COMMENT ON TABLE public.audit_prunes IS
    'How far each user''s audit trail was pruned, for those whose ever was: the change feed refuses cursors from '
    'before that. Read in the same statement as audit_log, or after it, it never lies behind what was removed.';
COMMENT ON COLUMN public.audit_prunes.user_id IS 'Whose trail; goes with the user.';
COMMENT ON COLUMN public.audit_prunes.commit_order IS
    'commit_order of the last entry removed, in the order of the change feed.';
COMMENT ON COLUMN public.audit_prunes.id IS 'id of that entry.';
COMMENT ON INDEX public.audit_prunes_pkey IS 'Serves the change feed''s look at how far it was pruned.';

GRANT SELECT ON public.audit_prunes TO todochat_app;

ALTER TABLE public.audit_prunes ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.audit_prunes FORCE ROW LEVEL SECURITY;

CREATE POLICY audit_prunes_owner ON public.audit_prunes FOR SELECT
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

CREATE POLICY audit_prunes_retention ON public.audit_prunes TO todochat_owner
USING (true);

COMMENT ON POLICY audit_prunes_owner ON public.audit_prunes IS 'A transaction reads the row of the user it is for.';
COMMENT ON POLICY audit_prunes_retention ON public.audit_prunes IS
    'Retention, which runs as the owner, writes down how far it came.';

-- Erasure

-- What is erased leaves no entries: they would hold the erased words, to be removed in the same transaction, and wrote
-- ten times the WAL of all the rest. app.erasure is no switch: it only says where to look for the proof, an entry as
-- nobody but erase_user() can write it, and that never outlives the call.
CREATE OR REPLACE FUNCTION public.audit_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    erasure constant text := current_setting('app.erasure', true);
BEGIN
    IF erasure <> '' AND EXISTS (
        SELECT 1
        FROM public.audit_log AS a
        WHERE a.user_id = OLD.user_id AND a.id = erasure::uuid AND a.action = 'delete' AND a.table_name = 'users'
            AND a.before = '{}'
    ) THEN
        RETURN NULL;
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'delete', TG_ARGV[0], OLD.id,
        to_jsonb(OLD) - TG_ARGV[1]::text[], nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_delete() IS
    'Trigger: an entry with the deleted row, unless its user is being erased. Arguments: the table, and the columns to '
    'leave out.';

CREATE FUNCTION public.erase_user(user_id uuid, version integer, records boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    caller constant text := coalesce(current_setting('app.user_id', true), '');
    erasure constant uuid := public.uuid7();
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
    SELECT sha256(convert_to('account:' || u.email_key, 'UTF8')) INTO sign_in_key
    FROM public.users AS u
    WHERE u.id = erase_user.user_id AND (erase_user.version IS NULL OR u.version = erase_user.version)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    INSERT INTO public.audit_log (user_id, id, actor_id, action, table_name, row_id, before)
    VALUES (erase_user.user_id, erasure, erase_user.user_id, 'delete', 'users', erase_user.user_id, '{}');
    EXECUTE format('SET LOCAL app.erasure = %L', erasure);

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
        AND a.id > (lpad(to_hex((extract(epoch FROM now() - interval '25 hours') * 1000)::bigint), 12, '0')
            || '70008000000000000000')::uuid
        AND a.table_name = 'todos'
        AND a.before ->> 'assigned_to' IS NOT NULL;
    DELETE FROM public.idempotency_keys AS k
    WHERE k.user_id = ANY (assignees)
        AND position(convert_to('"user_id":"' || erase_user.user_id || '"', 'UTF8') IN k.body) > 0;

    DELETE FROM public.audit_log AS a
    WHERE a.user_id = erase_user.user_id;
    SET LOCAL app.erasure = '';
    -- A client chooses its request ids: they may be words.
    UPDATE public.audit_log AS a
    SET request_id = NULL
    WHERE a.actor_id = erase_user.user_id AND a.actor_id <> a.user_id AND a.request_id IS NOT NULL;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id)
    VALUES (erase_user.user_id, nullif(caller, '')::uuid, 'delete', 'users', erase_user.user_id);
    RETURN true;
END
$body$;

COMMENT ON FUNCTION public.erase_user(uuid, integer, boolean) IS
    'Removes the user of the transaction (for a member of todochat_owner: any) and all they own, unassigns other '
    'people''s todos, and leaves one entry without content in the audit trail. False, and nothing done, when there is '
    'no such user or they are at another version than the one given; refused by a foreign key when they own todos or '
    'conversations and records is false. Give it more time than a usual statement.';

COMMENT ON TABLE public.audit_log IS
    'One entry for every insert, update and delete of a user''s data, written by triggers. Append-only: the service '
    'reads its user''s entries and can do nothing else. No foreign key: entries outlive what they tell of. A DELETE of '
    'a user by hand leaves the whole trail, with all its words: erase_user() takes that too, and nothing else does.';

-- Retention: every call is one small batch, to be committed before the next. Another one that runs at the same time
-- takes other rows.

CREATE FUNCTION public.find_prunable_user(user_id uuid, older_than uuid) RETURNS SETOF uuid
LANGUAGE sql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- From the oldest entry of one user to that of the next: a step for each user, however many entries they have.
    WITH RECURSIVE oldest AS (
        (
            SELECT a.user_id, a.id
            FROM public.audit_log AS a
            WHERE a.user_id > find_prunable_user.user_id
            ORDER BY a.user_id, a.id
            LIMIT 1
        )
        UNION ALL
        SELECT n.user_id, n.id
        FROM oldest AS o
        CROSS JOIN LATERAL (
            SELECT a.user_id, a.id
            FROM public.audit_log AS a
            WHERE a.user_id > o.user_id
            ORDER BY a.user_id, a.id
            LIMIT 1
        ) AS n
    )
    SELECT o.user_id
    FROM oldest AS o
    WHERE o.id < find_prunable_user.older_than
    LIMIT 1;
END;

COMMENT ON FUNCTION public.find_prunable_user(uuid, uuid) IS
    'The next user, in the order of ids, with audit entries whose id is below older_than; no row behind the last.';

CREATE FUNCTION public.count_prunable_entries(user_id uuid, older_than uuid) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT count(*)
    FROM public.audit_log AS a
    WHERE a.user_id = count_prunable_entries.user_id AND a.id < count_prunable_entries.older_than;
END;

COMMENT ON FUNCTION public.count_prunable_entries(uuid, uuid) IS
    'How many audit entries of the user have an id below older_than.';

CREATE FUNCTION public.prune_audit_log(user_id uuid, older_than uuid, batch integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    is_user boolean;
    removed bigint;
BEGIN
    -- The user's row before the entries, as erase_user() locks them: so the two never wait for each other.
    PERFORM FROM public.users AS u WHERE u.id = prune_audit_log.user_id FOR KEY SHARE;
    is_user := FOUND;

    WITH old AS (
        SELECT a.id
        FROM public.audit_log AS a
        WHERE a.user_id = prune_audit_log.user_id AND a.id < prune_audit_log.older_than
        ORDER BY a.id
        LIMIT prune_audit_log.batch
        FOR UPDATE SKIP LOCKED
    ), pruned AS (
        DELETE FROM public.audit_log AS a
        USING old
        WHERE a.user_id = prune_audit_log.user_id AND a.id = old.id
        RETURNING a.commit_order, a.id
    ), mark AS (
        INSERT INTO public.audit_prunes AS m (user_id, commit_order, id)
        SELECT prune_audit_log.user_id, p.commit_order, p.id
        FROM pruned AS p
        WHERE is_user
        ORDER BY p.commit_order DESC, p.id DESC
        LIMIT 1
        ON CONFLICT ON CONSTRAINT audit_prunes_pkey DO UPDATE SET commit_order = excluded.commit_order, id = excluded.id
        WHERE (m.commit_order, m.id) < (excluded.commit_order, excluded.id)
    )
    SELECT count(*) INTO removed
    FROM pruned;
    RETURN removed;
END
$body$;

COMMENT ON FUNCTION public.prune_audit_log(uuid, uuid, integer) IS
    'Removes the oldest audit entries of the user whose id is below older_than, at most a batch, and says how many. '
    'Passes over what another transaction holds.';

CREATE FUNCTION public.count_prunable_keys() RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT count(*)
    FROM public.idempotency_keys AS k
    WHERE k.created_at < now() - interval '24 hours';
END;

COMMENT ON FUNCTION public.count_prunable_keys() IS 'How many idempotency keys are older than 24 hours.';

CREATE FUNCTION public.prune_idempotency_keys(batch integer) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH old AS (
        SELECT k.user_id, k.key
        FROM public.idempotency_keys AS k
        WHERE k.created_at < now() - interval '24 hours'
        ORDER BY k.created_at
        LIMIT prune_idempotency_keys.batch
        FOR UPDATE SKIP LOCKED
    ), pruned AS (
        DELETE FROM public.idempotency_keys AS k
        USING old
        WHERE k.user_id = old.user_id AND k.key = old.key
        RETURNING k.user_id
    )
    SELECT count(*)
    FROM pruned;
END;

COMMENT ON FUNCTION public.prune_idempotency_keys(integer) IS
    'Removes the oldest idempotency keys past 24 hours, at most a batch, and says how many. Passes over what another '
    'transaction holds.';

REVOKE ALL ON FUNCTION
    public.erase_user(uuid, integer, boolean), public.find_prunable_user(uuid, uuid),
    public.count_prunable_entries(uuid, uuid), public.prune_audit_log(uuid, uuid, integer),
    public.count_prunable_keys(), public.prune_idempotency_keys(integer)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.erase_user(uuid, integer, boolean) TO todochat_app;
