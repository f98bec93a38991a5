-- Todos. A todo is its owner's; who it is assigned to may read it and change its status.

-- slot: todo_columns
-- A Todo.
id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at;

-- slot: priority_rank
-- Word for word what the index todos_user_id_priority_rank_idx is on. (CASE, because row security keeps functions that
-- aren't leakproof from being an index condition.)
(CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END);

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
    AND (%(due_after)s IS NULL OR due_date > %(due_after)s)
    AND (%(overdue)s IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = %(overdue)s)
    AND (%(words)s IS NULL OR NOT EXISTS (
        SELECT FROM unnest(%(words)s::text[]) AS w (word)
        WHERE strpos(lower(concat_ws(' ', title, description)), lower(w.word)) = 0
    ))
    AND (%(contains)s IS NULL OR metadata @> %(contains)s);

-- name: get_todo
-- One of the caller's own todos, or one assigned to them. The second half runs only when the first finds nothing.
-- param user_id: uuid
-- param id: uuid
-- returns: maybe Todo
-- index: todos_pkey
SELECT {todo_columns}
FROM todos
WHERE user_id = %(user_id)s
  AND id = %(id)s
UNION ALL
SELECT {todo_columns}
FROM todos
WHERE assigned_to = %(user_id)s
  AND user_id <> %(user_id)s
  AND id = %(id)s
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
-- CASE, because row security keeps coalesce() from being an index condition.
-- param user_id: uuid
-- param id: uuid
-- param number: bigint
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
    metadata = coalesce(%(metadata)s, metadata)
WHERE (user_id = %(user_id)s OR assigned_to = %(user_id)s)
  -- An import keeps ids, so somebody else may have a todo of the same one: then one's own is meant, and never both.
  AND (
      user_id = %(user_id)s
      OR NOT EXISTS (SELECT FROM todos AS o WHERE o.user_id = %(user_id)s AND o.id = todos.id)
  )
  AND id = CASE
          WHEN %(id)s IS NULL THEN (SELECT t.id FROM todos AS t WHERE t.user_id = %(user_id)s AND t.number = %(number)s)
          ELSE %(id)s
      END
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING {todo_columns};

-- name: delete_todo
-- By id, or by number where id is null; its links go with it.
-- param user_id: uuid
-- param id: uuid
-- param number: bigint
-- param version: integer
-- returns: maybe UUID
-- index: todos_pkey
DELETE FROM todos
WHERE user_id = %(user_id)s
  AND id = CASE
          WHEN %(id)s IS NULL THEN (SELECT t.id FROM todos AS t WHERE t.user_id = %(user_id)s AND t.number = %(number)s)
          ELSE %(id)s
      END
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

-- name: list_todos_by_{order}
-- fill: order | type | beyond | by | index
-- with: created_at | timestamptz | (created_at, id) > (%(after)s, %(after_id)s) | created_at, id | created_at
-- with: created_at_desc | timestamptz | (created_at, id) < (%(after)s, %(after_id)s) | created_at DESC, id DESC | created_at
-- with: priority | integer | ({priority_rank}, id) > (%(after)s, %(after_id)s) | {priority_rank}, id | priority_rank
-- with: priority_desc | integer | ({priority_rank}, id) < (%(after)s, %(after_id)s) | {priority_rank} DESC, id DESC | priority_rank
-- with: updated_at | timestamptz | updated_hour >= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id) > (%(after)s, %(after_id)s) | updated_hour, updated_at, id | updated_hour
-- with: updated_at_desc | timestamptz | updated_hour <= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id) < (%(after)s, %(after_id)s) | updated_hour DESC, updated_at DESC, id DESC | updated_hour
-- param user_id: uuid
-- param after: {type}
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Todo
-- index: todos_user_id_{index}_idx
SELECT {todo_columns}
FROM todos
WHERE user_id = %(user_id)s
    AND {beyond}
    AND {todo_filters}
ORDER BY {by}
LIMIT %(row_limit)s;

