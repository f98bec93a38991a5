-- Make audit_log, and the triggers on every table of users' data that write it.
-- Why: every change can be seen, followed and undone, whoever made it, cascades included. An entry copies nothing that
--   can still be read: an insert's holds ids alone, an update's and a delete's the old row. What a column became is in
--   the row's next entry, or in the row.
--   Entries are written when the transaction commits, in a line for each user, which is the order of the change feed:
--   whoever follows seq sees every change once, whatever other transactions do, on this server or its successor.
-- Locks: each audited table, against writes, for a moment (triggers).
-- Rollback loses: the whole trail.
-- depends: 0006_create_idempotency_keys
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
    'One entry for every insert, update and delete of a user''s data, written by triggers. Append-only: the service '
    'reads its user''s entries and can do nothing else. No foreign key: entries outlive what they tell of. What only '
    'follows from other rows, a conversation''s counters and updated_at from its messages, has no entry of its own.';
COMMENT ON COLUMN public.audit_log.user_id IS 'Whose data changed.';
COMMENT ON COLUMN public.audit_log.seq IS
    '1, 2, 3 ... for each user, without holes, in the order in which their transactions were committed. A user''s last '
    'entry is never removed while there is the user: the next one counts on from it.';
COMMENT ON COLUMN public.audit_log.at IS
    'When the transaction began, but never before the entry ahead: the same for all that one transaction did.';
COMMENT ON COLUMN public.audit_log.actor_id IS
    'Who made the change: app.user_id of the transaction at its commit; null for work by hand.';
COMMENT ON COLUMN public.audit_log.row_id IS 'id of the changed row.';
COMMENT ON COLUMN public.audit_log.action IS 'What was done.';
COMMENT ON COLUMN public.audit_log.table_name IS
    'The table''s name as the trigger''s argument gives it (a shard is called otherwise).';
COMMENT ON COLUMN public.audit_log.before IS
    'The old row; null for an insert. Never password hashes, never generated columns.';
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
CREATE FUNCTION public.audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET TimeZone = 'UTC'
AS $body$
DECLARE
    is_account constant boolean := TG_ARGV[0] = 'users';
    owner_id uuid;
    actor constant uuid := nullif(current_setting('app.user_id', true), '')::uuid;
    old_row jsonb;
BEGIN
    IF is_account THEN
        owner_id := coalesce(NEW.id, OLD.id);
    ELSE
        owner_id := coalesce(NEW.user_id, OLD.user_id);
    END IF;
    IF TG_OP <> 'INSERT' AND NOT (TG_OP = 'DELETE' AND is_account) THEN
        old_row := to_jsonb(OLD) - TG_ARGV[1]::text[];
    END IF;
    IF actor IS DISTINCT FROM owner_id AND NOT pg_has_role(session_user, 'todochat_owner', 'MEMBER')
        AND NOT (TG_ARGV[0] = 'todos' AND coalesce(
            actor::text IN (old_row ->> 'assigned_to', to_jsonb(NEW) ->> 'assigned_to'), false
        ))
    THEN
        RAISE EXCEPTION 'app.user_id was changed in the transaction that made this change'
            USING ERRCODE = 'insufficient_privilege', TABLE = 'audit_log', COLUMN = 'actor_id';
    END IF;
    -- Waits for the commit of whoever is ahead in the user's line; the statement behind it sees what that one wrote.
    PERFORM pg_advisory_xact_lock(uuid_hash_extended(owner_id, 0));
    INSERT INTO public.audit_log (user_id, seq, at, actor_id, row_id, action, table_name, before, request_id)
    SELECT owner_id, coalesce(l.seq, 0) + 1, greatest(l.at, now()), actor, coalesce(NEW.id, OLD.id), lower(TG_OP),
        TG_ARGV[0], old_row, nullif(current_setting('app.request_id', true), '')
    FROM (SELECT) AS one
    LEFT JOIN LATERAL (
        SELECT a.seq, a.at FROM public.audit_log AS a WHERE a.user_id = owner_id ORDER BY a.seq DESC LIMIT 1
    ) AS l ON true
    -- Who is gone leaves no trail but that they are.
    WHERE is_account OR EXISTS (SELECT FROM public.users AS u WHERE u.id = owner_id);
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION public.audit() IS
    'Trigger: writes the entry of a change, when the transaction commits. Until that is done, it holds a lock that is '
    'the user''s, so that a user''s commits stand in a line for that moment. Somebody else than the owner of the data may '
    'only be the assignee of a todo, or an operator: a transaction can''t set app.user_id on its way to have its changes '
    'recorded as somebody else''s. Arguments: the table, and the columns to leave out.';

