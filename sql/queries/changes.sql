-- The change feed: the entries of the audit trail in the order in which they became visible, each once; and the way
-- back.

-- name: list_changes
-- Entries behind the one with the id after (behind the last one pruned for 000…), in commit order, up to the horizon: no
-- transaction that still runs, or begins later, writes an entry that isn't above twice the xmin of this snapshot.
-- after is looked for by >= and ORDER BY, which only audit_log_pkey can serve: by = alone another index may be read
-- through instead. No row when after is no entry of the caller's, nor the last one pruned, or lies before that:
-- find_change_cursor tells.
-- param user_id: uuid
-- param after: uuid
-- param row_limit: integer
-- returns: many Entry
-- index: audit_log_user_id_commit_order_idx
SELECT
    f.id, f.user_id, f.actor_id, f.action, f.table_name AS "table", f.row_id,
    audit_changes(f.user_id, f.commit_order, f.id, f.action, f.table_name, f.row_id, f.before) AS changes,
    f.request_id, f.at
FROM (
    SELECT a.id, a.user_id, a.actor_id, a.action, a.table_name, a.row_id, a.commit_order, a.before, a.request_id, a.at
    FROM audit_log AS a
    WHERE a.user_id = %(user_id)s
      AND (a.commit_order, a.id) > (
          (
              SELECT CASE
                  WHEN %(after)s = '00000000-0000-0000-0000-000000000000'::uuid THEN coalesce(
                      (SELECT p.commit_order FROM audit_prunes AS p WHERE p.user_id = %(user_id)s),
                      -9223372036854775808
                  )
                  ELSE coalesce(
                      (
                          SELECT CASE
                              WHEN s.id = %(after)s AND NOT EXISTS (
                                  SELECT
                                  FROM audit_prunes AS p
                                  WHERE p.user_id = %(user_id)s AND (s.commit_order, s.id) < (p.commit_order, p.id)
                              ) THEN s.commit_order
                          END
                          FROM (
                              SELECT b.id, b.commit_order
                              FROM audit_log AS b
                              WHERE b.user_id = %(user_id)s
                                AND b.id >= %(after)s
                              ORDER BY b.id
                              LIMIT 1
                          ) AS s
                      ),
                      (SELECT p.commit_order FROM audit_prunes AS p WHERE p.user_id = %(user_id)s AND p.id = %(after)s)
                  )
              END
          ),
          %(after)s
      )
      AND a.commit_order <= (SELECT 2 * txid_snapshot_xmin(txid_current_snapshot()))
    ORDER BY a.commit_order, a.id
    LIMIT %(row_limit)s
) AS f
ORDER BY f.commit_order, f.id;

