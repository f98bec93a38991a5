-- An account to look around in: what Ada has to do, what she and her assistant said, and what Grace works on with her.
-- Everything is written through every trigger, as its owner would write it; times count back from now. Grace may be
-- there already: she outlives an Ada who was erased.
-- param password_hash: text

INSERT INTO public.users (id, email, username, full_name, password_hash, created_at, updated_at)
SELECT
    public.demo_uuid7(p.made_at, uuid_hash_extended(gen_random_uuid(), 0)),
    p.username || '@demo.example',
    'demo-' || p.username,
    p.full_name,
    %(password_hash)s,
    p.made_at,
    p.made_at
FROM (
    VALUES
        ('grace', 'Grace Demo', now() - interval '210 days'),
        ('ada', 'Ada Demo', now() - interval '210 days')
) AS p (username, full_name, made_at)
ON CONFLICT (lower(email COLLATE "C")) DO NOTHING;

SELECT set_config('app.user_id', u.id::text, true)
FROM public.users AS u
WHERE lower(u.email COLLATE "C") = 'ada@demo.example';

-- made, due and done are days from now, the past is negative. A shared todo is assigned to Grace.
INSERT INTO public.todos (
    user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata,
    created_at, updated_at
)
SELECT
    current_setting('app.user_id')::uuid,
    public.demo_uuid7(now() + t.made * interval '1 day', uuid_hash_extended(gen_random_uuid(), 0)),
    t.number,
    t.title,
    t.description,
    t.status,
    t.priority,
    now() + t.due * interval '1 day',
    CASE WHEN t.is_shared THEN (SELECT u.id FROM public.users AS u WHERE lower(u.email COLLATE "C") = 'grace@demo.example') END,
    now() + t.done * interval '1 day',
    t.metadata::jsonb,
    now() + t.made * interval '1 day',
    now() + coalesce(t.done, t.made) * interval '1 day'
FROM (
    VALUES
        (1, 'Renew the passport', 'pending', 'high', -40, -3, NULL::integer, false,
            'The photos are in the drawer of the desk.', '{}'),
        (2, 'Answer the landlord about the heating', 'pending', 'urgent', -12, -1, NULL, false, NULL, '{}'),
        (3, 'Book the dentist', 'pending', 'medium', -9, 5, NULL, false, NULL, '{}'),
        (4, 'Read the chapter on row security', 'pending', 'low', -6, NULL, NULL, false, NULL, '{}'),
        (5, 'Send the invoice for the March workshop', 'in_progress', 'high', -8, 2, NULL, false, NULL,
            '{"amount_eur": 1450}'),
        (6, 'Paint the balcony door', 'in_progress', 'low', -20, -6, NULL, false, 'Green, like the neighbours''.',
            '{}'),
        (7, 'Plan three days in Lisbon', 'in_progress', 'medium', -15, 24, NULL, false, NULL, '{"travellers": 2}'),
        (8, 'Proofread the talk', 'pending', 'high', -4, 3, NULL, true, 'Twenty slides, the last five most.', '{}'),
        (9, 'Compare offers for the new laptop', 'in_progress', 'medium', -7, 9, NULL, true, NULL, '{}'),
        (10, 'Collect the parcel', 'completed', 'medium', -5, NULL, -4, true, NULL, '{}'),
        (11, 'Pay the electricity bill', 'completed', 'urgent', -30, NULL, -28, false, NULL, '{}'),
        (12, 'Water Mia''s plants', 'completed', 'low', -18, NULL, -16, false, NULL, '{}'),
        (13, 'Order a birthday cake', 'completed', 'medium', -11, 6, -2, false, NULL, '{}'),
        (14, 'Hand in the expenses of October', 'in_progress', 'high', -35, -10, NULL, false, NULL, '{}'),
        (15, 'Learn to juggle', 'archived', 'low', -200, NULL, NULL, false, NULL, '{}'),
        (16, 'Cancel the gym', 'archived', 'medium', -90, -60, -61, false, NULL, '{}'),
        (17, 'Buy milk, bread and something nice for Sunday', 'pending', 'medium', -0.2, 0.5, NULL, false, NULL,
            '{"source": "chat"}')
) AS t (number, title, status, priority, made, due, done, is_shared, description, metadata)
ORDER BY t.number;

-- Completed after it was due, which only a change can bring about.
UPDATE public.todos
SET status = 'completed', completed_at = now()
WHERE user_id = current_setting('app.user_id')::uuid AND number = 14;

-- An hour before what they are about was made.
INSERT INTO public.conversations (user_id, id, title, metadata, created_at, updated_at)
SELECT
    current_setting('app.user_id')::uuid,
    public.demo_uuid7(b.began_at, uuid_hash_extended(gen_random_uuid(), 0)),
    c.title,
    c.metadata::jsonb,
    b.began_at,
    b.began_at
