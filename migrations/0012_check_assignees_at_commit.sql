-- Hold an assignee's being active from the commit on, not from the statement; and unassign very many todos by steps.
-- Why: FOR SHARE on the assignee's row kept them from ending their sessions and from a new password for as long as
--   somebody else's transaction ran, which may be an import of two minutes; the foreign key's lock, from erasing their
--   account. And with todos enough, others kept somebody from deactivating or erasing it, in which all of these are
--   unassigned at once.
-- Locks: todos and users, against everything, for a moment (triggers, and when the foreign key is checked).
-- Rollback loses: nothing.
-- depends: 0011_count_messages_put_back
SET LOCAL ROLE todochat_owner;
CREATE OR REPLACE FUNCTION public.todos_validate_assignee() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    is_open constant boolean := NEW.status IN ('pending', 'in_progress');
BEGIN
    -- Nothing to check where a closed todo stays closed, or an open one stays with whom it was.
    IF NEW.assigned_to = OLD.assigned_to AND (OLD.status IN ('pending', 'in_progress') OR NOT is_open) THEN
        RETURN NEW;
    END IF;
    -- Whoever a closed todo that is brought back was assigned to may have left since, and must exist.
    IF TG_OP = 'INSERT' AND NOT is_open AND current_setting('app.restoring', true) = 'on' THEN
        IF TG_WHEN = 'BEFORE' AND NOT EXISTS (SELECT FROM public.users AS u WHERE u.id = NEW.assigned_to) THEN
            RAISE EXCEPTION 'assigned_to must be a user: "todos_assigned_to_fkey"'
                USING ERRCODE = 'foreign_key_violation', TABLE = 'todos', COLUMN = 'assigned_to',
                    CONSTRAINT = 'todos_assigned_to_fkey';
        END IF;
        RETURN NEW;
    END IF;
    -- At the commit, a deactivation waits until this transaction is through, and then sees the todo.
    IF TG_WHEN = 'BEFORE' THEN
        PERFORM FROM public.users AS u WHERE u.id = NEW.assigned_to AND u.is_active;
    ELSE
        PERFORM FROM public.users AS u WHERE u.id = NEW.assigned_to AND u.is_active FOR SHARE;
    END IF;
    IF NOT FOUND AND (TG_WHEN = 'BEFORE' OR EXISTS (
        -- What the transaction has taken back since is no matter.
        SELECT FROM public.todos AS t
        WHERE t.user_id = NEW.user_id AND t.id = NEW.id AND t.assigned_to = NEW.assigned_to
            AND (t.status IN ('pending', 'in_progress') OR NOT is_open)
    ))
    THEN
        RAISE EXCEPTION 'assigned_to must be an active user: "todos_assigned_to_check"'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'assigned_to',
                CONSTRAINT = 'todos_assigned_to_check';
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION public.todos_validate_assignee() IS
    'Trigger: refuses an assignee who is unknown or inactive; at the commit, holds their being active until it is done.';
ALTER TABLE public.todos ALTER CONSTRAINT todos_assigned_to_fkey DEFERRABLE INITIALLY DEFERRED;
-- Called so, they run ahead of todos_audit, which takes the lock of the owner's trail: who deactivates an account locks
-- its row first and then the trails.
CREATE CONSTRAINT TRIGGER todos_assignee_hold AFTER INSERT ON public.todos DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.assigned_to IS NOT NULL) EXECUTE FUNCTION public.todos_validate_assignee();
CREATE CONSTRAINT TRIGGER todos_assignee_hold_update AFTER UPDATE OF assigned_to, status ON public.todos
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.assigned_to IS NOT NULL) EXECUTE FUNCTION public.todos_validate_assignee();
COMMENT ON TRIGGER todos_validate_assignee ON public.todos IS 'An assignee must be an active user: told at once.';
COMMENT ON TRIGGER todos_assignee_hold ON public.todos IS 'An assignee is still active when a todo is committed.';
COMMENT ON TRIGGER todos_assignee_hold_update ON public.todos IS 'An assignee is still active when a change is committed.';

CREATE FUNCTION public.unassign_todos(user_id uuid, version integer, most integer, only_open boolean) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    taken integer := 0;
    others CURSOR FOR
        SELECT t.user_id
        FROM public.todos AS t
        WHERE t.assigned_to = unassign_todos.user_id AND t.user_id <> unassign_todos.user_id
            AND (NOT only_open OR t.status IN ('pending', 'in_progress'))
        LIMIT most
        FOR UPDATE;
BEGIN
    IF unassign_todos.user_id IS DISTINCT FROM nullif(current_setting('app.user_id', true), '')::uuid THEN
        RAISE EXCEPTION 'a transaction can unassign the user it is for, and nobody else'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM FROM public.todos AS t
    WHERE t.assigned_to = unassign_todos.user_id AND t.user_id <> unassign_todos.user_id
        AND (NOT only_open OR t.status IN ('pending', 'in_progress'))
    OFFSET most LIMIT 1;
    -- What will be refused changes nothing.
    IF NOT FOUND
        OR NOT EXISTS (
            SELECT FROM public.users AS u
            WHERE u.id = unassign_todos.user_id
                AND (unassign_todos.version IS NULL OR u.version = unassign_todos.version)
        )
        OR only_open AND EXISTS (
            SELECT FROM public.todos AS t
            WHERE t.user_id = unassign_todos.user_id AND t.assigned_to = t.user_id
                AND t.status IN ('pending', 'in_progress')
        )
    THEN
        RETURN 0;
    END IF;
    -- Emptied, since todos_validate() lets an assignee change the status and nothing else.
    SET LOCAL app.user_id = '';
    FOR todo IN others LOOP
        -- As in users_before_revocation().
        UPDATE public.todos
        SET assigned_to = NULL
        WHERE CURRENT OF others;
        taken := taken + 1;
    END LOOP;
    EXECUTE format('SET LOCAL app.user_id = %L', unassign_todos.user_id);
    RETURN taken;
END
$body$;
COMMENT ON FUNCTION public.unassign_todos(uuid, integer, integer, boolean) IS
    'Takes the user of the transaction off so many of other people''s todos, if there are more: the last ones go when the '
    'account is deactivated (then only_open) or erased, at that version. How many were taken.';
GRANT EXECUTE ON FUNCTION public.unassign_todos(uuid, integer, integer, boolean) TO todochat_app;
