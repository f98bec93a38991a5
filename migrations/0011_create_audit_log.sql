-- Make the audit trail: its table, and triggers on every table of users' data that write it.
--
-- What: audit_log, its row security, the functions and triggers that fill it.
-- Why: every change can be seen, followed and undone, whoever made it, cascades included. An entry is
--   written in the transaction of its change. To stay cheap it never copies what can still be read: an
--   insert's entry holds ids alone, an update's the old values of what changed, a delete's the old row.
--   The new values are in the next entry of the same row, or in the row.
-- Code: runs before the first release.
-- Locks: each audited table, against writes, for a moment (triggers).
-- Rollback loses: the whole trail.
-- depends: 0010_create_idempotency_keys

SET LOCAL ROLE todochat_owner;

CREATE TABLE public.audit_log (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor_id uuid,
    action text NOT NULL,
    table_name text NOT NULL,
    row_id uuid NOT NULL,
    before jsonb,
    request_id text,
    CONSTRAINT audit_log_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT audit_log_action_check CHECK (action IN ('insert', 'update', 'delete'))
);

COMMENT ON TABLE public.audit_log IS
    'One entry for every insert, update and delete of a user''s data, written by triggers. Append-only: the service '
    'reads its user''s entries and can do nothing else. No foreign key: entries outlive what they tell of.';
COMMENT ON COLUMN public.audit_log.user_id IS 'Whose data changed.';
COMMENT ON COLUMN public.audit_log.id IS 'UUID version 7, of the time of the change.';
COMMENT ON COLUMN public.audit_log.xact IS
    'The transaction. Once it is below pg_snapshot_xmin() no entry of it or an earlier one can appear any more: '
    'the change feed hands out entries in the order of (xact, id) up to there.';
COMMENT ON COLUMN public.audit_log.at IS 'When the change was made.';
COMMENT ON COLUMN public.audit_log.actor_id IS 'Who made it: app.user_id of the transaction; null for work by hand.';
COMMENT ON COLUMN public.audit_log.action IS 'insert, update or delete.';
COMMENT ON COLUMN public.audit_log.table_name IS
    'The table''s name as the trigger''s argument gives it (a shard is called otherwise).';
COMMENT ON COLUMN public.audit_log.row_id IS 'id of the changed row.';
COMMENT ON COLUMN public.audit_log.before IS
    'Null for an insert; for an update the old values of the changed columns, version included, which orders the '
    'entries of a row; for a delete the old row. Never password hashes, never generated columns.';
COMMENT ON COLUMN public.audit_log.request_id IS 'app.request_id of the transaction: the X-Request-ID of the request.';
CREATE INDEX audit_log_user_id_xact_idx ON public.audit_log (user_id, xact, id);
CREATE INDEX audit_log_user_id_row_id_idx ON public.audit_log (user_id, row_id, id);

COMMENT ON INDEX public.audit_log_pkey IS 'Serves one entry by id, and the audit list, newest first.';
COMMENT ON INDEX public.audit_log_user_id_xact_idx IS 'Serves the change feed, in commit order.';
COMMENT ON INDEX public.audit_log_user_id_row_id_idx IS
    'Serves the new values of an entry, found in the next entry of its row, and the audit list of one row.';

GRANT SELECT ON public.audit_log TO todochat_app;

ALTER TABLE public.audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.audit_log FORCE ROW LEVEL SECURITY;

CREATE POLICY audit_log_owner ON public.audit_log FOR SELECT
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

CREATE POLICY audit_log_append ON public.audit_log FOR INSERT TO todochat_owner
WITH CHECK (true);

COMMENT ON POLICY audit_log_owner ON public.audit_log IS 'A transaction reads entries of the user it is for.';
COMMENT ON POLICY audit_log_append ON public.audit_log IS
    'The audit functions, which run as the owner, append for whoever''s data changed.';

-- One function for each way an entry looks, and columns by name: taking the difference of two rows as
-- jsonb costs several times as much. Each trigger names its table in its argument.

