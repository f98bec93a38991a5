-- Messages. Positions, times and the sender come from the trigger messages_before_insert.

-- slot: message_columns
-- A Message.
id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at;

-- slot: written_columns
user_id, conversation_id, sender_type, content, message_type, metadata, item, content_truncated;

-- name: lock_conversation
-- Keeps other writers away, ahead of a statement that deletes messages. That one then sees what the writer before has
-- committed; and since every writer locks the conversation first, none of them wait for each other in a circle.
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- writes: yes
-- index: conversations_pkey
SELECT id
FROM conversations
WHERE user_id = %(user_id)s
  AND id = %(id)s
FOR NO KEY UPDATE;

-- name: find_last_position
-- The highest position that a conversation's messages ever had; beside a query of them, tells an empty one from none.
-- param user_id: uuid
-- param id: uuid
-- returns: maybe int
-- index: conversations_pkey
SELECT last_position
FROM conversations
WHERE user_id = %(user_id)s
  AND id = %(id)s;

-- name: open_conversation
-- A conversation whose first turn follows in the same transaction.
-- param user_id: uuid
-- param id: uuid
-- param title: text
-- returns: none
-- index: conversations_pkey
INSERT INTO conversations (user_id, id, title)
VALUES (%(user_id)s, %(id)s, %(title)s);

-- name: expect_position
-- Locks the conversation for a turn; raises TC411 when its last message is at another position than the expected one.
-- param user_id: uuid
-- param conversation_id: uuid
-- param expected: integer
-- returns: none
-- index: messages_pkey
-- writes: yes
SELECT expect_position(%(user_id)s, %(conversation_id)s, %(expected)s);

-- name: create_{message}
-- A message: one of a turn's, or one by itself with its item and the version for its ETag.
-- fill: message | row | columns
-- with: turn_message | Message | {message_columns}
-- with: message | FullMessage+version | {message_columns}, item::json AS item, version
-- param user_id: uuid
-- param conversation_id: uuid
-- param sender_type: text
-- param content: text
-- param message_type: text
-- param metadata: jsonb
-- param item: text
-- param content_truncated: boolean
-- returns: one {row}
-- index: messages_pkey
INSERT INTO messages ({written_columns})
VALUES (
    %(user_id)s, %(conversation_id)s, %(sender_type)s, %(content)s, %(message_type)s, coalesce(%(metadata)s, '{}'),
    %(item)s, %(content_truncated)s
)
RETURNING {columns};

-- name: create_two_messages
-- Two neighbours of a turn in one statement, which counts them on the conversation once: the usual turn, what the user
-- said and what the model answered, costs the database a third less than by one statement each. (Not for any number from
-- arrays: Citus refuses an INSERT ... SELECT from unnest() into a table with row security.)
-- param user_id: uuid
-- param conversation_id: uuid
-- param sender_type: text
-- param content: text
-- param message_type: text
-- param metadata: jsonb
-- param item: text
-- param content_truncated: boolean
-- param second_sender_type: text
-- param second_content: text
-- param second_message_type: text
-- param second_metadata: jsonb
-- param second_item: text
-- param second_content_truncated: boolean
-- returns: many Message
-- index: messages_pkey
INSERT INTO messages ({written_columns})
VALUES
    (
        %(user_id)s, %(conversation_id)s, %(sender_type)s, %(content)s, %(message_type)s,
        coalesce(%(metadata)s, '{}'), %(item)s, %(content_truncated)s
    ),
    (
        %(user_id)s, %(conversation_id)s, %(second_sender_type)s, %(second_content)s, %(second_message_type)s,
        coalesce(%(second_metadata)s, '{}'), %(second_item)s, %(second_content_truncated)s
    )
RETURNING {message_columns};

-- name: get_message
-- param user_id: uuid
-- param conversation_id: uuid
-- param id: uuid
-- returns: maybe FullMessage+version
-- index: messages_user_id_id_key
SELECT {message_columns}, item::json AS item, version
FROM messages
WHERE user_id = %(user_id)s
  AND conversation_id = %(conversation_id)s
  AND id = %(id)s;

-- name: update_message
-- Fields that are null stay. No row when there is no such message, or the version asked for has passed.
-- param user_id: uuid
-- param conversation_id: uuid
-- param id: uuid
-- param content: text
-- param message_type: text
-- param metadata: jsonb
-- param version: integer
-- returns: maybe FullMessage+version
-- index: messages_user_id_id_key
UPDATE messages
SET content = coalesce(%(content)s, content),
    content_truncated = content_truncated AND %(content)s IS NULL,
    message_type = coalesce(%(message_type)s, message_type),
    metadata = coalesce(nullif(%(metadata)s, metadata), metadata)
WHERE user_id = %(user_id)s
  AND conversation_id = %(conversation_id)s
  AND id = %(id)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING {message_columns}, item::json AS item, version;

-- name: delete_message
-- param user_id: uuid
-- param conversation_id: uuid
-- param id: uuid
-- param version: integer
-- returns: maybe UUID
-- index: messages_user_id_id_key
DELETE FROM messages
WHERE user_id = %(user_id)s
  AND conversation_id = %(conversation_id)s
  AND id = %(id)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING id;

-- name: delete_messages_from
-- param user_id: uuid
-- param conversation_id: uuid
-- param from_position: integer
-- returns: count
-- index: messages_pkey
DELETE FROM messages
WHERE user_id = %(user_id)s
  AND conversation_id = %(conversation_id)s
  AND position >= %(from_position)s;