-- name: find_change_cursor
-- Where the feed goes on: after itself if it is an entry of the caller's or the last one pruned; with after null, the
-- last one pruned; 000… while none was. No row: what follows after may have been pruned (also where after itself is
-- kept: entries are pruned by their time, which isn't quite the order of commits), or it never was an entry.
-- is_stranded: entries are of transactions that this cluster hasn't reached, so they came with a dump and have to be
-- brought into its order first.
-- param user_id: uuid
-- param after: uuid
-- returns: maybe ChangeCursor
-- index: audit_log_user_id_commit_order_idx
SELECT
    c.after,
    coalesce((
        SELECT a.commit_order
        FROM audit_log AS a
        WHERE a.user_id = %(user_id)s
        ORDER BY a.commit_order DESC, a.id DESC
        LIMIT 1
    ) > 2 * txid_snapshot_xmax(txid_current_snapshot()), FALSE) AS is_stranded
FROM (
    SELECT CASE
        WHEN %(after)s IS NULL THEN coalesce(m.id, '00000000-0000-0000-0000-000000000000')
        WHEN %(after)s = m.id THEN %(after)s
        WHEN %(after)s = '00000000-0000-0000-0000-000000000000'::uuid AND m.id IS NULL THEN %(after)s
        ELSE (
            SELECT a.id
            FROM audit_log AS a
            WHERE a.user_id = %(user_id)s
              AND a.id = %(after)s
              AND NOT EXISTS (
                  SELECT
                  FROM audit_prunes AS p
                  WHERE p.user_id = %(user_id)s AND (a.commit_order, a.id) < (p.commit_order, p.id)
              )
        )
    END AS after
    FROM (SELECT (SELECT p.id FROM audit_prunes AS p WHERE p.user_id = %(user_id)s LIMIT 1) AS id) AS m
) AS c
WHERE c.after IS NOT NULL;

-- The way back. Each undo of an update checks in its WHERE that the row is still what the entry made it, each undo of a
-- delete that nothing came after; app.restoring is on, so that the rules of transitions and due dates don't bind it.

-- name: get_change
-- What an entry is of, and whether nothing happened to its row since.
-- param user_id: uuid
-- param id: uuid
-- returns: maybe Change
-- index: audit_log_pkey
SELECT
    a.action, a.table_name AS "table", a.row_id,
    CASE WHEN a.action = 'update' THEN ARRAY(SELECT jsonb_object_keys(a.before)) ELSE '{}' END AS columns,
    CASE
        WHEN a.action = 'delete' AND a.table_name = 'conversations' THEN (a.before ->> 'message_count')::integer
        ELSE 0
    END AS message_count,
    NOT EXISTS (
        SELECT
        FROM audit_log AS n
        WHERE n.user_id = %(user_id)s
          AND n.row_id = a.row_id
          AND n.table_name = a.table_name
          AND (n.commit_order, n.id) > (a.commit_order, a.id)
    ) AS is_last
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s;

-- name: undo_user_update
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: users_pkey
UPDATE users AS u
SET username = CASE WHEN a.before ? 'username' THEN a.before ->> 'username' ELSE u.username END,
    full_name = CASE WHEN a.before ? 'full_name' THEN a.before ->> 'full_name' ELSE u.full_name END
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND u.id = %(user_id)s
  AND u.version = (a.before ->> 'version')::integer + 1
RETURNING u.id;

-- name: undo_todo_update
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: todos_pkey
UPDATE todos AS t
SET title = CASE WHEN a.before ? 'title' THEN a.before ->> 'title' ELSE t.title END,
    description = CASE WHEN a.before ? 'description' THEN a.before ->> 'description' ELSE t.description END,
    status = CASE WHEN a.before ? 'status' THEN a.before ->> 'status' ELSE t.status END,
    priority = CASE WHEN a.before ? 'priority' THEN a.before ->> 'priority' ELSE t.priority END,
    due_date = CASE WHEN a.before ? 'due_date' THEN (a.before ->> 'due_date')::timestamptz ELSE t.due_date END,
    assigned_to = CASE WHEN a.before ? 'assigned_to' THEN (a.before ->> 'assigned_to')::uuid ELSE t.assigned_to END,
    completed_at = CASE
        WHEN a.before ? 'completed_at' THEN (a.before ->> 'completed_at')::timestamptz
        ELSE t.completed_at
    END,
    metadata = coalesce(a.before -> 'metadata', t.metadata)
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND t.user_id = %(user_id)s
  AND t.id = a.row_id
  AND t.version = (a.before ->> 'version')::integer + 1
RETURNING t.id;

-- name: undo_conversation_update
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: conversations_pkey
UPDATE conversations AS c
SET title = CASE WHEN a.before ? 'title' THEN a.before ->> 'title' ELSE c.title END,
    metadata = coalesce(a.before -> 'metadata', c.metadata)
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND c.user_id = %(user_id)s
  AND c.id = a.row_id
  AND c.version = (a.before ->> 'version')::integer + 1
RETURNING c.id;

-- name: undo_message_update
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: messages_user_id_id_key
UPDATE messages AS m
SET content = coalesce(a.before ->> 'content', m.content),
    message_type = coalesce(a.before ->> 'message_type', m.message_type),
    metadata = coalesce(a.before -> 'metadata', m.metadata)
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND m.user_id = %(user_id)s
  AND m.id = a.row_id
  AND m.version = (a.before ->> 'version')::integer + 1
RETURNING m.id;

-- name: undo_link_update
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: todo_conversation_links_pkey
UPDATE todo_conversation_links AS l
SET relationship_type = coalesce(a.before ->> 'relationship_type', l.relationship_type)
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND l.user_id = %(user_id)s
  AND l.id = a.row_id
  AND l.version = (a.before ->> 'version')::integer + 1
RETURNING l.id;

-- name: undo_todo_delete
-- Its links come back by restore_todo_links.
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: todos_pkey
INSERT INTO todos (
    user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata,
    created_at, updated_at, version
)
SELECT
    %(user_id)s, a.row_id, (a.before ->> 'number')::integer, a.before ->> 'title', a.before ->> 'description',
    a.before ->> 'status', a.before ->> 'priority', (a.before ->> 'due_date')::timestamptz,
    (a.before ->> 'assigned_to')::uuid, (a.before ->> 'completed_at')::timestamptz, a.before -> 'metadata',
    (a.before ->> 'created_at')::timestamptz, (a.before ->> 'updated_at')::timestamptz,
    (a.before ->> 'version')::integer
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = %(user_id)s
        AND n.row_id = a.row_id
        AND n.table_name = a.table_name
        AND (n.commit_order, n.id) > (a.commit_order, a.id)
  )
