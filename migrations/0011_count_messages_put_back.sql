-- Have a message that is put back raise its conversation's last_position.
-- Why: the version that clients see, version + 2 * last_position - message_count, fell where a deleted message was put
--   back, and then came again for another state: If-Match with an old ETag would have let a write through.
-- Locks: nothing. Transactions under way go on with the function they began with.
-- Rollback loses: nothing.
-- depends: 0010_create_erase_user
SET LOCAL ROLE todochat_owner;
CREATE OR REPLACE FUNCTION public.messages_after_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    is_restoring constant boolean := coalesce(current_setting('app.restoring', true), '') = 'on';
    -- The first statement that comes here may have counted some of its messages already: then all are counted anew.
    is_mixed constant boolean := NOT is_restoring AND current_setting('app.messages_bulk') = 'mixed';
BEGIN
    UPDATE public.conversations AS c
    SET last_position = greatest(c.last_position, n.last_position) + n.put_back,
        message_count = c.message_count + n.uncounted,
        updated_at = greatest(c.updated_at, n.last_at, CASE WHEN n.put_back > 0 THEN clock_timestamp() END)
    FROM (
        SELECT a.*, CASE WHEN is_restoring THEN 0 ELSE a.not_ahead - (a.count - a.uncounted) END AS put_back
        FROM (
            SELECT i.user_id, i.conversation_id, max(i.position) AS last_position, max(i.created_at) AS last_at,
                count(*) AS count, count(*) FILTER (WHERE i.position <= b.last_position) AS not_ahead,
                CASE
                    WHEN is_mixed THEN -b.message_count + (
                        SELECT count(*) FROM public.messages AS m WHERE m.user_id = b.user_id AND m.conversation_id = b.id
                    )
                    ELSE count(*)
                END AS uncounted
            FROM inserted AS i
            INNER JOIN public.conversations AS b ON b.user_id = i.user_id AND b.id = i.conversation_id
            GROUP BY i.user_id, i.conversation_id, b.user_id, b.id
        ) AS a
    ) AS n
    WHERE c.user_id = n.user_id AND c.id = n.conversation_id;
    PERFORM set_config('app.messages_bulk', 'on', true);
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION public.messages_after_insert() IS
    'Trigger: counts the messages that a statement added on their conversations, once for each: linear for any number. '
    'One put in at or below last_position raises that by one, so that the version that clients see never comes again; but '
    'with app.restoring = ''on'' the conversation is as it was, updated_at too, unless a message is younger.';
COMMENT ON COLUMN public.conversations.last_position IS
    'The highest position ever given here, and one more for each message put back since, by trigger; 0 before.';