REVOKE ALL ON FUNCTION public.audit() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER users_audit AFTER INSERT OR DELETE ON public.users
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.audit('users', '{password_hash,tokens_valid_from}');
CREATE CONSTRAINT TRIGGER users_audit_update AFTER UPDATE ON public.users
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.version <> NEW.version)
EXECUTE FUNCTION public.audit('users', '{password_hash,tokens_valid_from}');
CREATE CONSTRAINT TRIGGER identities_audit AFTER INSERT OR DELETE ON public.identities
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.audit('identities', '{}');
CREATE CONSTRAINT TRIGGER identities_audit_update AFTER UPDATE ON public.identities
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.version <> NEW.version)
EXECUTE FUNCTION public.audit('identities', '{}');
CREATE CONSTRAINT TRIGGER todos_audit AFTER INSERT OR DELETE ON public.todos
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.audit('todos', '{completed,updated_hour}');
CREATE CONSTRAINT TRIGGER todos_audit_update AFTER UPDATE ON public.todos
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.version <> NEW.version)
EXECUTE FUNCTION public.audit('todos', '{completed,updated_hour}');
CREATE CONSTRAINT TRIGGER conversations_audit AFTER INSERT OR DELETE ON public.conversations
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.audit('conversations', '{updated_hour}');
CREATE CONSTRAINT TRIGGER conversations_audit_update AFTER UPDATE OF title, metadata ON public.conversations
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.version <> NEW.version)
EXECUTE FUNCTION public.audit('conversations', '{updated_hour,last_position,message_count,updated_at}');
CREATE CONSTRAINT TRIGGER messages_audit AFTER INSERT OR DELETE ON public.messages
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.audit('messages', '{role,sender_id}');
CREATE CONSTRAINT TRIGGER messages_audit_update AFTER UPDATE ON public.messages
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.version <> NEW.version)
EXECUTE FUNCTION public.audit('messages', '{role,sender_id}');
CREATE CONSTRAINT TRIGGER todo_conversation_links_audit AFTER INSERT OR DELETE ON public.todo_conversation_links
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.audit('todo_conversation_links', '{}');
CREATE CONSTRAINT TRIGGER todo_conversation_links_audit_update AFTER UPDATE ON public.todo_conversation_links
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.version <> NEW.version)
EXECUTE FUNCTION public.audit('todo_conversation_links', '{}');
COMMENT ON TRIGGER users_audit ON public.users IS 'A user''s end has an entry without content.';
COMMENT ON TRIGGER users_audit_update ON public.users IS 'Every real change.';
COMMENT ON TRIGGER identities_audit ON public.identities IS 'Every insert and delete.';
COMMENT ON TRIGGER identities_audit_update ON public.identities IS 'Every real change.';
COMMENT ON TRIGGER todos_audit ON public.todos IS 'Every insert and delete.';
COMMENT ON TRIGGER todos_audit_update ON public.todos IS 'Every real change.';
COMMENT ON TRIGGER conversations_audit ON public.conversations IS 'Every insert and delete.';
COMMENT ON TRIGGER conversations_audit_update ON public.conversations IS
    'Every real change, which counting messages is not.';
COMMENT ON TRIGGER messages_audit ON public.messages IS 'Every insert and delete.';
COMMENT ON TRIGGER messages_audit_update ON public.messages IS 'Every real change.';
COMMENT ON TRIGGER todo_conversation_links_audit ON public.todo_conversation_links IS 'Every insert and delete.';
COMMENT ON TRIGGER todo_conversation_links_audit_update ON public.todo_conversation_links IS 'Every real change.';
