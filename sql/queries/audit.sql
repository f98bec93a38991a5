-- The audit trail: what was changed, by whom, from what to what; as a list, newest first, as a feed, in the order of
-- seq, and the way back. seq has no holes, and `at` never goes back with it: the feed needs no other proof that nothing
-- is missing.

-- slot: next_before
-- What the next entry of the row has as its old row: what entry e made of it. (An import may bring rows of two tables
-- with one id.)
CASE WHEN e.action <> 'delete' THEN (
        SELECT n.before
        FROM audit_log AS n
        WHERE n.user_id = %(user_id)s
          AND n.row_id = e.row_id
          AND n.seq > e.seq
          AND n.table_name = e.table_name
          AND n.before IS NOT NULL
        ORDER BY n.seq
        LIMIT 1
    ) END;

-- slot: row_now
-- What the last entry e of a row made of it: the row that is there.
CASE WHEN e.action <> 'delete' THEN
        CASE e.table_name
            WHEN 'todos' THEN (
                SELECT to_jsonb(r) - 'completed' - 'updated_hour'
                FROM todos AS r
                WHERE r.user_id = %(user_id)s AND r.id = e.row_id
            )
            WHEN 'conversations' THEN (
                SELECT to_jsonb(r) - 'updated_hour'
                FROM conversations AS r
                WHERE r.user_id = %(user_id)s AND r.id = e.row_id
            )
            WHEN 'messages' THEN (
                SELECT to_jsonb(r) - 'role' - 'sender_id'
                FROM messages AS r
                WHERE r.user_id = %(user_id)s AND r.id = e.row_id
            )
            WHEN 'todo_conversation_links' THEN (
                SELECT to_jsonb(r) FROM todo_conversation_links AS r WHERE r.user_id = %(user_id)s AND r.id = e.row_id
            )
            WHEN 'users' THEN (
                SELECT to_jsonb(r) - 'password_hash' - 'tokens_valid_from' FROM users AS r WHERE r.id = %(user_id)s
            )
            WHEN 'identities' THEN (
                SELECT to_jsonb(r) FROM identities AS r WHERE r.user_id = %(user_id)s AND r.id = e.row_id
            )
        END
    END;

-- slot: entry_columns
-- An entry of audit_log AS e with what its row was before and after it.
e.seq AS id, e.user_id, e.actor_id, e.action, e.table_name AS "table", e.row_id, e.before,
    coalesce({next_before}, {row_now}) AS after, e.request_id, e.at;

-- A page answers about 4 MiB of rows, and reads little more. An entry has its rows as JSON, which is stored compressed and
-- apart from the entry, and is read only when something looks into it. So a list has three steps, each around the one
-- before:
--   stored_entry    finds the entries, and passes their rows on unread;
--   measured_entry  adds up how large the rows are as they are stored, which is known without reading them: only those
--                   within 4 MiB are to be read;
--   listed_entry    reads these and adds up how large they are in full: only those within 4 MiB are answered.
-- Of a row that is still there only a message's item is counted, since all the rest of it is small.

-- slot: stored_entry
-- An entry of audit_log AS e; next_before, or else the row that is there, is what its row was after it.
e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at,
            {next_before} AS next_before,
            CASE WHEN e.action <> 'delete' AND e.table_name = 'messages' THEN (
                SELECT r.item FROM messages AS r WHERE r.user_id = %(user_id)s AND r.id = e.row_id
            ) END AS item;

-- slot: measured_entry
-- The same, and whether its rows are to be read. (The window `ahead` has the entries of the page before this one.)
e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at, e.next_before, e.item,
        coalesce(
            sum(coalesce(pg_column_size(e.before), 0) + coalesce(pg_column_size(e.next_before), 0)) OVER ahead, 0
        ) < 4194304 AS is_read;

-- slot: fits
-- Whether the entry is answered with its rows. (pg_column_size() of a stored value is its compressed size, so || makes
-- a new value of it first. octet_length() knows the size of a text without reading it.)
(e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304);

-- slot: listed_entry
-- An entry as it is answered: without its rows where it doesn't fit.
e.seq AS id, e.user_id, e.actor_id, e.action, e.table_name AS "table", e.row_id,
    CASE WHEN {fits} THEN e.before END AS before,
    CASE WHEN {fits} THEN coalesce(e.next_before, {row_now}) END AS after,
    e.request_id, e.at, {fits} AS fits;

