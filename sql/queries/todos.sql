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
        FROM (SELECT lower(concat_ws(' ', title, description)) AS text OFFSET 0) AS t  -- OFFSET: once for all words
        JOIN unnest(%(words)s::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND (%(contains)s IS NULL OR metadata @> %(contains)s);

-- name: get_todo
-- One of the caller's own todos, or one assigned to them. The second half runs only when the first finds nothing. (An
-- import keeps ids, so todos of several owners may have one id: then that of the smallest owner's id is meant.)
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
    ORDER BY user_id
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

-- name: list_{todos}_by_{order}
-- Those that match among so many of the caller's own todos, or of those assigned to them, in the list's order. Todos
-- without a due date are a list of their own, behind the others. What is assigned to a user is few beside what they own:
-- it is read and sorted for each page. Of several owners some may have one id.
-- fill: todos | order | owner | after | beyond | by | index
-- with: todos | created_at | user_id | param after: timestamptz | (created_at, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | created_at, id | todos_user_id_created_at_idx
-- with: todos | created_at_desc | user_id | param after: timestamptz | (created_at, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | created_at DESC, id DESC | todos_user_id_created_at_idx
-- with: todos | updated_at | user_id | param after: timestamptz | updated_hour >= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | updated_hour, updated_at, id | todos_user_id_updated_hour_idx
-- with: todos | updated_at_desc | user_id | param after: timestamptz | updated_hour <= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | updated_hour DESC, updated_at DESC, id DESC | todos_user_id_updated_hour_idx
-- with: todos | due_date | user_id | param after: timestamptz | (due_date, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | due_date, id | todos_user_id_due_date_idx
-- with: todos | due_date_desc | user_id | param after: timestamptz | (due_date, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | due_date DESC, id DESC | todos_user_id_due_date_idx
-- with: todos | no_due_date | user_id | | due_date IS NULL AND (id, user_id) > (%(after_id)s, %(after_user)s) | due_date, id | todos_user_id_due_date_idx
-- with: todos | no_due_date_desc | user_id | | due_date IS NULL AND (id, user_id) < (%(after_id)s, %(after_user)s) | due_date DESC, id DESC | todos_user_id_due_date_idx
-- with: todos | priority | user_id | param after: integer | ({priority_rank}, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | priority_rank, id | todos_user_id_priority_rank_idx
-- with: todos | priority_desc | user_id | param after: integer | ({priority_rank}, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | priority_rank DESC, id DESC | todos_user_id_priority_rank_idx
-- with: todos | number | user_id | param after: bigint | (number, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | number, id | todos_user_id_number_key
-- with: todos | number_desc | user_id | param after: bigint | (number, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | number DESC, id DESC | todos_user_id_number_key
-- with: assigned_todos | created_at | assigned_to | param after: timestamptz | (created_at, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | created_at, id, user_id | todos_assigned_to_idx
-- with: assigned_todos | created_at_desc | assigned_to | param after: timestamptz | (created_at, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | created_at DESC, id DESC, user_id DESC | todos_assigned_to_idx
-- with: assigned_todos | updated_at | assigned_to | param after: timestamptz | updated_hour >= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | updated_hour, updated_at, id, user_id | todos_assigned_to_idx
-- with: assigned_todos | updated_at_desc | assigned_to | param after: timestamptz | updated_hour <= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | updated_hour DESC, updated_at DESC, id DESC, user_id DESC | todos_assigned_to_idx
-- with: assigned_todos | due_date | assigned_to | param after: timestamptz | (due_date, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | due_date, id, user_id | todos_assigned_to_idx
-- with: assigned_todos | due_date_desc | assigned_to | param after: timestamptz | (due_date, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | due_date DESC, id DESC, user_id DESC | todos_assigned_to_idx
-- with: assigned_todos | no_due_date | assigned_to | | due_date IS NULL AND (id, user_id) > (%(after_id)s, %(after_user)s) | due_date, id, user_id | todos_assigned_to_idx
-- with: assigned_todos | no_due_date_desc | assigned_to | | due_date IS NULL AND (id, user_id) < (%(after_id)s, %(after_user)s) | due_date DESC, id DESC, user_id DESC | todos_assigned_to_idx
-- with: assigned_todos | priority | assigned_to | param after: integer | ({priority_rank}, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | priority_rank, id, user_id | todos_assigned_to_idx
-- with: assigned_todos | priority_desc | assigned_to | param after: integer | ({priority_rank}, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | priority_rank DESC, id DESC, user_id DESC | todos_assigned_to_idx
-- with: assigned_todos | number | assigned_to | param after: bigint | (number, id, user_id) > (%(after)s, %(after_id)s, %(after_user)s) | number, id, user_id | todos_assigned_to_idx
-- with: assigned_todos | number_desc | assigned_to | param after: bigint | (number, id, user_id) < (%(after)s, %(after_id)s, %(after_user)s) | number DESC, id DESC, user_id DESC | todos_assigned_to_idx
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
        row_number() OVER (ORDER BY {by}) = %(looked_at)s AS is_last
    FROM (
        SELECT {todo_columns}, updated_hour, {priority_rank} AS priority_rank
        FROM todos
        WHERE {owner} = %(user_id)s
          AND {beyond}
        ORDER BY {by}
        LIMIT %(looked_at)s
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY {by}
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
