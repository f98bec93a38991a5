-- Everything that a user owns, in the order of the file that carries it away. All pages of one export see one snapshot.

-- name: get_last_number
-- No row for who never had a todo.
-- param user_id: uuid
-- returns: maybe int
-- index: todo_counters_pkey
SELECT last_number
FROM todo_counters
WHERE user_id = %(user_id)s;

-- name: export_todos
-- A page in the order of numbers. The user's own id becomes a word, so that the file fits an account made anew.
-- param user_id: uuid
-- param after: integer
-- param limit: integer
-- returns: many TodoLine
-- index: todos_user_id_number_key
SELECT
    id, number, title, description, status, priority, due_date,
    CASE WHEN assigned_to = %(user_id)s THEN 'me' ELSE assigned_to::text END AS assigned_to,
    completed_at, metadata, created_at, updated_at, version
FROM todos
WHERE user_id = %(user_id)s
  AND number > %(after)s
ORDER BY number
LIMIT %(limit)s;

-- name: export_conversations
-- A page in the order of ids, the first one with after_id null: no id is below all that there may be.
-- param user_id: uuid
-- param after_id: uuid
-- param limit: integer
-- returns: many ConversationLine
-- index: conversations_pkey
SELECT id, title, metadata, last_position, message_count, created_at, updated_at, version, external_id
FROM conversations
WHERE user_id = %(user_id)s
  AND id >= coalesce(%(after_id)s, '00000000-0000-0000-0000-000000000000'::uuid)
  AND id IS DISTINCT FROM %(after_id)s
ORDER BY id
LIMIT %(limit)s;

-- name: export_messages
-- A page of the messages of all conversations up to `last_id`, behind a place: a page of conversations has one query,
-- not one for each. It ends early behind 4 MiB of items. Positions begin at 1.
-- param user_id: uuid
-- param after_id: uuid
-- param after: integer
-- param last_id: uuid
-- param limit: integer
-- returns: many MessageLine
-- index: messages_pkey
SELECT
    l.id, l.conversation_id, l.position, l.sender_type, l.content, l.message_type, l.metadata, l.created_at,
    l.updated_at, l.version, l.item, l.content_truncated
FROM (
    SELECT
        p.id, p.conversation_id, p.position, p.sender_type, p.content, p.message_type, p.metadata, p.created_at,
        p.updated_at, p.version, p.item, p.content_truncated,
        sum(coalesce(octet_length(p.item), 0)) OVER (ORDER BY p.conversation_id, p.position)
            - coalesce(octet_length(p.item), 0) AS bytes_before
    FROM (
        SELECT
            id, conversation_id, position, sender_type, content, message_type, metadata, created_at, updated_at,
            version, item, content_truncated
        FROM messages
        WHERE user_id = %(user_id)s
          AND (conversation_id, position) > (%(after_id)s, %(after)s)
          AND conversation_id <= %(last_id)s
        ORDER BY conversation_id, position
        LIMIT %(limit)s
    ) AS p
) AS l
WHERE l.bytes_before < 4194304
ORDER BY l.conversation_id, l.position;

-- name: export_links
-- A page in the order of ids, the first one with after_id null.
-- param user_id: uuid
-- param after_id: uuid
-- param limit: integer
-- returns: many LinkLine
-- index: todo_conversation_links_pkey
SELECT id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
FROM todo_conversation_links
WHERE user_id = %(user_id)s
  AND id >= coalesce(%(after_id)s, '00000000-0000-0000-0000-000000000000'::uuid)
  AND id IS DISTINCT FROM %(after_id)s
ORDER BY id
LIMIT %(limit)s;
