-- Refuse again to deactivate whoever has open todos assigned, whosever they are. Nothing is lost.

SET LOCAL ROLE todochat_owner;

CREATE OR REPLACE FUNCTION public.users_check_deactivation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- The row is locked by now. What was assigned while waiting for it is seen by a new snapshot only.
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION 'a user cannot be deactivated in a REPEATABLE READ transaction'
            USING ERRCODE = 'invalid_transaction_state', HINT = 'Use READ COMMITTED.';
    END IF;
    IF EXISTS (
        SELECT 1
        FROM public.todos AS t
        WHERE t.assigned_to = NEW.id AND t.status IN ('pending', 'in_progress')
    ) THEN
        RAISE EXCEPTION 'the user still has todos assigned that are pending or in progress'
            USING ERRCODE = 'TC410', TABLE = 'users', COLUMN = 'is_active';
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.users_check_deactivation() IS
    'Trigger: refuses to deactivate a user who has pending or in_progress todos assigned (TC410).';
COMMENT ON TRIGGER users_check_deactivation ON public.users IS 'Refuses to deactivate whoever has open todos assigned.';

DROP POLICY todos_unassign ON public.todos;
