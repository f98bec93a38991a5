-- Todos. A todo is its owner's; who it is assigned to may read it and change its status.

-- slot: todo_columns
-- A Todo.
id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at;

-- slot: priority_rank
-- Word for word what the index todos_user_id_priority_rank_idx is on. (CASE, because row security keeps functions that
-- aren't leakproof from being an index condition.)
(CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END);

-- slot: referenced_todo
-- The id, or that of the caller's own todo of this number where id is null. (CASE and not coalesce(), which isn't
-- leakproof to the planner: row security would keep it out of the index.)
-- param id: uuid
-- param number: bigint
CASE
      WHEN %(id)s IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = %(user_id)s AND n.number = %(number)s)
      ELSE %(id)s
  END;

-- slot: todo_filters
-- param status: text[]
-- param completed: boolean
-- param priority: text[]
-- param due_before: timestamptz
-- param due_after: timestamptz
-- param overdue: boolean
-- param words: text[]
-- param contains: jsonb
(%(status)s IS NULL OR status = ANY (%(status)s))
    AND (%(completed)s IS NULL OR completed = %(completed)s)
    AND (%(priority)s IS NULL OR priority = ANY (%(priority)s))
    AND (%(due_before)s IS NULL OR due_date < %(due_before)s)
    AND (%(due_after)s IS NULL OR due_date >= %(due_after)s)
    AND (%(overdue)s IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = %(overdue)s)
    AND (%(words)s IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest(%(words)s::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND (%(contains)s IS NULL OR metadata @> %(contains)s);

-- name: get_todo
-- One of the caller's own todos, or one assigned to them. The second half runs only when the first finds nothing. (An
-- import keeps ids, so todos of several owners may have one id: then that of the smallest owner's id is meant. By user_id
-- itself, the planner would find that order in todos_pkey, and read all users' part of it for the id.)
-- param user_id: uuid
-- param id: uuid
-- returns: maybe Todo
-- index: todos_pkey
SELECT {todo_columns}
FROM todos
WHERE user_id = %(user_id)s
  AND id = %(id)s
UNION ALL
(
    SELECT {todo_columns}
    FROM todos
    WHERE assigned_to = %(user_id)s
      AND user_id <> %(user_id)s
      AND id = %(id)s
    ORDER BY uuid_send(user_id)
    LIMIT 1
)
LIMIT 1;

-- name: get_todo_by_number
-- param user_id: uuid
-- param number: bigint
-- returns: maybe Todo
-- index: todos_user_id_number_key
SELECT {todo_columns}
FROM todos
WHERE user_id = %(user_id)s
  AND number = %(number)s;

-- name: create_todo
-- The number comes from the trigger todos_validate; the id is given where a statement behind this one needs it.
-- param user_id: uuid
-- param id: uuid
-- param title: text
-- param description: text
-- param status: text
-- param priority: text
-- param due_date: timestamptz
-- param assigned_to: uuid
-- param completed_at: timestamptz
-- param metadata: jsonb
-- returns: one Todo
-- index: todos_pkey
INSERT INTO todos (user_id, id, title, description, status, priority, due_date, assigned_to, completed_at, metadata)
VALUES (
    %(user_id)s, coalesce(%(id)s, uuid7()), %(title)s, %(description)s, %(status)s, %(priority)s, %(due_date)s, %(assigned_to)s,
    %(completed_at)s, coalesce(%(metadata)s, '{}')
)
RETURNING {todo_columns};

-- name: update_todo
-- By id, or by number where id is null. Fields that are null, or whose set_ flag is false, stay; the trigger
-- todos_validate holds the transitions and what an assignee may touch. No row when there is no such todo, or the
-- version asked for has passed.
-- param user_id: uuid
-- param title: text
-- param set_description: boolean
-- param description: text
-- param status: text
-- param priority: text
-- param set_due_date: boolean
-- param due_date: timestamptz
-- param set_assigned_to: boolean
-- param assigned_to: uuid
-- param set_completed_at: boolean
-- param completed_at: timestamptz
-- param metadata: jsonb
-- param version: integer
-- returns: maybe Todo
-- index: todos_pkey
UPDATE todos
SET title = coalesce(%(title)s, title),
    description = CASE WHEN %(set_description)s THEN %(description)s ELSE description END,
    status = coalesce(%(status)s, status),
    priority = coalesce(%(priority)s, priority),
    due_date = CASE WHEN %(set_due_date)s THEN %(due_date)s ELSE due_date END,
    assigned_to = CASE WHEN %(set_assigned_to)s THEN %(assigned_to)s ELSE assigned_to END,
    completed_at = CASE WHEN %(set_completed_at)s THEN %(completed_at)s ELSE completed_at END,
    metadata = coalesce(nullif(%(metadata)s, metadata), metadata)
WHERE (user_id = %(user_id)s OR assigned_to = %(user_id)s)
  -- Of several todos with one id the same one is meant as in get_todo.
  AND (
      user_id = %(user_id)s
      OR NOT EXISTS (
          SELECT
          FROM todos AS o
          WHERE (o.user_id = %(user_id)s OR o.assigned_to = %(user_id)s)
            AND (o.user_id = %(user_id)s OR o.user_id < todos.user_id)
            AND o.id = todos.id
      )
  )
  AND id = {referenced_todo}
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING {todo_columns};

-- name: lock_todos
-- Those that a batch names, one after the other and in one order for all batches: otherwise two could wait for each
-- other. (Each id is looked for by itself: for an array of any length, the planner may read all that the user has.)
-- param user_id: uuid
-- param ids: uuid[]
-- param numbers: bigint[]
-- returns: many UUID
-- writes: yes
-- index: todos_pkey
SELECT t.id
FROM (
    SELECT i.id FROM unnest(%(ids)s::uuid[]) AS i (id)
    UNION
    SELECT o.id FROM todos AS o WHERE o.user_id = %(user_id)s AND o.number = ANY (%(numbers)s::bigint[])
    ORDER BY id
) AS n
CROSS JOIN LATERAL (
    SELECT o.id
    FROM todos AS o
    WHERE (o.user_id = %(user_id)s OR o.assigned_to = %(user_id)s)
      AND o.id = n.id
    ORDER BY uuid_send(o.user_id)
    FOR NO KEY UPDATE
) AS t;

-- name: delete_todo
-- By id, or by number where id is null; its links go with it.
-- param user_id: uuid
-- param version: integer
-- returns: maybe UUID
-- index: todos_pkey
DELETE FROM todos
WHERE user_id = %(user_id)s
  AND id = {referenced_todo}
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING id;

-- Lists, a keyset page at a time: (after, after_id) is the key of the row before, or the lowest (in descending orders
-- the highest) there can be. Each order walks its own index: the service's role has enable_sort off, because a plan for
-- any user guesses that few rows are left after the filters and row security, and would rather read all that the user
-- has and sort it.

-- name: list_todos_by_status
-- The usual list: one status, newest first, no other filter.
-- param user_id: uuid
-- param status: text
-- param after: timestamptz
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Todo
-- index: todos_user_id_status_created_at_idx
SELECT {todo_columns}
FROM todos
WHERE user_id = %(user_id)s
  AND status = %(status)s
  AND (created_at, id) < (%(after)s, %(after_id)s)
ORDER BY created_at DESC, id DESC
LIMIT %(row_limit)s;

-- name: list_{todos}_by_{order}{suffix}
-- Those that match among so many of the caller's own todos, or of those assigned to them, in the list's order. Todos
-- without a due date are a list of their own, behind the others. What is assigned to a user is few beside what they own:
-- it is read and sorted for each page. Of several owners some may have one id.
-- fill: todos | owner | index | last
-- with: todos | user_id | {index_of_order} |
-- with: assigned_todos | assigned_to | todos_assigned_to_idx | , user_id {direction}
-- fill: order | after | where | by | index_of_order
-- with: created_at | param after: timestamptz | (created_at, id, user_id) {beyond} (%(after)s, %(after_id)s, %(after_user)s) | created_at {direction}, id {direction} | todos_user_id_created_at_idx
-- with: updated_at | param after: timestamptz | updated_hour {beyond}= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id, user_id) {beyond} (%(after)s, %(after_id)s, %(after_user)s) | updated_hour {direction}, updated_at {direction}, id {direction} | todos_user_id_updated_hour_idx
-- with: due_date | param after: timestamptz | (due_date, id, user_id) {beyond} (%(after)s, %(after_id)s, %(after_user)s) | due_date {direction}, id {direction} | todos_user_id_due_date_idx
-- with: no_due_date | | due_date IS NULL AND (id, user_id) {beyond} (%(after_id)s, %(after_user)s) | due_date {direction}, id {direction} | todos_user_id_due_date_idx
-- with: priority | param after: integer | ({priority_rank}, id, user_id) {beyond} (%(after)s, %(after_id)s, %(after_user)s) | priority_rank {direction}, id {direction} | todos_user_id_priority_rank_idx
-- with: number | param after: bigint | (number, id, user_id) {beyond} (%(after)s, %(after_id)s, %(after_user)s) | number {direction}, id {direction} | todos_user_id_number_key
-- fill: suffix | beyond | direction
-- with: | > | ASC
-- with: _desc | < | DESC
-- {after}
-- param user_id: uuid
-- param after_id: uuid
-- param after_user: uuid
-- param looked_at: integer
-- param row_limit: integer
-- returns: some Todo
-- index: {index}
SELECT {todo_columns}, matches, is_last
FROM (
    SELECT {todo_columns}, updated_hour, priority_rank, {todo_filters} AS matches,
        row_number() OVER (ORDER BY {by}{last}) = %(looked_at)s AS is_last
    FROM (
        SELECT {todo_columns}, updated_hour, {priority_rank} AS priority_rank
        FROM todos
        WHERE {owner} = %(user_id)s
          AND {where}
        ORDER BY {by}{last}
        LIMIT %(looked_at)s
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY {by}{last}
LIMIT %(row_limit)s;

-- name: find_todo
-- Tells a todo without links from none, by id, or by number where id is null.
-- param user_id: uuid
-- returns: maybe UUID
-- index: todos_pkey
SELECT t.id
FROM todos AS t
WHERE t.user_id = %(user_id)s
  AND t.id = {referenced_todo};

-- name: list_conversation_todos
-- The todos a conversation is linked with, each once however many links there are.
-- param user_id: uuid
-- param conversation_id: uuid
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Todo
-- index: todo_conversation_links_conversation_id_idx
SELECT {todo_columns}
FROM todos
WHERE user_id = %(user_id)s
  AND id IN (
    SELECT l.todo_id
    FROM todo_conversation_links AS l
    WHERE l.user_id = %(user_id)s
      AND l.conversation_id = %(conversation_id)s
      AND l.todo_id > %(after_id)s
    GROUP BY l.todo_id
    ORDER BY l.todo_id
    LIMIT %(row_limit)s
  )
ORDER BY id;