RETURNING id;

-- name: undo_conversation_delete
-- Its messages and links come back by restore_messages and restore_conversation_links.
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: conversations_pkey
INSERT INTO conversations (
    user_id, id, title, metadata, last_position, message_count, created_at, updated_at, version
)
SELECT
    %(user_id)s, a.row_id, a.before ->> 'title', a.before -> 'metadata', (a.before ->> 'last_position')::integer,
    (a.before ->> 'message_count')::integer, (a.before ->> 'created_at')::timestamptz,
    (a.before ->> 'updated_at')::timestamptz, (a.before ->> 'version')::integer
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = %(user_id)s
        AND n.row_id = a.row_id
        AND n.table_name = a.table_name
        AND (n.commit_order, n.id) > (a.commit_order, a.id)
  )
RETURNING id;

-- name: undo_message_delete
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: messages_pkey
INSERT INTO messages (
    user_id, conversation_id, position, id, sender_type, sender_id, content, message_type, metadata, created_at,
    updated_at, version
)
SELECT
    %(user_id)s, (a.before ->> 'conversation_id')::uuid, (a.before ->> 'position')::integer, a.row_id,
    a.before ->> 'sender_type', (a.before ->> 'sender_id')::uuid, a.before ->> 'content', a.before ->> 'message_type',
    a.before -> 'metadata', (a.before ->> 'created_at')::timestamptz, (a.before ->> 'updated_at')::timestamptz,
    (a.before ->> 'version')::integer
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = %(user_id)s
        AND n.row_id = a.row_id
        AND n.table_name = a.table_name
        AND (n.commit_order, n.id) > (a.commit_order, a.id)
  )
RETURNING id;

-- name: undo_link_delete
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: todo_conversation_links_pkey
INSERT INTO todo_conversation_links (
    user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
)
SELECT
    %(user_id)s, a.row_id, (a.before ->> 'todo_id')::uuid, (a.before ->> 'conversation_id')::uuid,
    a.before ->> 'relationship_type', (a.before ->> 'created_at')::timestamptz,
    (a.before ->> 'updated_at')::timestamptz, (a.before ->> 'version')::integer
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = %(user_id)s
        AND n.row_id = a.row_id
        AND n.table_name = a.table_name
        AND (n.commit_order, n.id) > (a.commit_order, a.id)
  )
RETURNING id;

-- name: get_last_change
-- The last entry of a row. (An import may bring rows of two tables with one id.)
-- param user_id: uuid
-- param row_id: uuid
-- param table: text
-- returns: one Entry
-- index: audit_log_user_id_row_id_idx
SELECT
    f.id, f.user_id, f.actor_id, f.action, f.table_name AS "table", f.row_id,
    audit_changes(f.user_id, f.commit_order, f.id, f.action, f.table_name, f.row_id, f.before) AS changes,
    f.request_id, f.at
FROM (
    SELECT a.id, a.user_id, a.actor_id, a.action, a.table_name, a.row_id, a.commit_order, a.before, a.request_id, a.at
    FROM audit_log AS a
    WHERE a.user_id = %(user_id)s
      AND a.row_id = %(row_id)s
      AND a.table_name = %(table)s
    ORDER BY a.commit_order DESC, a.id DESC
    LIMIT 1
) AS f;

-- What went with a deleted row: what its transaction deleted in the minute after, which is enough for a million rows.
-- The end of that minute is a sub-select, or row security would keep it from being an index condition; so it would the
-- other end of a link, taken out of before, but for OFFSET 0.

