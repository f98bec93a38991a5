-- Tasks: todos in specification A's shape, by number. Only the owner's: an assignee has no number to call them by.

-- slot: task_columns
number AS id, user_id, title, description, completed, created_at, updated_at;

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

-- name: delete_task
-- param user_id: uuid
-- param number: bigint
-- param version: integer
-- returns: maybe int
-- index: todos_user_id_number_key
DELETE FROM todos
WHERE user_id = %(user_id)s
  AND number = %(number)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING number;

-- name: list_tasks_by_created
-- All of them: specification A has no pages.
-- param user_id: uuid
-- param completed: boolean
-- returns: many Task
-- index: todos_user_id_created_at_idx
SELECT {task_columns}
FROM todos
WHERE user_id = %(user_id)s
  AND status <> 'archived'
  AND (%(completed)s IS NULL OR completed = %(completed)s)
ORDER BY created_at, todos.id;

-- name: list_tasks_by_title
-- Sorted: all of them are wanted at once, and an index by title would serve nothing else. (The order inside is only to
-- have them found by the index of all lists, and not by whichever begins with user_id.)
-- param user_id: uuid
-- param completed: boolean
-- returns: many Task
-- index: todos_user_id_created_at_idx
SELECT id, user_id, title, description, completed, created_at, updated_at
FROM (
    SELECT {task_columns}
    FROM todos
    WHERE user_id = %(user_id)s
      AND status <> 'archived'
      AND (%(completed)s IS NULL OR completed = %(completed)s)
    ORDER BY created_at
    OFFSET 0
) AS found
ORDER BY title, id;

-- name: list_tasks_by_due_date
-- Those without a due date come last.
-- param user_id: uuid
-- param completed: boolean
-- returns: many Task
-- index: todos_user_id_due_date_idx
SELECT {task_columns}
FROM todos
WHERE user_id = %(user_id)s
  AND status <> 'archived'
  AND (%(completed)s IS NULL OR completed = %(completed)s)
ORDER BY due_date NULLS LAST, todos.id;