FROM (
    VALUES
        ('Lisbon in three days', -15, '{"topic": "travel"}'),
        ('The March invoice', -8, '{}'),
        ('What is urgent?', -1, '{}'),
        (NULL, -0.2, '{}')
) AS c (title, began, metadata)
CROSS JOIN LATERAL (SELECT now() + c.began * interval '1 day' - interval '1 hour') AS b (began_at);

-- Messages of before leave their conversation where it was.
SELECT set_config('app.restoring', 'on', true);

-- talk is the conversation: the oldest is 1.
INSERT INTO public.messages (
    user_id, conversation_id, position, id, sender_type, message_type, content, metadata, created_at
)
SELECT
    c.user_id,
    c.id,
    m.position,
    public.demo_uuid7(a.said_at, uuid_hash_extended(gen_random_uuid(), 0)),
    m.sender_type,
    m.message_type,
    m.content,
    m.metadata::jsonb,
    a.said_at
FROM (
    VALUES
        (1, 1, 'system', 'text', 'You keep Ada''s todos. Use the tools, never invent an entry, answer briefly.', '{}'),
        (1, 2, 'user', 'text', 'We want to spend three days in Lisbon next month. Put planning it on my list.', '{}'),
        (1, 3, 'ai', 'command', 'create_todo(title=''Plan three days in Lisbon'', metadata={''travellers'': 2})',
            '{"tool": "create_todo", "call_id": "call_11",
            "arguments": {"title": "Plan three days in Lisbon", "metadata": {"travellers": 2}}}'),
        (1, 4, 'system', 'response', '{"number": 7, "title": "Plan three days in Lisbon", "status": "pending"}',
            '{"tool": "create_todo", "call_id": "call_11"}'),
        (1, 5, 'ai', 'text', 'Done, it is todo 7. Shall I note a day by which you want to be through with it?',
            '{"model": "assistant-small"}'),
        (1, 6, 'user', 'text', 'Yes, 10 days before we leave. Where would you begin?', '{}'),
        (1, 7, 'ai', 'command', 'update_todo(number=7, due_in_days=39)',
            '{"tool": "update_todo", "call_id": "call_12", "arguments": {"number": 7, "due_in_days": 39}}'),
        (1, 8, 'system', 'response', '{"number": 7, "version": 2}',
            '{"tool": "update_todo", "call_id": "call_12", "duration_ms": 6}'),
        (1, 9, 'ai', 'text',
            'With the flights: they set the dates for all the rest. Then a room near Graça, then tickets for the tram '
            'museum, which sells out.',
            '{"model": "assistant-small"}'),

        (2, 1, 'system', 'text', 'You keep Ada''s todos. Use the tools, never invent an entry, answer briefly.', '{}'),
        (2, 2, 'user', 'text', 'I still have to send the invoice for the workshop in March, 1450 euros.', '{}'),
        (2, 3, 'ai', 'command', 'create_todo(title=''Send the invoice for the March workshop'', priority=''high'')',
            '{"tool": "create_todo", "call_id": "call_21",
            "arguments": {"title": "Send the invoice for the March workshop", "priority": "high"}}'),
        (2, 4, 'system', 'response', '{"number": 5, "title": "Send the invoice for the March workshop"}',
            '{"tool": "create_todo", "call_id": "call_21"}'),
        (2, 5, 'ai', 'text', 'It is todo 5, with high priority.', '{"model": "assistant-small"}'),
        (2, 6, 'user', 'text', 'I have begun with it. And the gym is cancelled, set it to done.', '{}'),
        (2, 7, 'ai', 'command', 'update_todo(number=5, status=''in_progress'')',
            '{"tool": "update_todo", "call_id": "call_22", "arguments": {"number": 5, "status": "in_progress"}}'),
        (2, 8, 'system', 'response', '{"number": 5, "status": "in_progress", "version": 2}',
            '{"tool": "update_todo", "call_id": "call_22", "duration_ms": 5}'),
        (2, 9, 'ai', 'command', 'update_todo(number=16, status=''completed'')',
            '{"tool": "update_todo", "call_id": "call_23", "arguments": {"number": 16, "status": "completed"}}'),
        (2, 10, 'system', 'error', '409 invalid_transition: an archived todo can only become pending',
            '{"tool": "update_todo", "call_id": "call_23", "status": 409, "code": "invalid_transition"}'),
        (2, 11, 'ai', 'text',
            'Todo 5 is in progress. "Cancel the gym" I could not complete: it is archived already.',
            '{"model": "assistant-small"}'),

        (3, 1, 'user', 'text', 'What should I do first today?', '{}'),
        (3, 2, 'ai', 'command', 'list_todos(overdue=True, order=''-priority'')',
            '{"tool": "list_todos", "call_id": "call_31", "arguments": {"overdue": true, "order": "-priority"}}'),
        (3, 3, 'system', 'response',
            '{"items": [{"number": 2, "title": "Answer the landlord about the heating", "priority": "urgent"}, '
            '{"number": 1, "title": "Renew the passport", "priority": "high"}, '
            '{"number": 6, "title": "Paint the balcony door", "priority": "low"}]}',
            '{"tool": "list_todos", "call_id": "call_31", "duration_ms": 4}'),
        (3, 4, 'ai', 'text',
            'Answer the landlord: it is urgent, overdue since yesterday, and takes five minutes. Then the passport. '
            'The balcony door can wait for a dry day.',
            '{"model": "assistant-small"}'),
        (3, 5, 'user', 'text', 'Thanks!', '{}'),

        (4, 1, 'user', 'text', 'Remind me to buy milk, bread and something nice for Sunday.', '{}'),
        (4, 2, 'ai', 'command',
            'create_todo(title=''Buy milk, bread and something nice for Sunday'', due_in_hours=17)',
            '{"tool": "create_todo", "call_id": "call_41",
            "arguments": {"title": "Buy milk, bread and something nice for Sunday", "due_in_hours": 17}}'),
        (4, 3, 'system', 'error', '503 timeout',
            '{"tool": "create_todo", "call_id": "call_41", "status": 503, "code": "timeout", "retry_after": 1}'),
        (4, 4, 'ai', 'command',
            'create_todo(title=''Buy milk, bread and something nice for Sunday'', due_in_hours=17)',
            '{"tool": "create_todo", "call_id": "call_42",
            "arguments": {"title": "Buy milk, bread and something nice for Sunday", "due_in_hours": 17}}'),
        (4, 5, 'system', 'response', '{"number": 17, "title": "Buy milk, bread and something nice for Sunday"}',
            '{"tool": "create_todo", "call_id": "call_42", "duration_ms": 7}'),
        (4, 6, 'ai', 'text', 'It is on your list, due this evening.', '{"model": "assistant-small"}')
) AS m (talk, position, sender_type, message_type, content, metadata)
INNER JOIN (
    SELECT k.user_id, k.id, k.created_at, row_number() OVER (ORDER BY k.created_at) AS talk
    FROM public.conversations AS k
    WHERE k.user_id = current_setting('app.user_id')::uuid
) AS c USING (talk)
CROSS JOIN LATERAL (SELECT c.created_at + m.position * interval '20 seconds') AS a (said_at)
ORDER BY m.talk, m.position;

