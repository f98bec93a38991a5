-- Let nobody keep a user from deactivating by assigning todos to them.
--
-- What: users_check_deactivation() takes the user off other people's open todos, and refuses only because of their own;
--   an operator is not refused at all. A policy that lets the owner of the tables, as whom it runs, do this.
-- Why: whoever knew a username could assign a todo to it, and its user couldn't leave before somebody else acted. No
--   open todo may hang on somebody who can't act, so it is unassigned, in the same transaction and with an entry in its
--   owner's trail. An operator must be able to lock any account.
-- Code: runs before the release that says so; the release before deactivates more often, and rightly.
-- Locks: todos and users, against everything, for a moment (catalogue only).
-- Rollback loses: nothing.
-- depends: 0016_create_resolve_identity

SET LOCAL ROLE todochat_owner;

CREATE POLICY todos_unassign ON public.todos FOR UPDATE TO todochat_owner
USING (assigned_to IS NOT NULL)
WITH CHECK (assigned_to IS NULL);

COMMENT ON POLICY todos_unassign ON public.todos IS
    'users_check_deactivation() runs as the owner and takes an assignee off whoever''s todos. It can change nothing else.';

CREATE OR REPLACE FUNCTION public.users_check_deactivation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    open_todos CURSOR FOR
        SELECT t.user_id
        FROM public.todos AS t
        WHERE t.assigned_to = NEW.id AND t.status IN ('pending', 'in_progress')
        FOR UPDATE;
BEGIN
    -- The row is locked by now. What was assigned while waiting for it is seen by a new snapshot only.
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION 'a user cannot be deactivated in a REPEATABLE READ transaction'
            USING ERRCODE = 'invalid_transaction_state', HINT = 'Use READ COMMITTED.';
    END IF;
    FOR todo IN open_todos LOOP
        IF todo.user_id = NEW.id AND NOT pg_has_role(session_user, 'todochat_owner', 'MEMBER') THEN
            RAISE EXCEPTION 'the user still has todos of their own assigned that are pending or in progress'
                USING ERRCODE = 'TC410', TABLE = 'users', COLUMN = 'is_active';
        END IF;
        -- The owner of the tables may not see the row that results, and an UPDATE with a condition on columns would need
        -- to. CURRENT OF is none.
        UPDATE public.todos
        SET assigned_to = NULL
        WHERE CURRENT OF open_todos;
    END LOOP;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.users_check_deactivation() IS
    'Trigger: takes a user who is deactivated off pending and in_progress todos. Unless an operator does it, refuses who '
    'is assigned to such todos of their own (TC410).';
COMMENT ON TRIGGER users_check_deactivation ON public.users IS
    'Takes whoever is deactivated off open todos of others, and refuses whoever is assigned to open todos of their own.';