-- name: list_todos_by_{order}
-- fill: order | beyond | by
-- with: number | number > %(after)s | number
-- with: number_desc | number < %(after)s | number DESC
-- param user_id: uuid
-- param after: bigint
-- param row_limit: integer
-- returns: many Todo
-- index: todos_user_id_number_key
SELECT {todo_columns}
FROM todos
WHERE user_id = %(user_id)s
    AND {beyond}
    AND {todo_filters}
ORDER BY {by}
LIMIT %(row_limit)s;

-- name: list_todos_by_{order}
-- Those with a due date, then those without, which come last in both directions.
-- fill: order | after | direction
-- with: due_date | > | ASC
-- with: due_date_desc | < | DESC
-- param user_id: uuid
-- param after: timestamptz
-- param after_id: uuid
-- param after_undated_id: uuid
-- param row_limit: integer
-- returns: many Todo
-- index: todos_user_id_due_date_idx
(
    SELECT {todo_columns}
    FROM todos
    WHERE user_id = %(user_id)s
    AND (due_date, id) {after} (%(after)s, %(after_id)s)
    AND {todo_filters}
    ORDER BY due_date {direction}, id {direction}
    LIMIT %(row_limit)s
)
UNION ALL
(
    SELECT {todo_columns}
    FROM todos
    WHERE user_id = %(user_id)s
    AND due_date IS NULL
    AND id {after} %(after_undated_id)s
    AND {todo_filters}
    ORDER BY due_date {direction}, id {direction}
    LIMIT %(row_limit)s
)
ORDER BY due_date {direction} NULLS LAST, id {direction}
LIMIT %(row_limit)s;

-- name: list_assigned_todos
-- What is assigned to the caller, in any order: the key is computed and sorted, since assigned todos are few beside owned
-- ones. Direction is 1 or -1; todos without a due date come last in both.
-- param user_id: uuid
-- param sort: text
-- param direction: integer
-- param after: bigint
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Todo
-- index: todos_assigned_to_idx
SELECT {todo_columns}
FROM (
    SELECT {todo_columns},
        coalesce(CASE %(sort)s
                WHEN 'created_at' THEN (extract(EPOCH FROM created_at) * 1000000)::bigint
                WHEN 'updated_at' THEN (extract(EPOCH FROM updated_at) * 1000000)::bigint
                WHEN 'due_date' THEN (extract(EPOCH FROM due_date) * 1000000)::bigint
                WHEN 'priority' THEN {priority_rank}
                ELSE number
            END * %(direction)s, 9223372036854775807) AS sort_key
    FROM todos
    WHERE assigned_to = %(user_id)s
      AND {todo_filters}
) AS visible
WHERE (sort_key, id) > (%(after)s, %(after_id)s)
ORDER BY sort_key, id
LIMIT %(row_limit)s;

-- name: list_all_todos
-- What the caller owns or is assigned, in any order, as list_assigned_todos.
-- param user_id: uuid
-- param sort: text
-- param direction: integer
-- param after: bigint
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Todo
-- index: todos_assigned_to_idx
SELECT {todo_columns}
FROM (
    SELECT {todo_columns},
        coalesce(CASE %(sort)s
                WHEN 'created_at' THEN (extract(EPOCH FROM created_at) * 1000000)::bigint
                WHEN 'updated_at' THEN (extract(EPOCH FROM updated_at) * 1000000)::bigint
                WHEN 'due_date' THEN (extract(EPOCH FROM due_date) * 1000000)::bigint
                WHEN 'priority' THEN {priority_rank}
                ELSE number
            END * %(direction)s, 9223372036854775807) AS sort_key
    FROM todos
    WHERE (user_id = %(user_id)s OR assigned_to = %(user_id)s)
      AND {todo_filters}
) AS visible
WHERE (sort_key, id) > (%(after)s, %(after_id)s)
ORDER BY sort_key, id
LIMIT %(row_limit)s;

-- name: find_todo
-- Tells a todo without links from none, by id, or by number where id is null.
-- param user_id: uuid
-- param id: uuid
-- param number: bigint
-- returns: maybe UUID
-- index: todos_pkey
SELECT t.id
FROM todos AS t
WHERE t.user_id = %(user_id)s
  AND t.id = CASE
          WHEN %(id)s IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = %(user_id)s AND n.number = %(number)s)
          ELSE %(id)s
      END;

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