-- name: list_messages{suffix}
-- Those between two positions, by position: a page ends where the next one begins.
-- fill: suffix | direction
-- with: | ASC
-- with: _desc | DESC
-- param user_id: uuid
-- param conversation_id: uuid
-- param sender_type: text
-- param message_type: text
-- param after: integer
-- param before: integer
-- param row_limit: integer
-- returns: many Message
-- index: messages_pkey
SELECT {message_columns}
FROM messages
WHERE user_id = %(user_id)s
  AND conversation_id = %(conversation_id)s
  AND position > %(after)s
  AND position < %(before)s
  AND (%(sender_type)s IS NULL OR sender_type = %(sender_type)s)
  AND (%(message_type)s IS NULL OR message_type = %(message_type)s)
ORDER BY position {direction}
LIMIT %(row_limit)s;

-- name: list_messages_with_items{suffix}
-- The same with their items, as many as fit into 4 MiB, and the one that doesn't.
-- fill: suffix | direction
-- with: | ASC
-- with: _desc | DESC
-- param user_id: uuid
-- param conversation_id: uuid
-- param sender_type: text
-- param message_type: text
-- param after: integer
-- param before: integer
-- param row_limit: integer
-- returns: many FullMessage
-- index: messages_pkey
SELECT {message_columns}, l.item::json AS item
FROM (
    SELECT {message_columns}, item,
        sum(coalesce(octet_length(item), 0)) OVER (ORDER BY position {direction})
            - coalesce(octet_length(item), 0) AS bytes_before
    FROM (
        SELECT {message_columns}, item
        FROM messages
        WHERE user_id = %(user_id)s
          AND conversation_id = %(conversation_id)s
          AND position > %(after)s
          AND position < %(before)s
          AND (%(sender_type)s IS NULL OR sender_type = %(sender_type)s)
          AND (%(message_type)s IS NULL OR message_type = %(message_type)s)
        ORDER BY position {direction}
        LIMIT %(row_limit)s
    ) AS p
) AS l
WHERE l.bytes_before < 4194304
ORDER BY l.position {direction};

-- name: list_context
-- The last messages, oldest first.
-- param user_id: uuid
-- param conversation_id: uuid
-- param messages: integer
-- returns: many ContextRow
-- index: messages_pkey
SELECT l.role, l.content, l.message_type, l.position
FROM (
    SELECT role, content, message_type, position
    FROM messages
    WHERE user_id = %(user_id)s
      AND conversation_id = %(conversation_id)s
    ORDER BY position DESC
    LIMIT %(messages)s
) AS l
ORDER BY l.position;

-- name: list_context_items
-- The same with their items, the newest that fit into 4 MiB.
-- param user_id: uuid
-- param conversation_id: uuid
-- param messages: integer
-- returns: many ContextItemRow
-- index: messages_pkey
SELECT l.role, l.content, l.message_type, l.position, l.item::json AS item
FROM (
    SELECT p.role, p.content, p.message_type, p.item, p.position,
        sum(octet_length(coalesce(p.item, p.content))) OVER (ORDER BY p.position DESC) AS bytes
    FROM (
        SELECT role, content, message_type, item, position
        FROM messages
        WHERE user_id = %(user_id)s
          AND conversation_id = %(conversation_id)s
        ORDER BY position DESC
        LIMIT %(messages)s
    ) AS p
) AS l
WHERE l.bytes <= 4194304
ORDER BY l.position;

-- name: search_messages
-- Those that hold all the words, among so many behind a place, newest first.
-- param user_id: uuid
-- param words: text[]
-- param before_id: uuid
-- param looked_at: integer
-- param row_limit: integer
-- returns: some FoundMessage
-- index: messages_user_id_id_key
SELECT
    s.id, s.conversation_id, s.position, s.role, s.message_type,
    substring(s.content FROM greatest(1, strpos(s.lowered, lower((%(words)s::text[])[1])) - 40) FOR 200) AS snippet,
    s.created_at, s.matches, s.is_last
FROM (
    SELECT
        l.id, l.conversation_id, l.position, l.role, l.message_type, l.content, l.lowered, l.created_at,
        NOT EXISTS (
            SELECT FROM unnest(%(words)s::text[]) AS w (word) WHERE strpos(l.lowered, lower(w.word)) = 0
        ) AS matches,
        row_number() OVER (ORDER BY l.id DESC) = %(looked_at)s AS is_last
    FROM (
        SELECT
            id, conversation_id, position, role, message_type, content, created_at,
            replace(lower(content), U&'\03C2', U&'\03C3') AS lowered
        FROM messages
        WHERE user_id = %(user_id)s
          AND id < %(before_id)s
        ORDER BY id DESC
        LIMIT %(looked_at)s
    ) AS l
) AS s
WHERE s.matches OR s.is_last
ORDER BY s.id DESC
LIMIT %(row_limit)s;

-- name: find_item
-- The message whose item has this id of its own, which its metadata says: looked for from the newest on.
-- param user_id: uuid
-- param conversation_id: uuid
-- param item_id: text
-- returns: maybe FullMessage
-- index: messages_pkey
SELECT {message_columns}, item::json AS item
FROM messages
WHERE user_id = %(user_id)s
  AND conversation_id = %(conversation_id)s
  AND metadata ->> 'item_id' = %(item_id)s
ORDER BY position DESC
LIMIT 1;
