-- slot: link_columns
-- A Link.
id, user_id, todo_id, conversation_id, relationship_type, created_at;

-- name: get_link
-- param user_id: uuid
-- param id: uuid
-- returns: maybe Link+version
-- index: todo_conversation_links_pkey
SELECT {link_columns}, version
FROM todo_conversation_links
WHERE user_id = %(user_id)s
  AND id = %(id)s;

-- name: create_link
-- Both ends must be the caller's: the foreign keys start with user_id.
-- param user_id: uuid
-- param todo_id: uuid
-- param conversation_id: uuid
-- param relationship_type: text
-- returns: one Link+version
-- index: todo_conversation_links_key
INSERT INTO todo_conversation_links (user_id, todo_id, conversation_id, relationship_type)
VALUES (%(user_id)s, %(todo_id)s, %(conversation_id)s, %(relationship_type)s)
RETURNING {link_columns}, version;

-- name: link_todo
-- Records that a conversation made or changed a todo, by id, or by number where id is null; once is enough.
-- param user_id: uuid
-- param conversation_id: uuid
-- param relationship_type: text
-- returns: count
-- index: todo_conversation_links_key
INSERT INTO todo_conversation_links (user_id, todo_id, conversation_id, relationship_type)
SELECT %(user_id)s, t.id, %(conversation_id)s, %(relationship_type)s
FROM todos AS t
WHERE t.user_id = %(user_id)s
  AND t.id = {referenced_todo}
ON CONFLICT (user_id, todo_id, conversation_id, relationship_type) DO NOTHING;

-- name: update_link
-- A null relationship_type stays. No row when there is no such link, or the version asked for has passed.
-- param user_id: uuid
-- param id: uuid
-- param relationship_type: text
-- param version: integer
-- returns: maybe Link+version
-- index: todo_conversation_links_pkey
UPDATE todo_conversation_links
SET relationship_type = coalesce(%(relationship_type)s, relationship_type)
WHERE user_id = %(user_id)s
  AND id = %(id)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING {link_columns}, version;

-- name: delete_link
-- param user_id: uuid
-- param id: uuid
-- param version: integer
-- returns: maybe UUID
-- index: todo_conversation_links_pkey
DELETE FROM todo_conversation_links
WHERE user_id = %(user_id)s
  AND id = %(id)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING id;

-- name: list_links
-- Those that match among so many behind a place, newest first: ids of version 7 are in order of time.
-- param user_id: uuid
-- param relationship_type: text
-- param after_id: uuid
-- param looked_at: integer
-- param row_limit: integer
-- returns: some Link
-- index: todo_conversation_links_pkey
SELECT {link_columns}, matches, is_last
FROM (
    SELECT {link_columns},
        (%(relationship_type)s IS NULL OR relationship_type = %(relationship_type)s) AS matches,
        row_number() OVER (ORDER BY id DESC) = %(looked_at)s AS is_last
    FROM (
        SELECT {link_columns}
        FROM todo_conversation_links
        WHERE user_id = %(user_id)s
          AND id < %(after_id)s
        ORDER BY id DESC
        LIMIT %(looked_at)s
    ) AS l
) AS l
WHERE matches OR is_last
ORDER BY id DESC
LIMIT %(row_limit)s;

-- name: list_links_of_{noun}
-- OFFSET 0 has the links of the one {noun} found first and then sorted, where the planner would rather walk through all
-- of the user's in the wanted order.
-- fill: noun | other | index
-- with: todo | conversation | todo_conversation_links_key
-- with: conversation | todo | todo_conversation_links_conversation_id_idx
-- param user_id: uuid
-- param {noun}_id: uuid
-- param {other}_id: uuid
-- param relationship_type: text
-- param after_id: uuid
-- param row_limit: integer
-- returns: many Link
-- index: {index}
SELECT {link_columns}
FROM (
    SELECT {link_columns}
    FROM todo_conversation_links
    WHERE user_id = %(user_id)s
      AND {noun}_id = %({noun}_id)s
      AND id < %(after_id)s
      AND (%({other}_id)s IS NULL OR {other}_id = %({other}_id)s)
      AND (%(relationship_type)s IS NULL OR relationship_type = %(relationship_type)s)
    OFFSET 0
) AS found
ORDER BY id DESC
LIMIT %(row_limit)s;
