-- Conversations, each with the count of the messages that messages.sql makes. Most are short and a few very long: of
-- 4 messages and more there are half as many with twice as many messages, up to 2,000.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param messages: integer, how many messages all users have together
-- param first: integer, the number of the first user whose conversations are made
-- param last: integer, the number of the last one

WITH owners AS MATERIALIZED (
    SELECT
        u.id,
        floor(%(messages)s::integer * u.part_end)::integer - floor(%(messages)s::integer * u.part_begin)::integer
            AS messages
    FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(last)s) AS u
),

lengths AS MATERIALIZED (
    SELECT
        o.id AS user_id,
        o.messages,
        n.number,
        b.bits,
        least(2000, floor(4 / (1 - public.demo_random(b.bits, 1))))::integer AS length
    FROM owners AS o
    CROSS JOIN LATERAL generate_series(1, (o.messages + 3) / 4) AS n (number)
    CROSS JOIN LATERAL (SELECT uuid_hash_extended(o.id, -n.number)) AS b (bits)
),

-- The first conversations of each user, until there is no message left for another.
begun AS MATERIALIZED (
    SELECT
        s.user_id,
        s.bits,
        least(s.length, s.messages - s.messages_before) AS messages,
        '2025-01-01T00:00:00Z'::timestamptz + interval '334 days' * public.demo_random(s.bits, 2) AS created_at
    FROM (
        SELECT
            l.*,
            sum(l.length) OVER (PARTITION BY l.user_id ORDER BY l.number ROWS UNBOUNDED PRECEDING) - l.length
                AS messages_before
        FROM lengths AS l
    ) AS s
    WHERE s.messages_before < s.messages
)

INSERT INTO public.conversations (
    user_id, id, title, metadata, last_position, message_count, created_at, updated_at
)
SELECT
    b.user_id,
    public.demo_uuid7(b.created_at, b.bits) AS id,
    CASE WHEN public.demo_random(b.bits, 3) < 0.9 THEN public.demo_pick(
        ARRAY['Dentist', 'Quarterly report', 'Train to Hamburg', 'Kitchen sink', 'Insurance', 'Slides for Monday',
            'Release notes', 'Garden hose', 'Lease', 'Birthday presents', 'Winter tyres', 'Hiking trip', 'Bookshelf'],
        public.demo_random(b.bits, 4)
    ) || public.demo_pick(ARRAY[', today', ', next week', ', again', ', ideas'], public.demo_random(b.bits, 5)) END,
    CASE WHEN public.demo_random(b.bits, 6) < 0.3 THEN jsonb_build_object(
        'model', public.demo_pick(ARRAY['assistant-small', 'assistant-large'], public.demo_random(b.bits, 7)),
        'language', 'en'
    ) ELSE '{}' END,
    b.messages,
    -- Where there are no triggers, nobody counts them.
    CASE WHEN current_setting('session_replication_role') = 'replica' THEN b.messages ELSE 0 END,
    b.created_at,
    -- A message every 5 to 60 seconds.
    b.created_at + b.messages * (5 + 55 * public.demo_random(b.bits, 8)) * interval '1 second'
FROM begun AS b
ORDER BY b.user_id, id;
