-- Make the function that refuses a turn when somebody wrote in between.
--
-- What: expect_position(uuid, uuid, integer).
-- Why: a turn checks the position, appends and reads its context in one round trip; only a statement
--   that raises can keep the inserts behind it from running.
-- Code: runs before the release that offers turns.
-- Locks: nothing that exists.
-- Rollback loses: nothing.
-- depends: 0011_create_audit_log

SET LOCAL ROLE todochat_owner;

CREATE FUNCTION public.expect_position(user_id uuid, conversation_id uuid, expected integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    current_position integer;
BEGIN
    PERFORM FROM public.conversations AS c
    WHERE c.user_id = expect_position.user_id AND c.id = expect_position.conversation_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such conversation'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'messages', COLUMN = 'conversation_id',
                CONSTRAINT = 'messages_conversation_id_fkey';
    END IF;
    IF expected IS NULL THEN
        RETURN;
    END IF;
    -- Behind the lock: a new snapshot, which sees what the writer before has committed.
    SELECT max(m.position) INTO current_position
    FROM public.messages AS m
    WHERE m.user_id = expect_position.user_id AND m.conversation_id = expect_position.conversation_id;
    IF coalesce(current_position, 0) <> expected THEN
        RAISE EXCEPTION 'the last message is at another position'
            USING ERRCODE = 'TC411', DETAIL = coalesce(current_position, 0);
    END IF;
END
$body$;

COMMENT ON FUNCTION public.expect_position(uuid, uuid, integer) IS
    'Locks a conversation against other writers; raises TC411, with the position of its last message (0 when there is '
    'none) as DETAIL, when that is not the expected one. Null expects nothing.';

REVOKE ALL ON FUNCTION public.expect_position(uuid, uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.expect_position(uuid, uuid, integer) TO todochat_app;