-- name: get_trail
-- The numbers of the oldest and the newest entry; no row where there is none.
-- param user_id: uuid
-- returns: maybe Trail
-- index: audit_log_pkey
SELECT o.seq AS oldest, n.seq AS newest
FROM (SELECT a.seq FROM audit_log AS a WHERE a.user_id = %(user_id)s ORDER BY a.seq LIMIT 1) AS o
CROSS JOIN (SELECT a.seq FROM audit_log AS a WHERE a.user_id = %(user_id)s ORDER BY a.seq DESC LIMIT 1) AS n;

-- name: find_audit_place
-- The number of the first entry of that time or later, one above the newest where there is none: halves the trail until
-- it is found. (The middle is a column, because row security keeps arithmetic from being an index condition.)
-- param user_id: uuid
-- param at: timestamptz
-- returns: maybe int
-- index: audit_log_pkey
WITH RECURSIVE halves AS (
    SELECT b.low, b.high, (b.low + b.high) / 2 AS middle
    FROM (
        SELECT
            (SELECT a.seq FROM audit_log AS a WHERE a.user_id = %(user_id)s ORDER BY a.seq LIMIT 1) AS low,
            (SELECT a.seq FROM audit_log AS a WHERE a.user_id = %(user_id)s ORDER BY a.seq DESC LIMIT 1) + 1 AS high
    ) AS b
    UNION ALL
    SELECT n.low, n.high, (n.low + n.high) / 2
    FROM halves AS h
    CROSS JOIN LATERAL (
        SELECT
            CASE WHEN m.at < %(at)s THEN m.seq + 1 ELSE h.low END AS low,
            CASE WHEN m.at < %(at)s THEN h.high ELSE m.seq END AS high
        FROM audit_log AS m
        WHERE m.user_id = %(user_id)s
          AND m.seq = h.middle
    ) AS n
    WHERE h.low < h.high
)
SELECT h.low
FROM halves AS h
WHERE h.low >= h.high;

-- name: find_last_change
-- The newest entry of a table's rows that the user caused, not an assignee; of so many entries at most.
-- param user_id: uuid
-- param table: text
-- param looked_at: integer
-- returns: maybe int
-- index: audit_log_pkey
SELECT e.seq
FROM (
    SELECT a.seq, a.actor_id, a.table_name
    FROM audit_log AS a
    WHERE a.user_id = %(user_id)s
    ORDER BY a.seq DESC
    LIMIT %(looked_at)s
) AS e
WHERE e.table_name = %(table)s
  AND e.actor_id = %(user_id)s
ORDER BY e.seq DESC
LIMIT 1;

