-- What the triggers would have written: where the numbers of todos stand, and an audit entry for each row.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param first: integer, the number of the first user whose rows are meant
-- param last: integer, the number of the last one

INSERT INTO public.todo_counters (user_id, last_number)
SELECT t.user_id, max(t.number)
FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(last)s) AS u
INNER JOIN public.todos AS t ON t.user_id = u.id
GROUP BY t.user_id
ORDER BY t.user_id;

-- In the order in which the triggers would have written them for each user.
WITH owners AS MATERIALIZED (
    SELECT u.id
    FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(last)s) AS u
)

INSERT INTO public.audit_log (user_id, seq, at, actor_id, action, table_name, row_id)
SELECT
    e.user_id,
    row_number() OVER (PARTITION BY e.user_id ORDER BY e.turn, e.thread, e.position) AS seq,
    now(),
    e.user_id,
    'insert',
    e.table_name,
    e.row_id
FROM (
    SELECT o.id, 1, 'users', o.id, NULL::uuid, NULL::integer
    FROM owners AS o
    UNION ALL
    SELECT t.user_id, 2, 'todos', t.id, NULL, t.number
    FROM owners AS o
    INNER JOIN public.todos AS t ON t.user_id = o.id
    UNION ALL
    SELECT c.user_id, 3, 'conversations', c.id, c.id, NULL
    FROM owners AS o
    INNER JOIN public.conversations AS c ON c.user_id = o.id
    UNION ALL
    SELECT m.user_id, 4, 'messages', m.id, m.conversation_id, m.position
    FROM owners AS o
    INNER JOIN public.messages AS m ON m.user_id = o.id
    UNION ALL
    SELECT l.user_id, 5, 'todo_conversation_links', l.id, l.id, NULL
    FROM owners AS o
    INNER JOIN public.todo_conversation_links AS l ON l.user_id = o.id
) AS e (user_id, turn, table_name, row_id, thread, position)
ORDER BY e.user_id, seq;
