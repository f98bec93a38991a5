-- Links between a tenth of the todos and the conversation that began last before them.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param first: integer, the number of the first user whose links are made
-- param last: integer, the number of the last one

INSERT INTO public.todo_conversation_links (
    user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at
)
SELECT
    t.user_id,
    public.demo_uuid7(t.created_at, b.bits),
    t.id,
    c.id,
    public.demo_pick(ARRAY['creation', 'creation', 'creation', 'update', 'discussion'], public.demo_random(b.bits, 1)),
    t.created_at,
    t.created_at
FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(last)s) AS u
INNER JOIN public.todos AS t ON t.user_id = u.id
CROSS JOIN LATERAL (SELECT uuid_hash_extended(t.id, 1)) AS b (bits)
CROSS JOIN LATERAL (
    -- Ids begin with the time.
    SELECT k.id
    FROM public.conversations AS k
    WHERE k.user_id = t.user_id AND k.id < t.id
    ORDER BY k.id DESC
    LIMIT 1
) AS c
WHERE public.demo_random(b.bits, 2) < 0.1
ORDER BY t.user_id, t.id;
