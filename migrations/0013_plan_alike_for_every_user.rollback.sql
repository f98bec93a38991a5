-- Keep statistics of whose a row is, as of any other column, and count messages by a join. Nothing is lost.

SET LOCAL ROLE todochat_owner;

ALTER TABLE public.messages ALTER COLUMN user_id SET STATISTICS -1;
ALTER TABLE public.todo_conversation_links ALTER COLUMN user_id SET STATISTICS -1;

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
