-- Hold an assignee's being active from the statement on. Nothing is lost.

SET LOCAL ROLE todochat_owner;

ALTER TABLE public.todos ALTER CONSTRAINT todos_assigned_to_fkey NOT DEFERRABLE;
DROP FUNCTION public.unassign_todos(uuid, integer, integer, boolean);
DROP TRIGGER todos_assignee_hold ON public.todos;
DROP TRIGGER todos_assignee_hold_update ON public.todos;
CREATE OR REPLACE FUNCTION public.todos_validate_assignee() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    is_open constant boolean := NEW.status IN ('pending', 'in_progress');
BEGIN
    -- Nothing to check where a closed todo stays closed, or an open one stays with whom it was. Whoever a closed todo
    -- that is brought back was assigned to may have left since; the foreign key still wants them to exist.
    IF (NEW.assigned_to = OLD.assigned_to AND (OLD.status IN ('pending', 'in_progress') OR NOT is_open))
        OR (TG_OP = 'INSERT' AND NOT is_open AND current_setting('app.restoring', true) = 'on')
    THEN
        RETURN NEW;
    END IF;
    -- FOR SHARE: a deactivation waits until this transaction is through, and then sees the todo.
    PERFORM FROM public.users AS u WHERE u.id = NEW.assigned_to AND u.is_active FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'assigned_to must be an active user: "todos_assigned_to_check"'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'assigned_to',
                CONSTRAINT = 'todos_assigned_to_check';
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION public.todos_validate_assignee() IS
    'Trigger: refuses an assignee who is unknown or inactive, and holds their being active until the transaction ends.';
COMMENT ON TRIGGER todos_validate_assignee ON public.todos IS 'An assignee must be an active user.';
