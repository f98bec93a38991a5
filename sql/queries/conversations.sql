-- slot: conversation_version
-- The version that clients see: it moves with each message that is added or deleted, too.
version + 2 * last_position::bigint - message_count;

-- slot: conversation_columns
-- A Conversation, of a row of conversations.
id, user_id, external_id, title, metadata, message_count, {conversation_version} AS version, created_at, updated_at;

-- slot: conversation_filters
-- Words that stand in the title, whatever their case; what the metadata contains.
-- param words: text[]
-- param contains: jsonb
(%(words)s IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest(%(words)s::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND (%(contains)s IS NULL OR metadata @> %(contains)s);

-- slot: conversation_row
-- The columns of conversations that lists select, order and filter by.
id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour;

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
-- param external_id: text
-- param title: text
-- param metadata: jsonb
-- returns: one Conversation
-- index: conversations_pkey
INSERT INTO conversations (user_id, id, external_id, title, metadata)
VALUES (%(user_id)s, coalesce(%(id)s, uuid7()), %(external_id)s, %(title)s, coalesce(%(metadata)s, '{}'))
RETURNING {conversation_columns};

-- name: ensure_conversation
-- A conversation of this name, unless there is one: no row then, and behind the lock of whoever makes it now.
-- param user_id: uuid
-- param external_id: text
-- param title: text
-- param metadata: jsonb
-- returns: maybe Conversation
-- index: conversations_external_id_key
INSERT INTO conversations (user_id, external_id, title, metadata)
VALUES (%(user_id)s, %(external_id)s, %(title)s, coalesce(%(metadata)s, '{}'))
ON CONFLICT (user_id, external_id) WHERE external_id IS NOT NULL DO NOTHING
RETURNING {conversation_columns};

-- name: get_conversation_by_external_id
-- param user_id: uuid
-- param external_id: text
-- returns: maybe Conversation
-- index: conversations_external_id_key
SELECT {conversation_columns}
FROM conversations
WHERE user_id = %(user_id)s
  AND external_id = %(external_id)s;

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
    metadata = coalesce(nullif(%(metadata)s, metadata), metadata)
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

-- Lists, a keyset page at a time, as those of todos: each looks at so many conversations in its order.

-- name: list_conversations_by_{order}
-- fill: order | type | beyond | by | index
-- with: updated_at_desc | timestamptz | updated_hour <= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id) < (%(after)s, %(after_id)s) | updated_hour DESC, updated_at DESC, id DESC | user_id_updated_hour_idx
-- with: updated_at | timestamptz | updated_hour >= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id) > (%(after)s, %(after_id)s) | updated_hour, updated_at, id | user_id_updated_hour_idx
-- with: created_at_desc | timestamptz | (created_at, id) < (%(after)s, %(after_id)s) | created_at DESC, id DESC | user_id_created_at_idx
-- with: created_at | timestamptz | (created_at, id) > (%(after)s, %(after_id)s) | created_at, id | user_id_created_at_idx
-- with: external_id | text | external_id = %(after)s AND id <> %(after_id)s | external_id | external_id_key
-- param user_id: uuid
-- param after: {type}
-- param after_id: uuid
-- param row_limit: integer
-- param looked_at: integer
-- returns: some Conversation
-- index: conversations_{index}
SELECT {conversation_columns}, matches, is_last
FROM (
    SELECT {conversation_row}, {conversation_filters} AS matches,
        row_number() OVER (ORDER BY {by}) = %(looked_at)s AS is_last
    FROM (
        SELECT {conversation_row}
        FROM conversations
        WHERE user_id = %(user_id)s
          AND {beyond}
        ORDER BY {by}
        LIMIT %(looked_at)s
    ) AS conversations
) AS conversations
WHERE matches OR is_last
ORDER BY {by}
LIMIT %(row_limit)s;