CREATE FUNCTION public.audit_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, request_id)
    VALUES (
        NEW.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'insert', TG_ARGV[0], NEW.id,
        nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_insert() IS 'Trigger: an entry for a new row. Argument: the table.';

CREATE FUNCTION public.audit_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'delete', TG_ARGV[0], OLD.id,
        to_jsonb(OLD) - TG_ARGV[1]::text[], nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_delete() IS
    'Trigger: an entry with the deleted row. Arguments: the table, and the columns to leave out.';

CREATE FUNCTION public.audit_users() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    old_values jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN
        old_values := to_jsonb(OLD) - '{password_hash,email_key,username_key}'::text[];
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.version = OLD.version THEN
            RETURN NULL;
        END IF;
        old_values := jsonb_build_object('updated_at', OLD.updated_at, 'version', OLD.version);
        IF NEW.email IS DISTINCT FROM OLD.email THEN
            old_values := old_values || jsonb_build_object('email', OLD.email);
        END IF;
        IF NEW.username IS DISTINCT FROM OLD.username THEN
            old_values := old_values || jsonb_build_object('username', OLD.username);
        END IF;
        IF NEW.full_name IS DISTINCT FROM OLD.full_name THEN
            old_values := old_values || jsonb_build_object('full_name', OLD.full_name);
        END IF;
        IF NEW.is_active IS DISTINCT FROM OLD.is_active THEN
            old_values := old_values || jsonb_build_object('is_active', OLD.is_active);
        END IF;
        IF NEW.token_version IS DISTINCT FROM OLD.token_version THEN
            old_values := old_values || jsonb_build_object('token_version', OLD.token_version);
        END IF;
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        coalesce(NEW.id, OLD.id), nullif(current_setting('app.user_id', true), '')::uuid, lower(TG_OP), TG_ARGV[0],
        coalesce(NEW.id, OLD.id), old_values, nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_users() IS
    'Trigger: an entry for a user made, changed or deleted, whose own data it is. Argument: the table.';

CREATE FUNCTION public.audit_identities_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    old_values jsonb := jsonb_build_object('updated_at', OLD.updated_at, 'version', OLD.version);
BEGIN
    IF NEW.version = OLD.version THEN
        RETURN NULL;
    END IF;
    IF NEW.issuer IS DISTINCT FROM OLD.issuer THEN
        old_values := old_values || jsonb_build_object('issuer', OLD.issuer);
    END IF;
    IF NEW.subject IS DISTINCT FROM OLD.subject THEN
        old_values := old_values || jsonb_build_object('subject', OLD.subject);
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'update', TG_ARGV[0], OLD.id,
        old_values, nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_identities_update() IS
    'Trigger: an entry with the old values of what changed in a row of identities. Argument: the table.';

CREATE FUNCTION public.audit_todos_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    old_values jsonb := jsonb_build_object('updated_at', OLD.updated_at, 'version', OLD.version);
BEGIN
    IF NEW.version = OLD.version THEN
        RETURN NULL;
    END IF;
    IF NEW.title IS DISTINCT FROM OLD.title THEN
        old_values := old_values || jsonb_build_object('title', OLD.title);
    END IF;
    IF NEW.description IS DISTINCT FROM OLD.description THEN
        old_values := old_values || jsonb_build_object('description', OLD.description);
    END IF;
    IF NEW.status IS DISTINCT FROM OLD.status THEN
        old_values := old_values || jsonb_build_object('status', OLD.status);
    END IF;
    IF NEW.priority IS DISTINCT FROM OLD.priority THEN
        old_values := old_values || jsonb_build_object('priority', OLD.priority);
    END IF;
    IF NEW.due_date IS DISTINCT FROM OLD.due_date THEN
        old_values := old_values || jsonb_build_object('due_date', OLD.due_date);
    END IF;
    IF NEW.assigned_to IS DISTINCT FROM OLD.assigned_to THEN
        old_values := old_values || jsonb_build_object('assigned_to', OLD.assigned_to);
    END IF;
    IF NEW.completed_at IS DISTINCT FROM OLD.completed_at THEN
        old_values := old_values || jsonb_build_object('completed_at', OLD.completed_at);
    END IF;
    IF NEW.metadata IS DISTINCT FROM OLD.metadata THEN
        old_values := old_values || jsonb_build_object('metadata', OLD.metadata);
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'update', TG_ARGV[0], OLD.id,
        old_values, nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_todos_update() IS
    'Trigger: an entry with the old values of what changed in a row of todos. Argument: the table.';

CREATE FUNCTION public.audit_conversations_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    -- All four at once: an appended message moves them together.
    old_values jsonb := jsonb_build_object(
        'last_position', OLD.last_position, 'message_count', OLD.message_count, 'updated_at', OLD.updated_at,
        'version', OLD.version
    );
BEGIN
    IF NEW.version = OLD.version THEN
        RETURN NULL;
    END IF;
    IF NEW.last_position = OLD.last_position THEN
        old_values := old_values - 'last_position';
        IF NEW.message_count = OLD.message_count THEN
            old_values := old_values - 'message_count';
        END IF;
    END IF;
    IF NEW.title IS DISTINCT FROM OLD.title THEN
        old_values := old_values || jsonb_build_object('title', OLD.title);
    END IF;
    IF NEW.metadata IS DISTINCT FROM OLD.metadata THEN
        old_values := old_values || jsonb_build_object('metadata', OLD.metadata);
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'update', TG_ARGV[0], OLD.id,
        old_values, nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_conversations_update() IS
    'Trigger: an entry with the old values of what changed in a row of conversations. Argument: the table.';

CREATE FUNCTION public.audit_messages_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    old_values jsonb := jsonb_build_object('updated_at', OLD.updated_at, 'version', OLD.version);
BEGIN
    IF NEW.version = OLD.version THEN
        RETURN NULL;
    END IF;
    IF NEW.content IS DISTINCT FROM OLD.content THEN
        old_values := old_values || jsonb_build_object('content', OLD.content);
    END IF;
    IF NEW.message_type IS DISTINCT FROM OLD.message_type THEN
        old_values := old_values || jsonb_build_object('message_type', OLD.message_type);
    END IF;
    IF NEW.metadata IS DISTINCT FROM OLD.metadata THEN
        old_values := old_values || jsonb_build_object('metadata', OLD.metadata);
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'update', TG_ARGV[0], OLD.id,
        old_values, nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_messages_update() IS
    'Trigger: an entry with the old values of what changed in a row of messages. Argument: the table.';

CREATE FUNCTION public.audit_todo_conversation_links_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    old_values jsonb := jsonb_build_object('updated_at', OLD.updated_at, 'version', OLD.version);
BEGIN
    IF NEW.version = OLD.version THEN
        RETURN NULL;
    END IF;
    IF NEW.relationship_type IS DISTINCT FROM OLD.relationship_type THEN
        old_values := old_values || jsonb_build_object('relationship_type', OLD.relationship_type);
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'update', TG_ARGV[0], OLD.id,
        old_values, nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_todo_conversation_links_update() IS
    'Trigger: an entry with the old values of what changed in a row of todo_conversation_links. Argument: the table.';

REVOKE ALL ON FUNCTION
    public.audit_insert(),
    public.audit_delete(),
    public.audit_users(),
    public.audit_identities_update(),
    public.audit_todos_update(),
    public.audit_conversations_update(),
    public.audit_messages_update(),
    public.audit_todo_conversation_links_update()
FROM PUBLIC;

CREATE TRIGGER users_audit_insert AFTER INSERT ON public.users
FOR EACH ROW EXECUTE FUNCTION public.audit_users('users');

CREATE TRIGGER users_audit_update AFTER UPDATE ON public.users
FOR EACH ROW EXECUTE FUNCTION public.audit_users('users');

CREATE TRIGGER users_audit_delete AFTER DELETE ON public.users
FOR EACH ROW EXECUTE FUNCTION public.audit_users('users');

CREATE TRIGGER identities_audit_insert AFTER INSERT ON public.identities
FOR EACH ROW EXECUTE FUNCTION public.audit_insert('identities');

CREATE TRIGGER identities_audit_update AFTER UPDATE ON public.identities
FOR EACH ROW EXECUTE FUNCTION public.audit_identities_update('identities');

CREATE TRIGGER identities_audit_delete AFTER DELETE ON public.identities
FOR EACH ROW EXECUTE FUNCTION public.audit_delete('identities', '{}');

CREATE TRIGGER todos_audit_insert AFTER INSERT ON public.todos
FOR EACH ROW EXECUTE FUNCTION public.audit_insert('todos');

CREATE TRIGGER todos_audit_update AFTER UPDATE ON public.todos
FOR EACH ROW EXECUTE FUNCTION public.audit_todos_update('todos');

CREATE TRIGGER todos_audit_delete AFTER DELETE ON public.todos
FOR EACH ROW EXECUTE FUNCTION public.audit_delete('todos', '{completed,priority_rank}');

CREATE TRIGGER conversations_audit_insert AFTER INSERT ON public.conversations
FOR EACH ROW EXECUTE FUNCTION public.audit_insert('conversations');

CREATE TRIGGER conversations_audit_update AFTER UPDATE ON public.conversations
FOR EACH ROW EXECUTE FUNCTION public.audit_conversations_update('conversations');

CREATE TRIGGER conversations_audit_delete AFTER DELETE ON public.conversations
FOR EACH ROW EXECUTE FUNCTION public.audit_delete('conversations', '{}');

CREATE TRIGGER messages_audit_insert AFTER INSERT ON public.messages
FOR EACH ROW EXECUTE FUNCTION public.audit_insert('messages');

CREATE TRIGGER messages_audit_update AFTER UPDATE ON public.messages
FOR EACH ROW EXECUTE FUNCTION public.audit_messages_update('messages');

CREATE TRIGGER messages_audit_delete AFTER DELETE ON public.messages
FOR EACH ROW EXECUTE FUNCTION public.audit_delete('messages', '{role}');

CREATE TRIGGER todo_conversation_links_audit_insert AFTER INSERT ON public.todo_conversation_links
FOR EACH ROW EXECUTE FUNCTION public.audit_insert('todo_conversation_links');

CREATE TRIGGER todo_conversation_links_audit_update AFTER UPDATE ON public.todo_conversation_links
FOR EACH ROW EXECUTE FUNCTION public.audit_todo_conversation_links_update('todo_conversation_links');

CREATE TRIGGER todo_conversation_links_audit_delete AFTER DELETE ON public.todo_conversation_links
FOR EACH ROW EXECUTE FUNCTION public.audit_delete('todo_conversation_links', '{}');

COMMENT ON TRIGGER users_audit_insert ON public.users IS 'An audit entry for a new row.';
COMMENT ON TRIGGER users_audit_update ON public.users IS 'An audit entry for a real change.';
COMMENT ON TRIGGER users_audit_delete ON public.users IS 'An audit entry for a deleted row.';
COMMENT ON TRIGGER identities_audit_insert ON public.identities IS 'An audit entry for a new row.';
COMMENT ON TRIGGER identities_audit_update ON public.identities IS 'An audit entry for a real change.';
COMMENT ON TRIGGER identities_audit_delete ON public.identities IS 'An audit entry for a deleted row.';
COMMENT ON TRIGGER todos_audit_insert ON public.todos IS 'An audit entry for a new row.';
COMMENT ON TRIGGER todos_audit_update ON public.todos IS 'An audit entry for a real change.';
COMMENT ON TRIGGER todos_audit_delete ON public.todos IS 'An audit entry for a deleted row.';
COMMENT ON TRIGGER conversations_audit_insert ON public.conversations IS 'An audit entry for a new row.';
COMMENT ON TRIGGER conversations_audit_update ON public.conversations IS 'An audit entry for a real change.';
COMMENT ON TRIGGER conversations_audit_delete ON public.conversations IS 'An audit entry for a deleted row.';
COMMENT ON TRIGGER messages_audit_insert ON public.messages IS 'An audit entry for a new row.';
COMMENT ON TRIGGER messages_audit_update ON public.messages IS 'An audit entry for a real change.';
COMMENT ON TRIGGER messages_audit_delete ON public.messages IS 'An audit entry for a deleted row.';
COMMENT ON TRIGGER todo_conversation_links_audit_insert ON public.todo_conversation_links IS
    'An audit entry for a new row.';
COMMENT ON TRIGGER todo_conversation_links_audit_update ON public.todo_conversation_links IS
    'An audit entry for a real change.';
COMMENT ON TRIGGER todo_conversation_links_audit_delete ON public.todo_conversation_links IS
    'An audit entry for a deleted row.';
