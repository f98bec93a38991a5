-- Make audit_log, and the triggers on every table of users' data that write it.
-- Why: every change can be seen, followed and undone, whoever made it, cascades included. An entry copies nothing that
--   can still be read: what a column became is in the row's next entry, or in the row. Entries are written at the commit,
--   in a line for each user: whoever follows seq sees every change once, on this server or its successor.
-- Locks: each audited table, against writes, for a moment (triggers).
-- Rollback loses: the whole trail.
-- depends: 0007_protect_rows
SET LOCAL ROLE todochat_owner;
CREATE TABLE public.audit_log (
    user_id uuid NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    actor_id uuid,
    row_id uuid NOT NULL,
    action public.action NOT NULL,
    table_name text NOT NULL,
    before jsonb,
    request_id text,
    CONSTRAINT audit_log_pkey PRIMARY KEY (user_id, seq)
)
-- Rows are added all the time, and change only when a user is erased.
WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX audit_log_user_id_row_id_idx ON public.audit_log (user_id, row_id, seq);
CREATE INDEX audit_log_actor_id_idx ON public.audit_log (actor_id, user_id)
WHERE actor_id <> user_id;
COMMENT ON TABLE public.audit_log IS
    'One entry for every insert, update and delete of a user''s data, by triggers. Append-only: the service can only '
    'read its user''s. No foreign key: entries outlive what they tell of. What only follows from other rows, as a '
    'conversation''s counters from its messages, has no entry.';
COMMENT ON COLUMN public.audit_log.user_id IS 'Whose data changed.';
COMMENT ON COLUMN public.audit_log.seq IS
    '1, 2, 3 ... for each user, without holes, in the order of their commits. A user''s last entry is never removed '
    'while there is the user: the next one counts on from it.';
COMMENT ON COLUMN public.audit_log.at IS
    'When the transaction began, but never before the entry ahead: the same for all that one transaction did.';
COMMENT ON COLUMN public.audit_log.actor_id IS
    'Who made the change: app.user_id of the transaction at its commit; null for work by hand.';
COMMENT ON COLUMN public.audit_log.row_id IS 'id of the changed row.';
COMMENT ON COLUMN public.audit_log.action IS 'What was done.';
COMMENT ON COLUMN public.audit_log.table_name IS
    'The table''s name as the trigger''s argument gives it (a shard is called otherwise).';
COMMENT ON COLUMN public.audit_log.before IS
    'The old row; null for an insert. No password hashes, no generated columns.';
COMMENT ON COLUMN public.audit_log.request_id IS 'app.request_id of the transaction: the X-Request-ID of the request.';
COMMENT ON INDEX public.audit_log_pkey IS
    'Serves audit(), which takes the next number, one entry, the change feed, and the audit list, newest first.';
COMMENT ON INDEX public.audit_log_user_id_row_id_idx IS
    'Serves the new values of an entry, found in the next entry of its row, and the audit list of one row.';
COMMENT ON INDEX public.audit_log_actor_id_idx IS
    'Serves erase_user(), which takes request ids off entries that the user caused in other people''s trails: few.';
GRANT SELECT ON public.audit_log TO todochat_app;
ALTER TABLE public.audit_log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_log_owner ON public.audit_log FOR SELECT
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);
CREATE POLICY audit_log_write ON public.audit_log TO todochat_owner
USING (true);
COMMENT ON POLICY audit_log_owner ON public.audit_log IS 'A transaction reads entries of the user it is for.';
COMMENT ON POLICY audit_log_write ON public.audit_log IS
    'audit(), erase_user() and retention, which run as the owner, write entries of whoever''s data changed.';

-- enable_seqscan: as in todos_validate(). TimeZone: elsewhere the last times there are have no year of four digits.
-- Conditions are nested: PL/pgSQL prepares an expression anew in each transaction, with what AND would pass over.
CREATE FUNCTION public.audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET TimeZone = 'UTC'
AS $body$
DECLARE
    owner_id uuid;
    actor constant uuid := nullif(current_setting('app.user_id', true), '')::uuid;
    old_row jsonb;
    in_line text;
