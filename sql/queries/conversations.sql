-- slot: conversation_version
-- The version that clients see: it moves with each message that is added or deleted, too.
version + 2 * last_position::bigint - message_count;

-- slot: conversation_columns
-- A Conversation, of a row of conversations.
id, user_id, title, metadata, message_count, {conversation_version} AS version, created_at, updated_at;

-- name: get_conversation
-- param user_id: uuid
-- param id: uuid
-- returns: maybe Conversation
-- index: conversations_pkey
SELECT {conversation_columns}
FROM conversations
WHERE user_id = %(user_id)s
  AND id = %(id)s;

-- name: create_conversation
-- The id is given where statements behind this one need it.
-- param user_id: uuid
-- param id: uuid
-- param title: text
-- param metadata: jsonb
-- returns: one Conversation
-- index: conversations_pkey
INSERT INTO conversations (user_id, id, title, metadata)
VALUES (%(user_id)s, coalesce(%(id)s, uuid7()), %(title)s, coalesce(%(metadata)s, '{}'))
RETURNING {conversation_columns};

-- name: update_conversation
-- Fields that are null, or whose set_ flag is false, stay. No row when there is no such conversation, or the version
-- asked for has passed.
-- param user_id: uuid
-- param id: uuid
-- param set_title: boolean
-- param title: text
-- param metadata: jsonb
-- param version: bigint
-- returns: maybe Conversation
-- index: conversations_pkey
UPDATE conversations
SET title = CASE WHEN %(set_title)s THEN %(title)s ELSE title END,
    metadata = coalesce(%(metadata)s, metadata)
WHERE user_id = %(user_id)s
  AND id = %(id)s
  AND (%(version)s IS NULL OR {conversation_version} = %(version)s)
RETURNING {conversation_columns};

-- name: delete_conversation
-- Its messages and links go with it.
-- param user_id: uuid
-- param id: uuid
-- param version: bigint
-- returns: maybe UUID
-- index: conversations_pkey
DELETE FROM conversations
WHERE user_id = %(user_id)s
  AND id = %(id)s
  AND (%(version)s IS NULL OR {conversation_version} = %(version)s)
RETURNING id;

-- name: list_conversations
-- Most recently active first.
-- param user_id: uuid
-- param after: timestamptz
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Conversation
-- index: conversations_user_id_updated_hour_idx
SELECT {conversation_columns}
FROM conversations
WHERE user_id = %(user_id)s
  AND updated_hour <= date_bin('1 hour', %(after)s, 'epoch')
  AND (updated_at, id) < (%(after)s, %(after_id)s)
ORDER BY updated_hour DESC, updated_at DESC, id DESC
LIMIT %(row_limit)s;

-- name: list_conversations_with_messages
-- The same with each one's last messages, oldest first, as JSON in the shape of Message.
-- param user_id: uuid
-- param messages: integer
-- param after: timestamptz
-- param after_id: uuid
-- param row_limit: integer
-- returns: many ListedConversation
-- index: messages_pkey
SELECT
    c.id, c.user_id, c.title, c.metadata, c.message_count, c.version, c.created_at, c.updated_at,
    coalesce(m.messages, '[]') AS messages
FROM (
    SELECT {conversation_columns}
    FROM conversations
    WHERE user_id = %(user_id)s
      AND updated_hour <= date_bin('1 hour', %(after)s, 'epoch')
      AND (updated_at, id) < (%(after)s, %(after_id)s)
    ORDER BY updated_hour DESC, updated_at DESC, id DESC
    LIMIT %(row_limit)s
) AS c
LEFT JOIN LATERAL (
    SELECT
        json_agg(
            json_build_object(
                'id', l.id, 'conversation_id', l.conversation_id, 'user_id', l.user_id, 'position', l.position,
                'sender_type', l.sender_type, 'role', l.role, 'sender_id', l.sender_id, 'content', l.content,
                'message_type', l.message_type, 'metadata', l.metadata, 'content_truncated', l.content_truncated,
                'created_at', replace(to_char(l.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z'),
                'updated_at', replace(to_char(l.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z')
            )
            ORDER BY l.position
        ) AS messages
    FROM (
        SELECT {message_columns}
        FROM messages
        WHERE user_id = %(user_id)s
          AND conversation_id = c.id
        ORDER BY position DESC
        LIMIT %(messages)s
    ) AS l
) AS m ON TRUE
ORDER BY c.updated_at DESC, c.id DESC;

-- name: list_todo_conversations
-- The conversations a todo is linked with, each once however many links there are.
-- param user_id: uuid
-- param id: uuid
-- param number: bigint
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Conversation
-- index: todo_conversation_links_key
SELECT {conversation_columns}
FROM conversations
WHERE user_id = %(user_id)s
  AND id IN (
    SELECT l.conversation_id
    FROM todo_conversation_links AS l
    WHERE l.user_id = %(user_id)s
      AND l.todo_id = CASE
          WHEN %(id)s IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = %(user_id)s AND n.number = %(number)s)
          ELSE %(id)s
      END
      AND l.conversation_id > %(after_id)s
    GROUP BY l.conversation_id
    ORDER BY l.conversation_id
    LIMIT %(row_limit)s
  )
ORDER BY id;