-- name: list_audit
-- Entries from one number up to another, the newest first, that match the filters.
-- param user_id: uuid
-- param table: text
-- param action: text
-- param first: bigint
-- param before: bigint
-- param row_limit: integer
-- returns: many ListedEntryRow
-- index: audit_log_pkey
SELECT {listed_entry}
FROM (
    SELECT {measured_entry}
    FROM (
        SELECT {stored_entry}
        FROM audit_log AS e
        WHERE e.user_id = %(user_id)s
          AND e.seq >= %(first)s
          AND e.seq < %(before)s
          AND (%(table)s IS NULL OR e.table_name = %(table)s)
          AND (%(action)s IS NULL OR e.action = %(action)s)
        ORDER BY e.seq DESC
        LIMIT %(row_limit)s
    ) AS e
    WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS e
WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
ORDER BY e.seq DESC;

-- name: list_audit_of_row
-- The same for one row. Looks at so many of its entries at most.
-- param user_id: uuid
-- param row_id: uuid
-- param table: text
-- param action: text
-- param first: bigint
-- param before: bigint
-- param looked_at: integer
-- param row_limit: integer
-- returns: many ListedEntryRow
-- index: audit_log_user_id_row_id_idx
SELECT {listed_entry}
FROM (
    SELECT {measured_entry}
    FROM (
        SELECT {stored_entry}
        FROM (
            SELECT a.user_id, a.seq, a.at, a.actor_id, a.row_id, a.action, a.table_name, a.before, a.request_id
            FROM audit_log AS a
            WHERE a.user_id = %(user_id)s
              AND a.row_id = %(row_id)s
              AND a.seq >= %(first)s
              AND a.seq < %(before)s
            ORDER BY a.seq DESC
            LIMIT %(looked_at)s
        ) AS e
        WHERE (%(table)s IS NULL OR e.table_name = %(table)s)
          AND (%(action)s IS NULL OR e.action = %(action)s)
        ORDER BY e.seq DESC
        LIMIT %(row_limit)s
    ) AS e
    WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS e
WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
ORDER BY e.seq DESC;

-- name: find_audit_bound
-- The last of the entries that list_audit_of_row looked at, if there were so many.
-- param user_id: uuid
-- param row_id: uuid
-- param first: bigint
-- param before: bigint
-- param looked_at: integer
-- returns: maybe int
-- index: audit_log_user_id_row_id_idx
SELECT a.seq
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.row_id = %(row_id)s
  AND a.seq >= %(first)s
  AND a.seq < %(before)s
ORDER BY a.seq DESC
OFFSET %(looked_at)s - 1
LIMIT 1;

-- name: list_changes
-- Entries from a number on, in order. (The first may be the cursor's own, so the first two are given whatever they have.)
-- param user_id: uuid
-- param first: bigint
-- param row_limit: integer
-- returns: many ListedEntryRow
-- index: audit_log_pkey
SELECT {listed_entry}
FROM (
    SELECT {measured_entry}
    FROM (
        SELECT {stored_entry}
        FROM audit_log AS e
        WHERE e.user_id = %(user_id)s
          AND e.seq >= %(first)s
        ORDER BY e.seq
        LIMIT %(row_limit)s
    ) AS e
    WINDOW ahead AS (ORDER BY e.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)
) AS e
WINDOW ahead AS (ORDER BY e.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)
ORDER BY e.seq;

-- The way back. Each undo of an update checks in its WHERE that the row is still what the entry made it, each undo of a
-- delete that nothing came after. app.restoring is on, so that the rules of transitions and due dates don't bind it; but
-- for messages, of which one that is put back changes a conversation that goes on.

-- slot: is_last
-- Whether nothing happened to the row of entry e since.
NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = %(user_id)s
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  );

-- slot: changed_row
-- A sub-select, so that row security lets it be an index condition.
(SELECT b.row_id FROM audit_log AS b WHERE b.user_id = %(user_id)s AND b.seq = %(id)s);

-- slot: message_row
conversation_id, position, id, sender_type, content, message_type, metadata, item, content_truncated,
    created_at, updated_at, version;

-- slot: link_row
id, todo_id, conversation_id, relationship_type, created_at, updated_at, version;

-- name: get_change
-- An entry, and whether nothing happened to its row since.
-- param user_id: uuid
-- param id: bigint
-- returns: maybe Change
-- index: audit_log_pkey
SELECT {entry_columns}, {is_last} AS is_last
FROM audit_log AS e
WHERE e.user_id = %(user_id)s
  AND e.seq = %(id)s;

-- name: get_last_change
-- The last entry of a row.
-- param user_id: uuid
-- param row_id: uuid
-- param table: text
-- returns: one EntryRow
-- index: audit_log_user_id_row_id_idx
SELECT {entry_columns}
FROM audit_log AS e
WHERE e.user_id = %(user_id)s
  AND e.row_id = %(row_id)s
  AND e.table_name = %(table)s
ORDER BY e.seq DESC
LIMIT 1;

-- name: undo_user_update
-- param user_id: uuid
-- param id: bigint
-- returns: maybe UUID
-- index: users_pkey
UPDATE users AS u
SET username = r.username,
    full_name = r.full_name
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::users, e.before) AS r
WHERE e.user_id = %(user_id)s
  AND e.seq = %(id)s
  AND u.id = %(user_id)s
  AND u.version = r.version + 1
RETURNING u.id;

-- name: undo_{noun}_update
-- fill: noun | table | columns | index
-- with: todo | todos | title = r.title, description = r.description, status = r.status, priority = r.priority, due_date = r.due_date, assigned_to = r.assigned_to, completed_at = r.completed_at, metadata = r.metadata | todos_pkey
-- with: conversation | conversations | title = r.title, metadata = r.metadata | conversations_pkey
-- with: message | messages | content = r.content, content_truncated = r.content_truncated, message_type = r.message_type, metadata = r.metadata | messages_user_id_id_key
-- with: link | todo_conversation_links | relationship_type = r.relationship_type | todo_conversation_links_pkey
-- param user_id: uuid
-- param id: bigint
-- returns: maybe UUID
-- index: {index}
UPDATE {table} AS t
SET {columns}
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, e.before) AS r
WHERE e.user_id = %(user_id)s
  AND e.seq = %(id)s
  AND t.user_id = %(user_id)s
  AND t.id = {changed_row}
  AND t.version = r.version + 1