INSERT INTO public.todo_conversation_links (
    user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at
)
SELECT
    c.user_id,
    public.demo_uuid7(a.linked_at, uuid_hash_extended(gen_random_uuid(), 0)),
    t.id,
    c.id,
    l.relationship_type,
    a.linked_at,
    a.linked_at
FROM (
    VALUES
        (1, 7, 'creation'),
        (1, 7, 'update'),
        (2, 5, 'creation'),
        (2, 5, 'update'),
        (2, 16, 'discussion'),
        (3, 2, 'discussion'),
        (3, 1, 'discussion'),
        (3, 6, 'discussion'),
        (4, 17, 'creation')
) AS l (talk, number, relationship_type)
INNER JOIN (
    SELECT k.user_id, k.id, k.created_at, row_number() OVER (ORDER BY k.created_at) AS talk
    FROM public.conversations AS k
    WHERE k.user_id = current_setting('app.user_id')::uuid
) AS c USING (talk)
INNER JOIN public.todos AS t ON t.user_id = c.user_id AND t.number = l.number
CROSS JOIN LATERAL (SELECT c.created_at + interval '1 hour') AS a (linked_at);

-- What is Ada's goes into her trail while she is the one who acts.
SET CONSTRAINTS ALL IMMEDIATE;

SET CONSTRAINTS ALL DEFERRED;

SELECT set_config('app.restoring', '', true), set_config('app.user_id', u.id::text, true)
FROM public.users AS u
WHERE lower(u.email COLLATE "C") = 'grace@demo.example';

INSERT INTO public.todos (
    user_id, id, number, title, status, priority, due_date, assigned_to, created_at, updated_at
)
SELECT
    g.id,
    public.demo_uuid7(m.made_at, uuid_hash_extended(gen_random_uuid(), 0)),
    t.number,
    t.title,
    t.status,
    t.priority,
    now() + t.due * interval '1 day',
    CASE WHEN t.is_shared THEN (SELECT u.id FROM public.users AS u WHERE lower(u.email COLLATE "C") = 'ada@demo.example') END,
    m.made_at,
    m.made_at
FROM (
    VALUES
        (1, 'Check the translation of the contract', 'pending', 'high', -6, 4, true),
        (2, 'Bring the projector back', 'in_progress', 'low', -10, -2, true),
        (3, 'Water the tomatoes', 'pending', 'low', -3, 1, false)
) AS t (number, title, status, priority, made, due, is_shared)
CROSS JOIN (SELECT current_setting('app.user_id')::uuid) AS g (id)
CROSS JOIN LATERAL (SELECT now() + t.made * interval '1 day') AS m (made_at)
WHERE NOT EXISTS (SELECT FROM public.todos AS o WHERE o.user_id = g.id)
ORDER BY t.number;
