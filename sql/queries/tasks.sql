-- Tasks: todos in specification A's shape, by number. Only the owner's: an assignee has no number to call them by.

-- slot: task_columns
number AS id, user_id, title, description, completed, created_at, updated_at;

-- slot: listed_task
-- Archived ones are in no list.
-- param completed: boolean
(status <> 'archived' AND (%(completed)s IS NULL OR completed = %(completed)s));

-- name: get_task
-- param user_id: uuid
-- param number: bigint
-- returns: maybe Task+version
-- index: todos_user_id_number_key
SELECT {task_columns}, version
FROM todos
WHERE user_id = %(user_id)s
  AND number = %(number)s;

-- name: create_task
-- param user_id: uuid
-- param title: text
-- param description: text
-- param status: text
-- returns: one Task+version
-- index: todos_pkey
INSERT INTO todos (user_id, title, description, status)
VALUES (%(user_id)s, %(title)s, %(description)s, %(status)s)
RETURNING {task_columns}, version;

-- name: update_task
-- A null title or completed leaves it as it is. No row when there is no such task, or the version asked for has passed.
-- param user_id: uuid
-- param number: bigint
-- param title: text
-- param set_description: boolean
-- param description: text
-- param completed: boolean
-- param version: integer
-- returns: maybe Task+version
-- index: todos_user_id_number_key
UPDATE todos
SET title = coalesce(%(title)s, title),
    description = CASE WHEN %(set_description)s THEN %(description)s ELSE description END,
    status = CASE
        WHEN %(completed)s THEN 'completed'
        WHEN NOT %(completed)s AND status = 'completed' THEN 'pending'
        ELSE status
    END
WHERE user_id = %(user_id)s
  AND number = %(number)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING {task_columns}, version;

-- name: complete_task
-- A null completed toggles. No row when there is no such task, or the version asked for has passed.
-- param user_id: uuid
-- param number: bigint
-- param completed: boolean
-- param version: integer
-- returns: maybe Task+version
-- index: todos_user_id_number_key
UPDATE todos
SET status = CASE
        WHEN coalesce(%(completed)s, status <> 'completed') THEN 'completed'
        WHEN status = 'completed' THEN 'pending'
        ELSE status
    END
WHERE user_id = %(user_id)s
  AND number = %(number)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING {task_columns}, version;

-- name: list_task_ids_by_{order}
-- Of all of them, for specification A has no pages: with commas between them, as one text, which takes little memory. The
-- order inside has them found by an index of lists. By title they are sorted, since an index by title would serve nothing
-- else. Those without a due date come last.
-- fill: order | inside | by | index_of_order
-- with: created | created_at, id | t.created_at, t.id | todos_user_id_created_at_idx
-- with: title | created_at, id | t.title, t.id | todos_user_id_created_at_idx
-- with: due_date | due_date, id | t.due_date, t.id | todos_user_id_due_date_idx
-- param user_id: uuid
-- returns: one str
-- index: {index_of_order}
SELECT coalesce(string_agg(t.id::text, ',' ORDER BY {by}), '')
FROM (
    SELECT id, title, due_date, created_at
    FROM todos
    WHERE user_id = %(user_id)s
      AND {listed_task}
    ORDER BY {inside}
    OFFSET 0
) AS t;

-- name: list_tasks
-- Those of the ids that still belong into the list, in the order of the ids. OFFSET 0 has each looked up: else all that
-- the user has may be read for every page.
-- param user_id: uuid
-- param ids: uuid[]
-- returns: many Task
-- index: todos_pkey
SELECT t.id, t.user_id, t.title, t.description, t.completed, t.created_at, t.updated_at
FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS w (id, place)
CROSS JOIN LATERAL (
    SELECT {task_columns}
    FROM todos
    WHERE user_id = %(user_id)s
      AND todos.id = w.id
      AND {listed_task}
    OFFSET 0
) AS t
ORDER BY w.place;