-- name: list_conversations_with_messages_by_{order}
-- The same with each one's last messages, oldest first, as JSON in the shape of Message: NULL where those of the
-- conversations before it have message_bytes already.
-- fill: order | type | beyond | by
-- with: updated_at_desc | timestamptz | updated_hour <= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id) < (%(after)s, %(after_id)s) | updated_hour DESC, updated_at DESC, id DESC
-- with: updated_at | timestamptz | updated_hour >= date_bin('1 hour', %(after)s, 'epoch') AND (updated_at, id) > (%(after)s, %(after_id)s) | updated_hour, updated_at, id
-- with: created_at_desc | timestamptz | (created_at, id) < (%(after)s, %(after_id)s) | created_at DESC, id DESC
-- with: created_at | timestamptz | (created_at, id) > (%(after)s, %(after_id)s) | created_at, id
-- with: external_id | text | external_id = %(after)s AND id <> %(after_id)s | external_id
-- param user_id: uuid
-- param messages: integer
-- param message_bytes: bigint
-- param after: {type}
-- param after_id: uuid
-- param row_limit: integer
-- param looked_at: integer
-- returns: some ListedConversation
-- index: messages_pkey
SELECT
    c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at, c.updated_at,
    CASE
        WHEN coalesce(c.bytes_before, 0) < %(message_bytes)s THEN coalesce(
            json_agg(
                json_build_object(
                    'id', c.message_id, 'conversation_id', c.id, 'user_id', c.user_id, 'position', c.position,
                    'sender_type', c.sender_type, 'role', c.role, 'sender_id', c.sender_id, 'content', c.content,
                    'message_type', c.message_type, 'metadata', c.message_metadata,
                    'content_truncated', c.content_truncated,
                    'created_at', replace(to_char(c.said_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z'),
                    'updated_at', replace(to_char(c.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z')
                )
                ORDER BY c.position
            ) FILTER (WHERE c.message_id IS NOT NULL AND coalesce(c.bytes_before, 0) < %(message_bytes)s),
            '[]'
        )
    END AS messages,
    c.matches, c.is_last
FROM (
    SELECT
        p.id, p.user_id, p.external_id, p.title, p.metadata, p.message_count, p.version, p.created_at, p.updated_at,
        p.place, p.matches, p.is_last, l.id AS message_id, l.position, l.sender_type, l.role, l.sender_id, l.content, l.message_type,
        l.metadata AS message_metadata, l.content_truncated, l.created_at AS said_at, l.updated_at AS changed_at,
        sum(octet_length(l.content) + pg_column_size(l.metadata)) OVER (
            ORDER BY p.place
            GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS bytes_before
    FROM (
        SELECT {conversation_columns}, place, matches, is_last
        FROM (
            SELECT {conversation_row}, place, {conversation_filters} AS matches, place = %(looked_at)s AS is_last
            FROM (
                SELECT {conversation_row}, row_number() OVER (ORDER BY {by}) AS place
                FROM conversations
                WHERE user_id = %(user_id)s
                  AND {beyond}
                ORDER BY {by}
                LIMIT %(looked_at)s
            ) AS conversations
        ) AS conversations
        WHERE matches OR is_last
        ORDER BY {by}
        LIMIT %(row_limit)s
    ) AS p
    LEFT JOIN LATERAL (
        SELECT {message_columns}
        FROM messages
        WHERE user_id = %(user_id)s
          AND conversation_id = p.id
          AND p.matches
        ORDER BY position DESC
        LIMIT %(messages)s
    ) AS l ON TRUE
) AS c
GROUP BY
    c.place, c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at,
    c.updated_at, c.bytes_before, c.matches, c.is_last
ORDER BY c.place;

-- name: list_todo_conversations
-- The conversations a todo is linked with, each once however many links there are.
-- param user_id: uuid
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
      AND l.todo_id = {referenced_todo}
      AND l.conversation_id > %(after_id)s
    GROUP BY l.conversation_id
    ORDER BY l.conversation_id
    LIMIT %(row_limit)s
  )
ORDER BY id;