RETURNING t.id;

-- name: undo_{noun}_delete
-- What went with the row comes back by restore_todo_links, restore_messages and restore_conversation_links; messages are
-- counted on their conversation as they come.
-- fill: noun | table | columns
-- with: todo | todos | id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata, created_at, updated_at, version
-- with: conversation | conversations | id, external_id, title, metadata, last_position, created_at, updated_at, version
-- with: message | messages | {message_row}
-- with: link | todo_conversation_links | {link_row}
-- param user_id: uuid
-- param id: bigint
-- returns: maybe UUID
-- index: {table}_pkey
INSERT INTO {table} (user_id, {columns})
SELECT %(user_id)s, {columns}
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, e.before) AS r
WHERE e.user_id = %(user_id)s
  AND e.seq = %(id)s
  AND {is_last}
RETURNING id;

-- What went with a deleted row: entries behind its own. Only the cascade from a conversation can have deleted messages of
-- it later than itself, while it was not brought back.

-- slot: end_of_transaction
-- Where the transaction of the entry ends: all its entries have one time, and the next transaction's usually another.
(
      SELECT coalesce(
          (
              SELECT n.seq
              FROM audit_log AS n
              WHERE n.user_id = %(user_id)s
                AND n.seq > %(id)s
                AND n.at > (SELECT b.at FROM audit_log AS b WHERE b.user_id = %(user_id)s AND b.seq = %(id)s)
              ORDER BY n.seq
              LIMIT 1
          ),
          9223372036854775807
      )
  );

-- name: restore_messages
-- The messages that went with a conversation.
-- param user_id: uuid
-- param id: bigint
-- returns: count
-- index: messages_pkey
INSERT INTO messages (user_id, {message_row})
SELECT %(user_id)s, {message_row}
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::messages, e.before) AS r
WHERE e.user_id = %(user_id)s
  AND e.seq > %(id)s
  AND e.seq < {end_of_transaction}
  AND e.action = 'delete'
  AND e.table_name = 'messages'
  AND r.conversation_id = {changed_row}
ORDER BY position;

-- name: restore_{noun}_links
-- The links that went with a {noun}, to {other}s that are there. And those that had gone with their {other}, not more
-- than 5000 entries before, which came back while the {noun} was gone and could not bring them.
-- fill: noun | other
-- with: conversation | todo
-- with: todo | conversation
-- param user_id: uuid
-- param id: bigint
-- returns: count
-- index: todo_conversation_links_pkey
INSERT INTO todo_conversation_links (user_id, {link_row})
SELECT %(user_id)s, {link_row}
FROM (
    SELECT {link_row}
    FROM audit_log AS e
    CROSS JOIN LATERAL jsonb_populate_record(NULL::todo_conversation_links, e.before) AS r
    WHERE e.user_id = %(user_id)s
      AND e.seq > (SELECT %(id)s - 5000)
      AND e.seq < {end_of_transaction}
      AND e.action = 'delete'
      AND e.table_name = 'todo_conversation_links'
      AND r.{noun}_id = {changed_row}
      AND {is_last}
      AND (
          e.seq > %(id)s
          OR EXISTS (
              SELECT
              FROM audit_log AS d
              INNER JOIN audit_log AS b
                  ON b.user_id = %(user_id)s
                  AND b.row_id = d.row_id
                  AND b.table_name = d.table_name
                  AND b.seq > %(id)s
                  AND b.action = 'insert'
              WHERE d.user_id = %(user_id)s
                AND d.row_id = r.{other}_id
                AND d.table_name = '{other}s'
                AND d.seq < e.seq
                AND d.at = e.at
                AND d.action = 'delete'
          )
      )
    OFFSET 0
) AS found
WHERE EXISTS (SELECT FROM {other}s AS o WHERE o.user_id = %(user_id)s AND o.id = found.{other}_id);
