-- Todos in every state, spread over the year: half are open, most others completed, some archived; a few are assigned
-- to somebody. A completed todo has no due date, which could lie before the day of its completion.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param todos: integer, how many todos all users have together
-- param first: integer, the number of the first user whose todos are made
-- param last: integer, the number of the last one

WITH owners AS MATERIALIZED (
    SELECT u.id, floor(%(todos)s::integer * u.part_end)::integer - floor(%(todos)s::integer * u.part_begin)::integer
        AS todos
    FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(last)s) AS u
),

drawn AS MATERIALIZED (
    SELECT
        o.id AS user_id,
        n.number,
        b.bits,
        '2025-01-01T00:00:00Z'::timestamptz
            + interval '364 days' * ((n.number - 1 + public.demo_random(b.bits, 1)) / o.todos) AS created_at,
        public.demo_random(b.bits, 2) AS state,
        public.demo_random(b.bits, 3) AS importance
    FROM owners AS o
    CROSS JOIN LATERAL generate_series(1, o.todos) AS n (number)
    CROSS JOIN LATERAL (SELECT uuid_hash_extended(o.id, n.number)) AS b (bits)
),

changed AS MATERIALIZED (
    SELECT
        d.*,
        d.created_at + ('2026-01-01T00:00:00Z' - d.created_at) * public.demo_random(d.bits, 4) AS changed_at,
        upper(left(e.errand, 1)) || substr(e.errand, 2) AS errand
    FROM drawn AS d
    CROSS JOIN LATERAL (SELECT public.demo_errand(d.bits)) AS e (errand)
)

INSERT INTO public.todos (
    user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata,
    created_at, updated_at
)
SELECT
    c.user_id,
    public.demo_uuid7(c.created_at, c.bits),
    c.number,
    c.errand || public.demo_pick(
        ARRAY['', '', '', ' before lunch', ' this week', ' with Sam', ' (again)', ', then tell the team',
            ' for 2 people'],
        public.demo_random(c.bits, 5)
    ),
    CASE WHEN public.demo_random(c.bits, 6) < 0.4 THEN public.demo_pick(
        ARRAY['Ask for a quote first; last year''s was too dear.', 'The key is with the neighbours.',
            'Needs two people, and a dry day.', 'See the thread of last Tuesday for the numbers.',
            'The form wants the customer number, which is on the first page of the contract.',
            'Only if it costs less than 80 euros.', 'Compare with what Lena wrote down.', 'Not before the 15th.'],
        public.demo_random(c.bits, 7)
    ) END,
    CASE
        WHEN c.state < 0.40 THEN 'completed'
        WHEN c.state < 0.50 THEN 'archived'
        WHEN c.state < 0.85 THEN 'pending'
        ELSE 'in_progress'
    END,
    CASE
        WHEN c.importance < 0.55 THEN 'medium'
        WHEN c.importance < 0.70 THEN 'low'
        WHEN c.importance < 0.92 THEN 'high'
        ELSE 'urgent'
    END,
    CASE WHEN c.state >= 0.40 AND public.demo_random(c.bits, 8) < 0.6 THEN
        date_trunc('day', c.created_at, 'UTC') + interval '17 hours'
            + interval '1 day' * floor(60 * public.demo_random(c.bits, 9))
    END,
    CASE WHEN public.demo_random(c.bits, 10) < 0.03 THEN (
        SELECT a.id
        FROM (SELECT 1 + floor(%(users)s::integer * public.demo_random(c.bits, 11))::integer) AS w (number)
        CROSS JOIN LATERAL public.demo_users(%(seed)s, %(users)s, w.number, w.number) AS a
    ) END,
    CASE WHEN c.state < 0.45 THEN c.changed_at END,
    CASE WHEN public.demo_random(c.bits, 12) < 0.15 THEN jsonb_build_object(
        'source', public.demo_pick(ARRAY['chat', 'mail', 'web'], public.demo_random(c.bits, 13)),
        'estimate_minutes', 5 + 5 * floor(18 * public.demo_random(c.bits, 14))
    ) ELSE '{}' END,
    c.created_at,
    CASE WHEN c.state >= 0.50 AND c.state < 0.85 THEN c.created_at ELSE c.changed_at END
FROM changed AS c
ORDER BY c.user_id, c.number;