-- name: restore_messages
-- The messages that went with a conversation.
-- param user_id: uuid
-- param id: uuid
-- returns: count
-- index: messages_pkey
INSERT INTO messages (
    user_id, conversation_id, position, id, sender_type, sender_id, content, message_type, metadata, created_at,
    updated_at, version
)
SELECT
    %(user_id)s, a.row_id, (c.before ->> 'position')::integer, c.row_id, c.before ->> 'sender_type',
    (c.before ->> 'sender_id')::uuid, c.before ->> 'content', c.before ->> 'message_type', c.before -> 'metadata',
    (c.before ->> 'created_at')::timestamptz, (c.before ->> 'updated_at')::timestamptz,
    (c.before ->> 'version')::integer
FROM audit_log AS a
INNER JOIN audit_log AS c
    ON c.user_id = %(user_id)s
    AND c.xact = a.xact
WHERE a.user_id = %(user_id)s
  AND a.id = %(id)s
  AND c.id > %(id)s
  AND c.id < (
      SELECT (lpad(to_hex((extract(epoch FROM b.at) * 1000)::bigint + 60000), 12, '0') || repeat('0', 20))::uuid
      FROM audit_log AS b
      WHERE b.user_id = %(user_id)s
        AND b.id = %(id)s
  )
  AND c.action = 'delete'
  AND c.table_name = 'messages'
  AND c.before ->> 'conversation_id' = a.row_id::text
ORDER BY (c.before ->> 'position')::integer;

-- name: restore_conversation_links
-- The links that went with a conversation, to todos that are there.
-- param user_id: uuid
-- param id: uuid
-- returns: count
-- index: todo_conversation_links_pkey
INSERT INTO todo_conversation_links (
    user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
)
SELECT
    %(user_id)s, c.id, o.id, c.conversation_id, c.before ->> 'relationship_type',
    (c.before ->> 'created_at')::timestamptz, (c.before ->> 'updated_at')::timestamptz,
    (c.before ->> 'version')::integer
FROM (
    SELECT d.row_id AS id, a.row_id AS conversation_id, (d.before ->> 'todo_id')::uuid AS todo_id, d.before
    FROM audit_log AS a
    INNER JOIN audit_log AS d
        ON d.user_id = %(user_id)s
        AND d.xact = a.xact
    WHERE a.user_id = %(user_id)s
      AND a.id = %(id)s
      AND d.id > %(id)s
      AND d.id < (
          SELECT (lpad(to_hex((extract(epoch FROM b.at) * 1000)::bigint + 60000), 12, '0') || repeat('0', 20))::uuid
          FROM audit_log AS b
          WHERE b.user_id = %(user_id)s
            AND b.id = %(id)s
      )
      AND d.action = 'delete'
      AND d.table_name = 'todo_conversation_links'
      AND d.before ->> 'conversation_id' = a.row_id::text
    OFFSET 0
) AS c
INNER JOIN todos AS o
    ON o.user_id = %(user_id)s
    AND o.id = c.todo_id;

-- name: restore_todo_links
-- The links that went with a todo, to conversations that are there.
-- param user_id: uuid
-- param id: uuid
-- returns: count
-- index: todo_conversation_links_pkey
INSERT INTO todo_conversation_links (
    user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
)
SELECT
    %(user_id)s, c.id, c.todo_id, o.id, c.before ->> 'relationship_type',
    (c.before ->> 'created_at')::timestamptz, (c.before ->> 'updated_at')::timestamptz,
    (c.before ->> 'version')::integer
FROM (
    SELECT d.row_id AS id, a.row_id AS todo_id, (d.before ->> 'conversation_id')::uuid AS conversation_id, d.before
    FROM audit_log AS a
    INNER JOIN audit_log AS d
        ON d.user_id = %(user_id)s
        AND d.xact = a.xact
    WHERE a.user_id = %(user_id)s
      AND a.id = %(id)s
      AND d.id > %(id)s
      AND d.id < (
          SELECT (lpad(to_hex((extract(epoch FROM b.at) * 1000)::bigint + 60000), 12, '0') || repeat('0', 20))::uuid
          FROM audit_log AS b
          WHERE b.user_id = %(user_id)s
            AND b.id = %(id)s
      )
      AND d.action = 'delete'
      AND d.table_name = 'todo_conversation_links'
      AND d.before ->> 'todo_id' = a.row_id::text
    OFFSET 0
) AS c
INNER JOIN conversations AS o
    ON o.user_id = %(user_id)s
    AND o.id = c.conversation_id;
