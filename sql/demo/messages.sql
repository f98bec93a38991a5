-- The messages that the conversations' counts announce: turns of question and answer, some with tool calls, each
-- followed by its output. The last message comes when the conversation was last active.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param first: integer, the number of the first user whose messages are made
-- param last: integer, the number of the last one

WITH threads AS MATERIALIZED (
    SELECT
        c.user_id,
        c.id,
        c.last_position,
        c.updated_at,
        (c.updated_at - c.created_at) / c.last_position AS pause,
        b.bits,
        (public.demo_random(b.bits, 1) < 0.3)::integer AS prompts
    FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(last)s) AS u
    INNER JOIN public.conversations AS c ON c.user_id = u.id
    CROSS JOIN LATERAL (SELECT uuid_hash_extended(c.id, 0)) AS b (bits)
),

-- kind is the letter of the message: system prompt, user, assistant, call, response or error. Turns come in rounds of
-- 12 messages.
drawn AS MATERIALIZED (
    SELECT
        t.user_id,
        t.id AS conversation_id,
        p.position,
        k.kind,
        t.updated_at - t.pause * ((t.last_position - p.position)
            + mod((t.last_position - p.position) * 31, 64) / 128::double precision) AS created_at,
        uuid_hash_extended(t.id, p.position) AS bits,
        -- What an output says follows from the call before it.
        uuid_hash_extended(t.id, p.position - (k.kind IN ('r', 'e'))::integer) AS call_bits,
        'call_' || p.position - (k.kind IN ('r', 'e'))::integer AS call_id
    FROM threads AS t
    CROSS JOIN LATERAL generate_series(1, t.last_position) AS p (position)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN p.position <= t.prompts THEN 's' ELSE substr(
            public.demo_pick(
                ARRAY['uauauaucecra', 'uaucraucraua', 'uauauauaucra', 'ucecrauauaua', 'uauauauauaua'],
                public.demo_random(t.bits, 2 + (p.position - t.prompts - 1) / 12)
            ),
            1 + mod(p.position - t.prompts - 1, 12),
            1
        ) END
    ) AS k (kind)
),

told AS MATERIALIZED (
    SELECT
        d.*,
        public.demo_errand(d.call_bits) AS errand,
        public.demo_pick(ARRAY['create_todo', 'update_todo', 'complete_todo'], public.demo_random(d.call_bits, 1))
            AS tool,
        jsonb_build_object(
            'number', 1 + floor(50 * public.demo_random(d.call_bits, 2)), 'title', public.demo_errand(d.call_bits)
        ) AS arguments
    FROM drawn AS d
)

INSERT INTO public.messages (
    user_id, conversation_id, position, id, sender_type, content, message_type, metadata, created_at,
    updated_at
)
SELECT
    t.user_id,
    t.conversation_id,
    t.position,
    public.demo_uuid7(t.created_at, t.bits),
    CASE WHEN t.kind = 'u' THEN 'user' WHEN t.kind IN ('a', 'c') THEN 'ai' ELSE 'system' END,
    CASE t.kind
        WHEN 's' THEN
            'You are an assistant that keeps a list of todos. Use the tools to change it, and answer briefly.'
        WHEN 'u' THEN replace(
            public.demo_pick(
                ARRAY['Add {todo} to my list, please.', 'What is left for today?', 'I did {todo}. Tick it off.',
                    'Move {todo} to Friday, I won''t make it before.', 'Which of these is the most urgent?',
                    'Remind me why {todo} was important.', 'Make {todo} high priority and give it to Sam.', 'Thanks!',
                    'And tomorrow?', 'Split {todo} into smaller steps and tell me where to begin.'],
                public.demo_random(t.bits, 2)
            ),
            '{todo}', t.errand
        )
        WHEN 'a' THEN replace(
            public.demo_pick(
                ARRAY['Done: {todo} is on your list.',
                    'You have three things left; the first is {todo}, which is due at noon.',
                    'Ticked off. That makes five this week, two more than in the week before.',
                    'I moved {todo} to Friday. Nothing else is planned for that afternoon, so there is room for it.',
                    'I would begin with {todo}: it has been overdue for two days, somebody waits for it, and it takes '
                    'ten minutes. The others can wait until tomorrow without harm.',
                    'You are welcome.',
                    'Tomorrow there is only {todo}. Shall I look for something to bring forward?',
                    'Here is a way to do it in steps: collect what you need, ask whoever has to agree, set half an '
                    'hour aside for {todo}, and write down what is left. The first step is small enough for today.'],
                public.demo_random(t.bits, 2)
            ),
            '{todo}', t.errand
        )
        WHEN 'c' THEN t.tool || '(' || t.arguments::text || ')'
        WHEN 'r' THEN jsonb_build_object('items', jsonb_build_array(
            t.arguments || '{"status": "pending", "priority": "medium"}'
        ))::text
        ELSE t.tool || ' failed: ' || public.demo_pick(
            ARRAY['422 validation_failed: due_date', '409 invalid_transition: archived', '404 not_found',
                '503 timeout'],
            public.demo_random(t.bits, 2)
        )
    END,
    CASE t.kind WHEN 'c' THEN 'command' WHEN 'r' THEN 'response' WHEN 'e' THEN 'error' ELSE 'text' END,
    CASE
        WHEN t.kind = 'c' THEN
            jsonb_build_object('tool', t.tool, 'call_id', t.call_id, 'arguments', t.arguments)
        WHEN t.kind IN ('r', 'e') THEN jsonb_build_object(
            'tool', t.tool, 'call_id', t.call_id, 'duration_ms', 3 + floor(40 * public.demo_random(t.bits, 3))
        )
        ELSE '{}'
    END,
    t.created_at,
    t.created_at
FROM told AS t
ORDER BY t.user_id, t.conversation_id, t.position;
