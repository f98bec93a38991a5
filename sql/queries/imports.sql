-- Bringing in what an export carried away, in one transaction that says begin_restoring. `rows` are lines of the file
-- as a JSON array, checked before: what is there already, by its id, is left as it is.

-- name: reserve_numbers
-- Numbers given from here on, also to imported todos whose own is taken, lie behind all of the file's.
-- param user_id: uuid
-- param last_number: integer
-- returns: none
-- index: todo_counters_pkey
INSERT INTO todo_counters AS c (user_id, last_number)
VALUES (%(user_id)s, %(last_number)s)
ON CONFLICT (user_id) DO UPDATE SET last_number = excluded.last_number
WHERE c.last_number < excluded.last_number;

-- name: forget_plans
-- Plans that were made while the tables were small, of the checks of keys too, would read all rows for each that comes.
-- returns: none
-- index: none
DISCARD PLANS;

-- name: begin_chunk
-- What fails behind this is found by halves.
-- returns: none
-- index: none
SAVEPOINT chunk;

-- name: keep_chunk
-- returns: none
-- index: none
RELEASE SAVEPOINT chunk;

-- name: undo_chunk
-- returns: none
-- index: none
ROLLBACK TO SAVEPOINT chunk;

-- name: import_todos
-- A number that another todo has is not taken away: the imported one gets the next. All of those that a statement needs
-- are taken at once; reserve_numbers has locked the counter. Which ids and numbers are there is asked once for all rows:
-- asked for each, a plan made for the few todos that the account had when statistics were gathered would read all that
-- it has now, for every row.
-- param user_id: uuid
-- param rows: json
-- returns: count
-- index: todos_pkey
WITH sent AS MATERIALIZED (
    SELECT
        r.id, r.number, r.title, r.description, r.status, r.priority, r.due_date, r.assigned_to, r.completed_at,
        r.metadata, r.created_at, r.updated_at, r.version
    FROM json_to_recordset(%(rows)s) AS r (
        id uuid, number integer, title text, description text, status text, priority text, due_date timestamptz,
        assigned_to text, completed_at timestamptz, metadata jsonb, created_at timestamptz, updated_at timestamptz,
        version integer
    )
), lines AS MATERIALIZED (
    SELECT
        s.id, s.number, s.title, s.description, s.status, s.priority, s.due_date, s.assigned_to, s.completed_at,
        s.metadata, s.created_at, s.updated_at, s.version,
        s.number IN (
            SELECT n.number
            FROM todos AS n
            WHERE n.user_id = %(user_id)s AND n.number = ANY (ARRAY(SELECT o.number FROM sent AS o))
        ) AS is_taken
    FROM sent AS s
    WHERE s.id NOT IN (
        SELECT t.id
        FROM todos AS t
        WHERE t.user_id = %(user_id)s AND t.id = ANY (ARRAY(SELECT o.id FROM sent AS o))
    )
), counter AS (
    UPDATE todo_counters AS c
    SET last_number = c.last_number + (SELECT count(*) FROM lines AS l WHERE l.is_taken)
    WHERE c.user_id = %(user_id)s
    RETURNING c.last_number
)
INSERT INTO todos (
    user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata,
    created_at, updated_at, version
)
SELECT
    %(user_id)s, l.id,
    CASE
        WHEN l.is_taken THEN c.last_number + 1 - row_number() OVER (PARTITION BY l.is_taken ORDER BY l.number DESC)
        ELSE l.number
    END,
    l.title, l.description, l.status, l.priority, l.due_date,
    CASE WHEN l.assigned_to = 'me' THEN %(user_id)s ELSE l.assigned_to::uuid END,
    l.completed_at, l.metadata, l.created_at, l.updated_at, l.version
FROM counter AS c
CROSS JOIN lines AS l
ON CONFLICT (user_id, id) DO NOTHING;

-- name: import_conversations
-- Their messages are counted as they come in. The ids of those that weren't there.
-- param user_id: uuid
-- param rows: json
-- returns: many UUID
-- index: conversations_pkey
INSERT INTO conversations (user_id, id, external_id, title, metadata, last_position, created_at, updated_at, version)
SELECT
    %(user_id)s, r.id, r.external_id, r.title, r.metadata, r.last_position, r.created_at, r.updated_at, r.version
FROM json_to_recordset(%(rows)s) AS r (
    id uuid, external_id text, title text, metadata jsonb, last_position integer, created_at timestamptz, updated_at timestamptz,
    version integer
)
ON CONFLICT (user_id, id) DO NOTHING
RETURNING id;

-- name: import_messages
-- Only a message at its own place is there already. One that another has taken, or an id at another place, is refused
-- by the table's keys.
-- param user_id: uuid
-- param rows: json
-- returns: count
-- index: messages_pkey
INSERT INTO messages (
    user_id, conversation_id, position, id, sender_type, content, message_type, metadata, item, content_truncated,
    created_at, updated_at, version
)
SELECT
    %(user_id)s, r.conversation_id, r.position, r.id, r.sender_type, r.content, r.message_type, r.metadata,
    r.item, coalesce(r.content_truncated, FALSE), r.created_at, r.updated_at, r.version
FROM json_to_recordset(%(rows)s) AS r (
    id uuid, conversation_id uuid, position integer, sender_type text, content text, message_type text,
    metadata jsonb, item text, content_truncated boolean, created_at timestamptz, updated_at timestamptz,
    version integer
)
WHERE NOT EXISTS (
    SELECT
    FROM messages AS m
    WHERE m.user_id = %(user_id)s
      AND m.conversation_id = r.conversation_id
      AND m.position = r.position
      AND m.id = r.id
    OFFSET 0
);

-- name: import_links
-- The same link under another id is there already, too.
-- param user_id: uuid
-- param rows: json
-- returns: count
-- index: todo_conversation_links_key
INSERT INTO todo_conversation_links (
    user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
)
SELECT
    %(user_id)s, r.id, r.todo_id, r.conversation_id, r.relationship_type, r.created_at, r.updated_at, r.version
FROM json_to_recordset(%(rows)s) AS r (
    id uuid, todo_id uuid, conversation_id uuid, relationship_type text, created_at timestamptz,
    updated_at timestamptz, version integer
)
ON CONFLICT DO NOTHING;
