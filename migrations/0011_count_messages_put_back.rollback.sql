-- Have a message that is put back leave its conversation's last_position. Nothing is lost; positions given go on.

SET LOCAL ROLE todochat_owner;

CREATE OR REPLACE FUNCTION public.messages_after_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    -- The first statement that comes here may have counted some of its messages already: then all are counted anew.
    is_mixed constant boolean := current_setting('app.messages_bulk') = 'mixed'
        AND current_setting('app.restoring', true) IS DISTINCT FROM 'on';
BEGIN
    UPDATE public.conversations AS c
    SET last_position = greatest(c.last_position, a.last_position),
        message_count = CASE
            WHEN is_mixed THEN (
                SELECT count(*) FROM public.messages AS m WHERE m.user_id = c.user_id AND m.conversation_id = c.id
            )
            ELSE c.message_count + a.count
        END,
        updated_at = greatest(c.updated_at, a.last_at)
    FROM (
        SELECT i.user_id, i.conversation_id, max(i.position) AS last_position, count(*) AS count,
            max(i.created_at) AS last_at
        FROM inserted AS i
        GROUP BY i.user_id, i.conversation_id
    ) AS a
    WHERE c.user_id = a.user_id AND c.id = a.conversation_id;
    PERFORM set_config('app.messages_bulk', 'on', true);
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION public.messages_after_insert() IS
    'Trigger: counts the messages that a statement added on their conversations, once for each: linear for any number. '
    'With app.restoring = ''on'' the conversation''s updated_at stays where it was, unless a message is younger.';
COMMENT ON COLUMN public.conversations.last_position IS 'The highest position ever given here, by trigger; 0 before.';
