-- Keep no statistics of whose a row is, and count the messages that were added conversation by conversation.
-- Why: of a small table's users, all are among the most common values, and of anybody else the planner expected one
--   row. It then took any index that begins with user_id for any search, and joined all of a newcomer's conversations
--   with all messages that came: imports, undos and erasures of some thousand rows never came to an end.
-- Locks: nothing that reads or writes; VACUUM and other changes of these tables wait for a moment.
-- Rollback loses: nothing.
-- depends: 0012_check_assignees_at_commit
SET LOCAL ROLE todochat_owner;
ALTER TABLE public.messages ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE public.todo_conversation_links ALTER COLUMN user_id SET STATISTICS 0;
-- What was gathered before stays otherwise. Servers before 18 have no function for it, so there a superuser may run
-- DELETE FROM pg_statistic for these columns; a database that is restored from a backup has none of them.
DO $body$
DECLARE
    name text;
BEGIN
    IF to_regproc('pg_catalog.pg_clear_attribute_stats') IS NOT NULL THEN
        FOR name IN
            SELECT c.relname
            FROM pg_attribute AS a
            INNER JOIN pg_class AS c ON c.oid = a.attrelid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
                AND a.attname = 'user_id' AND a.attstattarget = 0
        LOOP
            EXECUTE format('SELECT pg_clear_attribute_stats(%L, %L, %L, false)', 'public', name, 'user_id');
        END LOOP;
    END IF;
END
$body$;

CREATE OR REPLACE FUNCTION public.messages_after_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    is_restoring constant boolean := coalesce(current_setting('app.restoring', true), '') = 'on';
    -- The first statement that comes here may have counted some of its messages already: then all are counted anew.
    is_mixed constant boolean := NOT is_restoring AND current_setting('app.messages_bulk') = 'mixed';
    added record;
BEGIN
    -- One by one, since in a join the planner may expect too little, and then nothing is linear.
    FOR added IN
        SELECT i.user_id, i.conversation_id, max(i.position) AS last_position, max(i.created_at) AS last_at,
            array_agg(i.position) AS positions
        FROM inserted AS i
        GROUP BY i.user_id, i.conversation_id
    LOOP
        UPDATE public.conversations AS c
        SET (last_position, message_count, updated_at) = (
            SELECT greatest(c.last_position, added.last_position) + b.put_back, c.message_count + a.uncounted,
                greatest(c.updated_at, added.last_at, CASE WHEN b.put_back > 0 THEN clock_timestamp() END)
            FROM (
                SELECT CASE
                    WHEN is_mixed THEN -c.message_count + (
                        SELECT count(*) FROM public.messages AS m WHERE m.user_id = c.user_id AND m.conversation_id = c.id
                    )
                    ELSE cardinality(added.positions)
                END AS uncounted
            ) AS a
            CROSS JOIN LATERAL (
                SELECT CASE
                    WHEN is_restoring THEN 0
                    ELSE a.uncounted - count(*) FILTER (WHERE p.position > c.last_position)
                END AS put_back
                FROM unnest(added.positions) AS p (position)
            ) AS b
        )
        WHERE c.user_id = added.user_id AND c.id = added.conversation_id;
    END LOOP;
    PERFORM set_config('app.messages_bulk', 'on', true);
    RETURN NULL;
END
$body$;