BEGIN
    IF TG_ARGV[0] = 'users' THEN
        owner_id := coalesce(NEW.id, OLD.id);
    ELSE
        owner_id := coalesce(NEW.user_id, OLD.user_id);
    END IF;
    IF TG_OP <> 'INSERT' THEN
        IF TG_OP = 'UPDATE' OR TG_ARGV[0] <> 'users' THEN
            old_row := to_jsonb(OLD) - TG_ARGV[1]::text[];
        END IF;
    END IF;
    IF actor IS DISTINCT FROM owner_id THEN
        IF NOT pg_has_role(session_user, 'todochat_owner', 'MEMBER')
            AND NOT (TG_ARGV[0] = 'todos' AND coalesce(
                actor::text IN (old_row ->> 'assigned_to', to_jsonb(NEW) ->> 'assigned_to'), false
            ))
        THEN
            RAISE EXCEPTION 'app.user_id was changed in the transaction that made this change'
                USING ERRCODE = 'insufficient_privilege', TABLE = 'audit_log', COLUMN = 'actor_id';
        END IF;
    END IF;
    -- Waits for the commit of whoever is ahead in the user's line; the statement behind it sees what that one wrote.
    -- (An assignment, since PERFORM would run a query. What it returns is nothing.)
    in_line := pg_advisory_xact_lock(uuid_hash_extended(owner_id, 0));
    INSERT INTO public.audit_log (user_id, seq, at, actor_id, row_id, action, table_name, before, request_id)
    SELECT owner_id, coalesce(l.seq, 0) + 1, greatest(l.at, now()), actor, coalesce(NEW.id, OLD.id), lower(TG_OP),
        TG_ARGV[0], old_row, nullif(current_setting('app.request_id', true), '')
    FROM (SELECT) AS one
    LEFT JOIN LATERAL (
        SELECT a.seq, a.at FROM public.audit_log AS a WHERE a.user_id = owner_id ORDER BY a.seq DESC LIMIT 1
    ) AS l ON true
    -- Who is gone leaves no trail but that they are.
    WHERE TG_ARGV[0] = 'users' OR EXISTS (SELECT FROM public.users AS u WHERE u.id = owner_id);
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION public.audit() IS
    'Trigger: writes the entry of a change at the commit, and holds the user''s lock to its end, so that a user''s '
    'commits stand in a line for that moment. Somebody else than the owner may only be the assignee of a todo, or an '
    'operator: nobody''s changes are recorded as another''s. Arguments: the table, and the columns to leave out.';

DO $body$
DECLARE
    name text;
    real_change text;
    left_out text;
    left_out_of_updates text;
BEGIN
    FOR name, real_change, left_out, left_out_of_updates IN VALUES
        ('users', '', '{password_hash,tokens_valid_from}', '{password_hash,tokens_valid_from}'),
        ('identities', '', '{}', '{}'),
        ('todos', '', '{completed,updated_hour}', '{completed,updated_hour}'),
        -- Named as columns, so that counting messages, which is no real change, never looks at it.
        ('conversations', 'OF title, metadata', '{updated_hour}', '{updated_hour,last_position,message_count,updated_at}'),
        ('messages', '', '{role,sender_id}', '{role,sender_id}'),
        ('todo_conversation_links', '', '{}', '{}')
    LOOP
        EXECUTE format(
            'CREATE CONSTRAINT TRIGGER %2$I AFTER INSERT OR DELETE ON public.%1$I DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION public.audit(%1$L, %5$L);
            CREATE CONSTRAINT TRIGGER %3$I AFTER UPDATE %4$s ON public.%1$I DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (OLD.version <> NEW.version) EXECUTE FUNCTION public.audit(%1$L, %6$L);
            COMMENT ON TRIGGER %2$I ON public.%1$I IS ''Every insert and delete; of a user, the end without content.'';
            COMMENT ON TRIGGER %3$I ON public.%1$I IS ''Every real change.''',
            name, name || '_audit', name || '_audit_update', real_change, left_out, left_out_of_updates
        );
    END LOOP;
END
$body$;
