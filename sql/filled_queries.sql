-- list_accounts(user_id uuid, limit integer) -> many Account
-- admin.sql, index users_pkey
SELECT /* list_accounts */ u.id, u.email, u.username, u.is_active, u.created_at
FROM users AS u
WHERE u.id > $1
ORDER BY u.id
LIMIT $2;

-- find_account_by_id(user_id uuid) -> maybe UUID
-- admin.sql, index users_pkey
SELECT /* find_account_by_id */ u.id
FROM users AS u
WHERE u.id = $1;

-- update_account(user_id uuid, is_active boolean) -> count
-- admin.sql, index users_pkey
UPDATE /* update_account */ users AS u
SET is_active = $2
WHERE u.id = $1;

-- count_assigned(user_id uuid) -> one int
-- admin.sql, index todos_assigned_to_idx
SELECT /* count_assigned */ count(*)
FROM todos AS t
WHERE t.assigned_to = $1
  AND t.status IN ('pending', 'in_progress');

-- erase_account(user_id uuid) -> one bool
-- admin.sql, index users_pkey
SELECT /* erase_account */ erase_user($1, NULL);

-- find_prunable_user(user_id uuid, older_than timestamptz) -> maybe UUID
-- admin.sql, index audit_log_pkey
WITH /* find_prunable_user */ RECURSIVE oldest AS (
    (
        SELECT a.user_id, a.seq, a.at, a.before IS NOT NULL OR a.request_id IS NOT NULL AS has_content
        FROM audit_log AS a
        WHERE a.user_id > $1
        ORDER BY a.user_id, a.seq
        LIMIT 1
    )
    UNION ALL
    SELECT n.user_id, n.seq, n.at, n.has_content
    FROM oldest AS o
    CROSS JOIN LATERAL (
        SELECT a.user_id, a.seq, a.at, a.before IS NOT NULL OR a.request_id IS NOT NULL AS has_content
        FROM audit_log AS a
        WHERE a.user_id > o.user_id
        ORDER BY a.user_id, a.seq
        LIMIT 1
    ) AS n
)
SELECT o.user_id
FROM oldest AS o
WHERE o.at < $2
  AND (
      o.has_content
      OR EXISTS (SELECT FROM audit_log AS n WHERE n.user_id = o.user_id AND n.seq > o.seq)
      OR (SELECT u.id FROM users AS u WHERE u.id = o.user_id) IS NULL
  )
LIMIT 1;

-- count_prunable_entries(user_id uuid, older_than timestamptz) -> one int
-- admin.sql, index audit_log_pkey
SELECT /* count_prunable_entries */ count(*)
FROM audit_log AS a
WHERE a.user_id = $1
  AND a.at < $2
  AND a.seq < coalesce(
      (
          SELECT l.seq
          FROM audit_log AS l
          WHERE l.user_id = $1
            AND EXISTS (SELECT FROM users AS u WHERE u.id = $1)
          ORDER BY l.seq DESC
          LIMIT 1
      ),
      9223372036854775807
  );

-- prune_audit_log(user_id uuid, older_than timestamptz, batch integer) -> count
-- admin.sql, index audit_log_pkey
DELETE /* prune_audit_log */ FROM audit_log AS a
WHERE a.user_id = $1
  AND a.seq IN (
    SELECT o.seq
    FROM (
        SELECT e.seq, e.at
        FROM audit_log AS e
        WHERE e.user_id = $1
          AND e.seq < coalesce(
      (
          SELECT l.seq
          FROM audit_log AS l
          WHERE l.user_id = $1
            AND EXISTS (SELECT FROM users AS u WHERE u.id = $1)
          ORDER BY l.seq DESC
          LIMIT 1
      ),
      9223372036854775807
  )
        ORDER BY e.seq
        LIMIT $3
    ) AS o
    WHERE o.at < $2
  );

-- blank_last_entry(user_id uuid, older_than timestamptz) -> count
-- admin.sql, index audit_log_pkey
UPDATE /* blank_last_entry */ audit_log AS a
SET before = NULL,
    request_id = NULL
WHERE a.user_id = $1
  AND a.at < $2
  AND a.seq = coalesce(
      (
          SELECT l.seq
          FROM audit_log AS l
          WHERE l.user_id = $1
            AND EXISTS (SELECT FROM users AS u WHERE u.id = $1)
          ORDER BY l.seq DESC
          LIMIT 1
      ),
      9223372036854775807
  )
  AND (a.before IS NOT NULL OR a.request_id IS NOT NULL);

-- count_prunable_keys() -> one int
-- admin.sql, index idempotency_keys_created_at_idx
SELECT /* count_prunable_keys */ count(*)
FROM idempotency_keys AS k
WHERE k.created_at < now() - INTERVAL '24 hours';

-- prune_idempotency_keys(batch integer) -> count
-- admin.sql, index idempotency_keys_created_at_idx
DELETE /* prune_idempotency_keys */ FROM idempotency_keys AS k
USING (
    SELECT o.user_id, o.key
    FROM idempotency_keys AS o
    WHERE o.created_at < now() - INTERVAL '24 hours'
    ORDER BY o.created_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
) AS old
WHERE k.user_id = old.user_id
  AND k.key = old.key;

-- count_untouched_conversations(user_id uuid, untouched_since timestamptz) -> one int
-- admin.sql, index conversations_user_id_updated_hour_idx
SELECT /* count_untouched_conversations */ count(*)
FROM conversations
WHERE user_id = $1
  AND updated_hour <= $2
  AND updated_at < $2;

-- prune_conversation(user_id uuid, untouched_since timestamptz) -> count
-- admin.sql, index conversations_user_id_updated_hour_idx
DELETE /* prune_conversation */ FROM conversations
WHERE user_id = $1
  AND updated_at < $2
  AND id = (
    SELECT o.id
    FROM conversations AS o
    WHERE o.user_id = $1
      AND o.updated_hour <= $2
      AND o.updated_at < $2
    ORDER BY o.updated_hour
    LIMIT 1
    FOR UPDATE SKIP LOCKED
  );

-- get_trail(user_id uuid) -> maybe Trail
-- audit.sql, index audit_log_pkey
SELECT /* get_trail */ o.seq AS oldest, n.seq AS newest
FROM (SELECT a.seq FROM audit_log AS a WHERE a.user_id = $1 ORDER BY a.seq LIMIT 1) AS o
CROSS JOIN (SELECT a.seq FROM audit_log AS a WHERE a.user_id = $1 ORDER BY a.seq DESC LIMIT 1) AS n;

-- find_audit_place(user_id uuid, at timestamptz) -> maybe int
-- audit.sql, index audit_log_pkey
WITH /* find_audit_place */ RECURSIVE halves AS (
    SELECT b.low, b.high, (b.low + b.high) / 2 AS middle
    FROM (
        SELECT
            (SELECT a.seq FROM audit_log AS a WHERE a.user_id = $1 ORDER BY a.seq LIMIT 1) AS low,
            (SELECT a.seq FROM audit_log AS a WHERE a.user_id = $1 ORDER BY a.seq DESC LIMIT 1) + 1 AS high
    ) AS b
    UNION ALL
    SELECT n.low, n.high, (n.low + n.high) / 2
    FROM halves AS h
    CROSS JOIN LATERAL (
        SELECT
            CASE WHEN m.at < $2 THEN m.seq + 1 ELSE h.low END AS low,
            CASE WHEN m.at < $2 THEN h.high ELSE m.seq END AS high
        FROM audit_log AS m
        WHERE m.user_id = $1
          AND m.seq = h.middle
    ) AS n
    WHERE h.low < h.high
)
SELECT h.low
FROM halves AS h
WHERE h.low >= h.high;

-- find_last_change(user_id uuid, table text, looked_at integer) -> maybe int
-- audit.sql, index audit_log_pkey
SELECT /* find_last_change */ e.seq
FROM (
    SELECT a.seq, a.actor_id, a.table_name
    FROM audit_log AS a
    WHERE a.user_id = $1
    ORDER BY a.seq DESC
    LIMIT $3
) AS e
WHERE e.table_name = $2
  AND e.actor_id = $1
ORDER BY e.seq DESC
LIMIT 1;

-- list_audit(user_id uuid, table text, action text, first bigint, before bigint, row_limit integer) -> many ListedEntryRow
-- audit.sql, index audit_log_pkey
SELECT /* list_audit */ e.seq AS id, e.user_id, e.actor_id, e.action, e.table_name AS "table", e.row_id,
    CASE WHEN (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) THEN e.before END AS before,
    CASE WHEN (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) THEN coalesce(e.next_before, CASE WHEN e.action <> 'delete' THEN
        CASE e.table_name
            WHEN 'todos' THEN (
                SELECT to_jsonb(r) - 'completed' - 'updated_hour'
                FROM todos AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'conversations' THEN (
                SELECT to_jsonb(r) - 'updated_hour'
                FROM conversations AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'messages' THEN (
                SELECT to_jsonb(r) - 'role' - 'sender_id'
                FROM messages AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'todo_conversation_links' THEN (
                SELECT to_jsonb(r) FROM todo_conversation_links AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'users' THEN (
                SELECT to_jsonb(r) - 'password_hash' - 'tokens_valid_from' FROM users AS r WHERE r.id = $1
            )
            WHEN 'identities' THEN (
                SELECT to_jsonb(r) FROM identities AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
        END
    END) END AS after,
    e.request_id, e.at, (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) AS fits
FROM (
    SELECT e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at, e.next_before, e.item,
        coalesce(
            sum(coalesce(pg_column_size(e.before), 0) + coalesce(pg_column_size(e.next_before), 0)) OVER ahead, 0
        ) < 4194304 AS is_read
    FROM (
        SELECT e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at,
            CASE WHEN e.action <> 'delete' THEN (
        SELECT n.before
        FROM audit_log AS n
        WHERE n.user_id = $1
          AND n.row_id = e.row_id
          AND n.seq > e.seq
          AND n.table_name = e.table_name
          AND n.before IS NOT NULL
        ORDER BY n.seq
        LIMIT 1
    ) END AS next_before,
            CASE WHEN e.action <> 'delete' AND e.table_name = 'messages' THEN (
                SELECT r.item FROM messages AS r WHERE r.user_id = $1 AND r.id = e.row_id
            ) END AS item
        FROM audit_log AS e
        WHERE e.user_id = $1
          AND e.seq >= $4
          AND e.seq < $5
          AND ($2 IS NULL OR e.table_name = $2)
          AND ($3 IS NULL OR e.action = $3)
        ORDER BY e.seq DESC
        LIMIT $6
    ) AS e
    WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS e
WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
ORDER BY e.seq DESC;

-- list_audit_of_row(user_id uuid, row_id uuid, table text, action text, first bigint, before bigint, looked_at integer, row_limit integer) -> many ListedEntryRow
-- audit.sql, index audit_log_user_id_row_id_idx
SELECT /* list_audit_of_row */ e.seq AS id, e.user_id, e.actor_id, e.action, e.table_name AS "table", e.row_id,
    CASE WHEN (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) THEN e.before END AS before,
    CASE WHEN (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) THEN coalesce(e.next_before, CASE WHEN e.action <> 'delete' THEN
        CASE e.table_name
            WHEN 'todos' THEN (
                SELECT to_jsonb(r) - 'completed' - 'updated_hour'
                FROM todos AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'conversations' THEN (
                SELECT to_jsonb(r) - 'updated_hour'
                FROM conversations AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'messages' THEN (
                SELECT to_jsonb(r) - 'role' - 'sender_id'
                FROM messages AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'todo_conversation_links' THEN (
                SELECT to_jsonb(r) FROM todo_conversation_links AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'users' THEN (
                SELECT to_jsonb(r) - 'password_hash' - 'tokens_valid_from' FROM users AS r WHERE r.id = $1
            )
            WHEN 'identities' THEN (
                SELECT to_jsonb(r) FROM identities AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
        END
    END) END AS after,
    e.request_id, e.at, (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) AS fits
FROM (
    SELECT e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at, e.next_before, e.item,
        coalesce(
            sum(coalesce(pg_column_size(e.before), 0) + coalesce(pg_column_size(e.next_before), 0)) OVER ahead, 0
        ) < 4194304 AS is_read
    FROM (
        SELECT e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at,
            CASE WHEN e.action <> 'delete' THEN (
        SELECT n.before
        FROM audit_log AS n
        WHERE n.user_id = $1
          AND n.row_id = e.row_id
          AND n.seq > e.seq
          AND n.table_name = e.table_name
          AND n.before IS NOT NULL
        ORDER BY n.seq
        LIMIT 1
    ) END AS next_before,
            CASE WHEN e.action <> 'delete' AND e.table_name = 'messages' THEN (
                SELECT r.item FROM messages AS r WHERE r.user_id = $1 AND r.id = e.row_id
            ) END AS item
        FROM (
            SELECT a.user_id, a.seq, a.at, a.actor_id, a.row_id, a.action, a.table_name, a.before, a.request_id
            FROM audit_log AS a
            WHERE a.user_id = $1
              AND a.row_id = $2
              AND a.seq >= $5
              AND a.seq < $6
            ORDER BY a.seq DESC
            LIMIT $7
        ) AS e
        WHERE ($3 IS NULL OR e.table_name = $3)
          AND ($4 IS NULL OR e.action = $4)
        ORDER BY e.seq DESC
        LIMIT $8
    ) AS e
    WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS e
WINDOW ahead AS (ORDER BY e.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
ORDER BY e.seq DESC;

-- find_audit_bound(user_id uuid, row_id uuid, first bigint, before bigint, looked_at integer) -> maybe int
-- audit.sql, index audit_log_user_id_row_id_idx
SELECT /* find_audit_bound */ a.seq
FROM audit_log AS a
WHERE a.user_id = $1
  AND a.row_id = $2
  AND a.seq >= $3
  AND a.seq < $4
ORDER BY a.seq DESC
OFFSET $5 - 1
LIMIT 1;

-- list_changes(user_id uuid, first bigint, row_limit integer) -> many ListedEntryRow
-- audit.sql, index audit_log_pkey
SELECT /* list_changes */ e.seq AS id, e.user_id, e.actor_id, e.action, e.table_name AS "table", e.row_id,
    CASE WHEN (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) THEN e.before END AS before,
    CASE WHEN (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) THEN coalesce(e.next_before, CASE WHEN e.action <> 'delete' THEN
        CASE e.table_name
            WHEN 'todos' THEN (
                SELECT to_jsonb(r) - 'completed' - 'updated_hour'
                FROM todos AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'conversations' THEN (
                SELECT to_jsonb(r) - 'updated_hour'
                FROM conversations AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'messages' THEN (
                SELECT to_jsonb(r) - 'role' - 'sender_id'
                FROM messages AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'todo_conversation_links' THEN (
                SELECT to_jsonb(r) FROM todo_conversation_links AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'users' THEN (
                SELECT to_jsonb(r) - 'password_hash' - 'tokens_valid_from' FROM users AS r WHERE r.id = $1
            )
            WHEN 'identities' THEN (
                SELECT to_jsonb(r) FROM identities AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
        END
    END) END AS after,
    e.request_id, e.at, (e.is_read AND coalesce(sum(CASE WHEN e.is_read THEN
        coalesce(pg_column_size(e.before || '{}'), 0)
            + coalesce(pg_column_size(e.next_before || '{}'), octet_length(e.item), 0)
    END) OVER ahead, 0) < 4194304) AS fits
FROM (
    SELECT e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at, e.next_before, e.item,
        coalesce(
            sum(coalesce(pg_column_size(e.before), 0) + coalesce(pg_column_size(e.next_before), 0)) OVER ahead, 0
        ) < 4194304 AS is_read
    FROM (
        SELECT e.seq, e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before, e.request_id, e.at,
            CASE WHEN e.action <> 'delete' THEN (
        SELECT n.before
        FROM audit_log AS n
        WHERE n.user_id = $1
          AND n.row_id = e.row_id
          AND n.seq > e.seq
          AND n.table_name = e.table_name
          AND n.before IS NOT NULL
        ORDER BY n.seq
        LIMIT 1
    ) END AS next_before,
            CASE WHEN e.action <> 'delete' AND e.table_name = 'messages' THEN (
                SELECT r.item FROM messages AS r WHERE r.user_id = $1 AND r.id = e.row_id
            ) END AS item
        FROM audit_log AS e
        WHERE e.user_id = $1
          AND e.seq >= $2
        ORDER BY e.seq
        LIMIT $3
    ) AS e
    WINDOW ahead AS (ORDER BY e.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)
) AS e
WINDOW ahead AS (ORDER BY e.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)
ORDER BY e.seq;

-- get_change(user_id uuid, id bigint) -> maybe Change
-- audit.sql, index audit_log_pkey
SELECT /* get_change */ e.seq AS id, e.user_id, e.actor_id, e.action, e.table_name AS "table", e.row_id, e.before,
    coalesce(CASE WHEN e.action <> 'delete' THEN (
        SELECT n.before
        FROM audit_log AS n
        WHERE n.user_id = $1
          AND n.row_id = e.row_id
          AND n.seq > e.seq
          AND n.table_name = e.table_name
          AND n.before IS NOT NULL
        ORDER BY n.seq
        LIMIT 1
    ) END, CASE WHEN e.action <> 'delete' THEN
        CASE e.table_name
            WHEN 'todos' THEN (
                SELECT to_jsonb(r) - 'completed' - 'updated_hour'
                FROM todos AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'conversations' THEN (
                SELECT to_jsonb(r) - 'updated_hour'
                FROM conversations AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'messages' THEN (
                SELECT to_jsonb(r) - 'role' - 'sender_id'
                FROM messages AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'todo_conversation_links' THEN (
                SELECT to_jsonb(r) FROM todo_conversation_links AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'users' THEN (
                SELECT to_jsonb(r) - 'password_hash' - 'tokens_valid_from' FROM users AS r WHERE r.id = $1
            )
            WHEN 'identities' THEN (
                SELECT to_jsonb(r) FROM identities AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
        END
    END) AS after, e.request_id, e.at, NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = $1
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  ) AS is_last
FROM audit_log AS e
WHERE e.user_id = $1
  AND e.seq = $2;

-- get_last_change(user_id uuid, row_id uuid, table text) -> one EntryRow
-- audit.sql, index audit_log_user_id_row_id_idx
SELECT /* get_last_change */ e.seq AS id, e.user_id, e.actor_id, e.action, e.table_name AS "table", e.row_id, e.before,
    coalesce(CASE WHEN e.action <> 'delete' THEN (
        SELECT n.before
        FROM audit_log AS n
        WHERE n.user_id = $1
          AND n.row_id = e.row_id
          AND n.seq > e.seq
          AND n.table_name = e.table_name
          AND n.before IS NOT NULL
        ORDER BY n.seq
        LIMIT 1
    ) END, CASE WHEN e.action <> 'delete' THEN
        CASE e.table_name
            WHEN 'todos' THEN (
                SELECT to_jsonb(r) - 'completed' - 'updated_hour'
                FROM todos AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'conversations' THEN (
                SELECT to_jsonb(r) - 'updated_hour'
                FROM conversations AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'messages' THEN (
                SELECT to_jsonb(r) - 'role' - 'sender_id'
                FROM messages AS r
                WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'todo_conversation_links' THEN (
                SELECT to_jsonb(r) FROM todo_conversation_links AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
            WHEN 'users' THEN (
                SELECT to_jsonb(r) - 'password_hash' - 'tokens_valid_from' FROM users AS r WHERE r.id = $1
            )
            WHEN 'identities' THEN (
                SELECT to_jsonb(r) FROM identities AS r WHERE r.user_id = $1 AND r.id = e.row_id
            )
        END
    END) AS after, e.request_id, e.at
FROM audit_log AS e
WHERE e.user_id = $1
  AND e.row_id = $2
  AND e.table_name = $3
ORDER BY e.seq DESC
LIMIT 1;

-- undo_user_update(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index users_pkey
UPDATE /* undo_user_update */ users AS u
SET username = r.username,
    full_name = r.full_name
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::users, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND u.id = $1
  AND u.version = r.version + 1
RETURNING u.id;

-- undo_todo_update(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index todos_pkey
UPDATE /* undo_todo_update */ todos AS t
SET title = r.title, description = r.description, status = r.status, priority = r.priority, due_date = r.due_date, assigned_to = r.assigned_to, completed_at = r.completed_at, metadata = r.metadata
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::todos, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND t.user_id = $1
  AND t.id = (SELECT b.row_id FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
  AND t.version = r.version + 1
RETURNING t.id;

-- undo_conversation_update(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index conversations_pkey
UPDATE /* undo_conversation_update */ conversations AS t
SET title = r.title, metadata = r.metadata
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::conversations, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND t.user_id = $1
  AND t.id = (SELECT b.row_id FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
  AND t.version = r.version + 1
RETURNING t.id;

-- undo_message_update(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index messages_user_id_id_key
UPDATE /* undo_message_update */ messages AS t
SET content = r.content, content_truncated = r.content_truncated, message_type = r.message_type, metadata = r.metadata
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::messages, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND t.user_id = $1
  AND t.id = (SELECT b.row_id FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
  AND t.version = r.version + 1
RETURNING t.id;

-- undo_link_update(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index todo_conversation_links_pkey
UPDATE /* undo_link_update */ todo_conversation_links AS t
SET relationship_type = r.relationship_type
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::todo_conversation_links, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND t.user_id = $1
  AND t.id = (SELECT b.row_id FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
  AND t.version = r.version + 1
RETURNING t.id;

-- undo_todo_delete(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index todos_pkey
INSERT /* undo_todo_delete */ INTO todos (user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata, created_at, updated_at, version)
SELECT $1, id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata, created_at, updated_at, version
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::todos, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = $1
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  )
RETURNING id;

-- undo_conversation_delete(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index conversations_pkey
INSERT /* undo_conversation_delete */ INTO conversations (user_id, id, external_id, title, metadata, last_position, created_at, updated_at, version)
SELECT $1, id, external_id, title, metadata, last_position, created_at, updated_at, version
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::conversations, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = $1
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  )
RETURNING id;

-- undo_message_delete(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index messages_pkey
INSERT /* undo_message_delete */ INTO messages (user_id, conversation_id, position, id, sender_type, content, message_type, metadata, item, content_truncated,
    created_at, updated_at, version)
SELECT $1, conversation_id, position, id, sender_type, content, message_type, metadata, item, content_truncated,
    created_at, updated_at, version
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::messages, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = $1
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  )
RETURNING id;

-- undo_link_delete(user_id uuid, id bigint) -> maybe UUID
-- audit.sql, index todo_conversation_links_pkey
INSERT /* undo_link_delete */ INTO todo_conversation_links (user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version)
SELECT $1, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::todo_conversation_links, e.before) AS r
WHERE e.user_id = $1
  AND e.seq = $2
  AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = $1
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  )
RETURNING id;

-- restore_messages(user_id uuid, id bigint) -> count
-- audit.sql, index messages_pkey
INSERT /* restore_messages */ INTO messages (user_id, conversation_id, position, id, sender_type, content, message_type, metadata, item, content_truncated,
    created_at, updated_at, version)
SELECT $1, conversation_id, position, id, sender_type, content, message_type, metadata, item, content_truncated,
    created_at, updated_at, version
FROM audit_log AS e
CROSS JOIN LATERAL jsonb_populate_record(NULL::messages, e.before) AS r
WHERE e.user_id = $1
  AND e.seq > $2
  AND e.seq < (
      SELECT coalesce(
          (
              SELECT n.seq
              FROM audit_log AS n
              WHERE n.user_id = $1
                AND n.seq > $2
                AND n.at > (SELECT b.at FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
              ORDER BY n.seq
              LIMIT 1
          ),
          9223372036854775807
      )
  )
  AND e.action = 'delete'
  AND e.table_name = 'messages'
  AND r.conversation_id = (SELECT b.row_id FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
ORDER BY position;

-- restore_conversation_links(user_id uuid, id bigint) -> count
-- audit.sql, index todo_conversation_links_pkey
INSERT /* restore_conversation_links */ INTO todo_conversation_links (user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version)
SELECT $1, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
FROM (
    SELECT id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
    FROM audit_log AS e
    CROSS JOIN LATERAL jsonb_populate_record(NULL::todo_conversation_links, e.before) AS r
    WHERE e.user_id = $1
      AND e.seq > (SELECT $2 - 5000)
      AND e.seq < (
      SELECT coalesce(
          (
              SELECT n.seq
              FROM audit_log AS n
              WHERE n.user_id = $1
                AND n.seq > $2
                AND n.at > (SELECT b.at FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
              ORDER BY n.seq
              LIMIT 1
          ),
          9223372036854775807
      )
  )
      AND e.action = 'delete'
      AND e.table_name = 'todo_conversation_links'
      AND r.conversation_id = (SELECT b.row_id FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
      AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = $1
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  )
      AND (
          e.seq > $2
          OR EXISTS (
              SELECT
              FROM audit_log AS d
              INNER JOIN audit_log AS b
                  ON b.user_id = $1
                  AND b.row_id = d.row_id
                  AND b.table_name = d.table_name
                  AND b.seq > $2
                  AND b.action = 'insert'
              WHERE d.user_id = $1
                AND d.row_id = r.todo_id
                AND d.table_name = 'todos'
                AND d.seq < e.seq
                AND d.at = e.at
                AND d.action = 'delete'
          )
      )
    OFFSET 0
) AS found
WHERE EXISTS (SELECT FROM todos AS o WHERE o.user_id = $1 AND o.id = found.todo_id);

-- restore_todo_links(user_id uuid, id bigint) -> count
-- audit.sql, index todo_conversation_links_pkey
INSERT /* restore_todo_links */ INTO todo_conversation_links (user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version)
SELECT $1, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
FROM (
    SELECT id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
    FROM audit_log AS e
    CROSS JOIN LATERAL jsonb_populate_record(NULL::todo_conversation_links, e.before) AS r
    WHERE e.user_id = $1
      AND e.seq > (SELECT $2 - 5000)
      AND e.seq < (
      SELECT coalesce(
          (
              SELECT n.seq
              FROM audit_log AS n
              WHERE n.user_id = $1
                AND n.seq > $2
                AND n.at > (SELECT b.at FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
              ORDER BY n.seq
              LIMIT 1
          ),
          9223372036854775807
      )
  )
      AND e.action = 'delete'
      AND e.table_name = 'todo_conversation_links'
      AND r.todo_id = (SELECT b.row_id FROM audit_log AS b WHERE b.user_id = $1 AND b.seq = $2)
      AND NOT EXISTS (
      SELECT
      FROM audit_log AS n
      WHERE n.user_id = $1
        AND n.row_id = e.row_id
        AND n.seq > e.seq
        AND n.table_name = e.table_name
  )
      AND (
          e.seq > $2
          OR EXISTS (
              SELECT
              FROM audit_log AS d
              INNER JOIN audit_log AS b
                  ON b.user_id = $1
                  AND b.row_id = d.row_id
                  AND b.table_name = d.table_name
                  AND b.seq > $2
                  AND b.action = 'insert'
              WHERE d.user_id = $1
                AND d.row_id = r.conversation_id
                AND d.table_name = 'conversations'
                AND d.seq < e.seq
                AND d.at = e.at
                AND d.action = 'delete'
          )
      )
    OFFSET 0
) AS found
WHERE EXISTS (SELECT FROM conversations AS o WHERE o.user_id = $1 AND o.id = found.conversation_id);

-- get_conversation(user_id uuid, id uuid) -> maybe Conversation
-- conversations.sql, index conversations_pkey
SELECT /* get_conversation */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at
FROM conversations
WHERE user_id = $1
  AND id = $2;

-- create_conversation(user_id uuid, id uuid, external_id text, title text, metadata jsonb) -> one Conversation
-- conversations.sql, index conversations_pkey
INSERT /* create_conversation */ INTO conversations (user_id, id, external_id, title, metadata)
VALUES ($1, coalesce($2, uuid7()), $3, $4, coalesce($5, '{}'))
RETURNING id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at;

-- ensure_conversation(user_id uuid, external_id text, title text, metadata jsonb) -> maybe Conversation
-- conversations.sql, index conversations_external_id_key
INSERT /* ensure_conversation */ INTO conversations (user_id, external_id, title, metadata)
VALUES ($1, $2, $3, coalesce($4, '{}'))
ON CONFLICT (user_id, external_id) WHERE external_id IS NOT NULL DO NOTHING
RETURNING id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at;

-- get_conversation_by_external_id(user_id uuid, external_id text) -> maybe Conversation
-- conversations.sql, index conversations_external_id_key
SELECT /* get_conversation_by_external_id */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at
FROM conversations
WHERE user_id = $1
  AND external_id = $2;

-- update_conversation(user_id uuid, id uuid, set_title boolean, title text, metadata jsonb, version bigint) -> maybe Conversation
-- conversations.sql, index conversations_pkey
UPDATE /* update_conversation */ conversations
SET title = CASE WHEN $3 THEN $4 ELSE title END,
    metadata = coalesce(nullif($5, metadata), metadata)
WHERE user_id = $1
  AND id = $2
  AND ($6 IS NULL OR version + 2 * last_position::bigint - message_count = $6)
RETURNING id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at;

-- delete_conversation(user_id uuid, id uuid, version bigint) -> maybe UUID
-- conversations.sql, index conversations_pkey
DELETE /* delete_conversation */ FROM conversations
WHERE user_id = $1
  AND id = $2
  AND ($3 IS NULL OR version + 2 * last_position::bigint - message_count = $3)
RETURNING id;

-- list_conversations_by_updated_at_desc(user_id uuid, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some Conversation
-- conversations.sql, index conversations_user_id_updated_hour_idx
SELECT /* list_conversations_by_updated_at_desc */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, ($6 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($6::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($7 IS NULL OR metadata @> $7) AS matches,
        row_number() OVER (ORDER BY updated_hour DESC, updated_at DESC, id DESC) = $5 AS is_last
    FROM (
        SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour
        FROM conversations
        WHERE user_id = $1
          AND updated_hour <= date_bin('1 hour', $2, 'epoch') AND (updated_at, id) < ($2, $3)
        ORDER BY updated_hour DESC, updated_at DESC, id DESC
        LIMIT $5
    ) AS conversations
) AS conversations
WHERE matches OR is_last
ORDER BY updated_hour DESC, updated_at DESC, id DESC
LIMIT $4;

-- list_conversations_by_updated_at(user_id uuid, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some Conversation
-- conversations.sql, index conversations_user_id_updated_hour_idx
SELECT /* list_conversations_by_updated_at */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, ($6 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($6::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($7 IS NULL OR metadata @> $7) AS matches,
        row_number() OVER (ORDER BY updated_hour, updated_at, id) = $5 AS is_last
    FROM (
        SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour
        FROM conversations
        WHERE user_id = $1
          AND updated_hour >= date_bin('1 hour', $2, 'epoch') AND (updated_at, id) > ($2, $3)
        ORDER BY updated_hour, updated_at, id
        LIMIT $5
    ) AS conversations
) AS conversations
WHERE matches OR is_last
ORDER BY updated_hour, updated_at, id
LIMIT $4;

-- list_conversations_by_created_at_desc(user_id uuid, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some Conversation
-- conversations.sql, index conversations_user_id_created_at_idx
SELECT /* list_conversations_by_created_at_desc */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, ($6 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($6::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($7 IS NULL OR metadata @> $7) AS matches,
        row_number() OVER (ORDER BY created_at DESC, id DESC) = $5 AS is_last
    FROM (
        SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour
        FROM conversations
        WHERE user_id = $1
          AND (created_at, id) < ($2, $3)
        ORDER BY created_at DESC, id DESC
        LIMIT $5
    ) AS conversations
) AS conversations
WHERE matches OR is_last
ORDER BY created_at DESC, id DESC
LIMIT $4;

-- list_conversations_by_created_at(user_id uuid, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some Conversation
-- conversations.sql, index conversations_user_id_created_at_idx
SELECT /* list_conversations_by_created_at */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, ($6 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($6::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($7 IS NULL OR metadata @> $7) AS matches,
        row_number() OVER (ORDER BY created_at, id) = $5 AS is_last
    FROM (
        SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour
        FROM conversations
        WHERE user_id = $1
          AND (created_at, id) > ($2, $3)
        ORDER BY created_at, id
        LIMIT $5
    ) AS conversations
) AS conversations
WHERE matches OR is_last
ORDER BY created_at, id
LIMIT $4;

-- list_conversations_by_external_id(user_id uuid, after text, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some Conversation
-- conversations.sql, index conversations_external_id_key
SELECT /* list_conversations_by_external_id */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, ($6 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($6::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($7 IS NULL OR metadata @> $7) AS matches,
        row_number() OVER (ORDER BY external_id) = $5 AS is_last
    FROM (
        SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour
        FROM conversations
        WHERE user_id = $1
          AND external_id = $2 AND id <> $3
        ORDER BY external_id
        LIMIT $5
    ) AS conversations
) AS conversations
WHERE matches OR is_last
ORDER BY external_id
LIMIT $4;

-- list_conversations_with_messages_by_updated_at_desc(user_id uuid, messages integer, message_bytes bigint, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some ListedConversation
-- conversations.sql, index messages_pkey
SELECT /* list_conversations_with_messages_by_updated_at_desc */
    c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at, c.updated_at,
    CASE
        WHEN coalesce(c.bytes_before, 0) < $3 THEN coalesce(
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
            ) FILTER (WHERE c.message_id IS NOT NULL AND coalesce(c.bytes_before, 0) < $3),
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
        SELECT id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, place, matches, is_last
        FROM (
            SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, place, ($8 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($8::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($9 IS NULL OR metadata @> $9) AS matches, place = $7 AS is_last
            FROM (
                SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, row_number() OVER (ORDER BY updated_hour DESC, updated_at DESC, id DESC) AS place
                FROM conversations
                WHERE user_id = $1
                  AND updated_hour <= date_bin('1 hour', $4, 'epoch') AND (updated_at, id) < ($4, $5)
                ORDER BY updated_hour DESC, updated_at DESC, id DESC
                LIMIT $7
            ) AS conversations
        ) AS conversations
        WHERE matches OR is_last
        ORDER BY updated_hour DESC, updated_at DESC, id DESC
        LIMIT $6
    ) AS p
    LEFT JOIN LATERAL (
        SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at
        FROM messages
        WHERE user_id = $1
          AND conversation_id = p.id
          AND p.matches
        ORDER BY position DESC
        LIMIT $2
    ) AS l ON TRUE
) AS c
GROUP BY
    c.place, c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at,
    c.updated_at, c.bytes_before, c.matches, c.is_last
ORDER BY c.place;

-- list_conversations_with_messages_by_updated_at(user_id uuid, messages integer, message_bytes bigint, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some ListedConversation
-- conversations.sql, index messages_pkey
SELECT /* list_conversations_with_messages_by_updated_at */
    c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at, c.updated_at,
    CASE
        WHEN coalesce(c.bytes_before, 0) < $3 THEN coalesce(
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
            ) FILTER (WHERE c.message_id IS NOT NULL AND coalesce(c.bytes_before, 0) < $3),
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
        SELECT id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, place, matches, is_last
        FROM (
            SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, place, ($8 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($8::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($9 IS NULL OR metadata @> $9) AS matches, place = $7 AS is_last
            FROM (
                SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, row_number() OVER (ORDER BY updated_hour, updated_at, id) AS place
                FROM conversations
                WHERE user_id = $1
                  AND updated_hour >= date_bin('1 hour', $4, 'epoch') AND (updated_at, id) > ($4, $5)
                ORDER BY updated_hour, updated_at, id
                LIMIT $7
            ) AS conversations
        ) AS conversations
        WHERE matches OR is_last
        ORDER BY updated_hour, updated_at, id
        LIMIT $6
    ) AS p
    LEFT JOIN LATERAL (
        SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at
        FROM messages
        WHERE user_id = $1
          AND conversation_id = p.id
          AND p.matches
        ORDER BY position DESC
        LIMIT $2
    ) AS l ON TRUE
) AS c
GROUP BY
    c.place, c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at,
    c.updated_at, c.bytes_before, c.matches, c.is_last
ORDER BY c.place;

-- list_conversations_with_messages_by_created_at_desc(user_id uuid, messages integer, message_bytes bigint, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some ListedConversation
-- conversations.sql, index messages_pkey
SELECT /* list_conversations_with_messages_by_created_at_desc */
    c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at, c.updated_at,
    CASE
        WHEN coalesce(c.bytes_before, 0) < $3 THEN coalesce(
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
            ) FILTER (WHERE c.message_id IS NOT NULL AND coalesce(c.bytes_before, 0) < $3),
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
        SELECT id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, place, matches, is_last
        FROM (
            SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, place, ($8 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($8::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($9 IS NULL OR metadata @> $9) AS matches, place = $7 AS is_last
            FROM (
                SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, row_number() OVER (ORDER BY created_at DESC, id DESC) AS place
                FROM conversations
                WHERE user_id = $1
                  AND (created_at, id) < ($4, $5)
                ORDER BY created_at DESC, id DESC
                LIMIT $7
            ) AS conversations
        ) AS conversations
        WHERE matches OR is_last
        ORDER BY created_at DESC, id DESC
        LIMIT $6
    ) AS p
    LEFT JOIN LATERAL (
        SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at
        FROM messages
        WHERE user_id = $1
          AND conversation_id = p.id
          AND p.matches
        ORDER BY position DESC
        LIMIT $2
    ) AS l ON TRUE
) AS c
GROUP BY
    c.place, c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at,
    c.updated_at, c.bytes_before, c.matches, c.is_last
ORDER BY c.place;

-- list_conversations_with_messages_by_created_at(user_id uuid, messages integer, message_bytes bigint, after timestamptz, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some ListedConversation
-- conversations.sql, index messages_pkey
SELECT /* list_conversations_with_messages_by_created_at */
    c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at, c.updated_at,
    CASE
        WHEN coalesce(c.bytes_before, 0) < $3 THEN coalesce(
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
            ) FILTER (WHERE c.message_id IS NOT NULL AND coalesce(c.bytes_before, 0) < $3),
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
        SELECT id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, place, matches, is_last
        FROM (
            SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, place, ($8 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($8::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($9 IS NULL OR metadata @> $9) AS matches, place = $7 AS is_last
            FROM (
                SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, row_number() OVER (ORDER BY created_at, id) AS place
                FROM conversations
                WHERE user_id = $1
                  AND (created_at, id) > ($4, $5)
                ORDER BY created_at, id
                LIMIT $7
            ) AS conversations
        ) AS conversations
        WHERE matches OR is_last
        ORDER BY created_at, id
        LIMIT $6
    ) AS p
    LEFT JOIN LATERAL (
        SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at
        FROM messages
        WHERE user_id = $1
          AND conversation_id = p.id
          AND p.matches
        ORDER BY position DESC
        LIMIT $2
    ) AS l ON TRUE
) AS c
GROUP BY
    c.place, c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at,
    c.updated_at, c.bytes_before, c.matches, c.is_last
ORDER BY c.place;

-- list_conversations_with_messages_by_external_id(user_id uuid, messages integer, message_bytes bigint, after text, after_id uuid, row_limit integer, looked_at integer, words text[], contains jsonb) -> some ListedConversation
-- conversations.sql, index messages_pkey
SELECT /* list_conversations_with_messages_by_external_id */
    c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at, c.updated_at,
    CASE
        WHEN coalesce(c.bytes_before, 0) < $3 THEN coalesce(
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
            ) FILTER (WHERE c.message_id IS NOT NULL AND coalesce(c.bytes_before, 0) < $3),
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
        SELECT id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at, place, matches, is_last
        FROM (
            SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, place, ($8 IS NULL OR NOT EXISTS (
        SELECT
        FROM (SELECT replace(lower(coalesce(title, '')), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($8::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($9 IS NULL OR metadata @> $9) AS matches, place = $7 AS is_last
            FROM (
                SELECT id, user_id, external_id, title, metadata, message_count, last_position, version, created_at, updated_at, updated_hour, row_number() OVER (ORDER BY external_id) AS place
                FROM conversations
                WHERE user_id = $1
                  AND external_id = $4 AND id <> $5
                ORDER BY external_id
                LIMIT $7
            ) AS conversations
        ) AS conversations
        WHERE matches OR is_last
        ORDER BY external_id
        LIMIT $6
    ) AS p
    LEFT JOIN LATERAL (
        SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at
        FROM messages
        WHERE user_id = $1
          AND conversation_id = p.id
          AND p.matches
        ORDER BY position DESC
        LIMIT $2
    ) AS l ON TRUE
) AS c
GROUP BY
    c.place, c.id, c.user_id, c.external_id, c.title, c.metadata, c.message_count, c.version, c.created_at,
    c.updated_at, c.bytes_before, c.matches, c.is_last
ORDER BY c.place;

-- list_todo_conversations(user_id uuid, after_id uuid, row_limit integer, id uuid, number bigint) -> many Conversation
-- conversations.sql, index todo_conversation_links_key
SELECT /* list_todo_conversations */ id, user_id, external_id, title, metadata, message_count, version + 2 * last_position::bigint - message_count AS version, created_at, updated_at
FROM conversations
WHERE user_id = $1
  AND id IN (
    SELECT l.conversation_id
    FROM todo_conversation_links AS l
    WHERE l.user_id = $1
      AND l.todo_id = CASE
      WHEN $4 IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = $1 AND n.number = $5)
      ELSE $4
  END
      AND l.conversation_id > $2
    GROUP BY l.conversation_id
    ORDER BY l.conversation_id
    LIMIT $3
  )
ORDER BY id;

-- get_last_number(user_id uuid) -> maybe int
-- export.sql, index todo_counters_pkey
SELECT /* get_last_number */ last_number
FROM todo_counters
WHERE user_id = $1;

-- export_todos(user_id uuid, after integer, limit integer) -> many TodoLine
-- export.sql, index todos_user_id_number_key
SELECT /* export_todos */
    id, number, title, description, status, priority, due_date,
    CASE WHEN assigned_to = $1 THEN 'me' ELSE assigned_to::text END AS assigned_to,
    completed_at, metadata, created_at, updated_at, version
FROM todos
WHERE user_id = $1
  AND number > $2
ORDER BY number
LIMIT $3;

-- export_conversations(user_id uuid, after_id uuid, limit integer) -> many ConversationLine
-- export.sql, index conversations_pkey
SELECT /* export_conversations */ id, title, metadata, last_position, message_count, created_at, updated_at, version, external_id
FROM conversations
WHERE user_id = $1
  AND id >= coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
  AND id IS DISTINCT FROM $2
ORDER BY id
LIMIT $3;

-- export_messages(user_id uuid, after_id uuid, after integer, last_id uuid, limit integer) -> many MessageLine
-- export.sql, index messages_pkey
SELECT /* export_messages */
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
        WHERE user_id = $1
          AND (conversation_id, position) > ($2, $3)
          AND conversation_id <= $4
        ORDER BY conversation_id, position
        LIMIT $5
    ) AS p
) AS l
WHERE l.bytes_before < 4194304
ORDER BY l.conversation_id, l.position;

-- export_links(user_id uuid, after_id uuid, limit integer) -> many LinkLine
-- export.sql, index todo_conversation_links_pkey
SELECT /* export_links */ id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
FROM todo_conversation_links
WHERE user_id = $1
  AND id >= coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
  AND id IS DISTINCT FROM $2
ORDER BY id
LIMIT $3;

-- check_login() -> one LoginCheck
-- health.sql, index none
SELECT /* check_login */
    session_user::text AS login,
    to_regclass('public.users') IS NOT NULL AS is_migrated,
    current_setting('enable_sort') = 'off' AND current_setting('jit') = 'off' AS has_plan_settings,
    lower(chr(196)) = chr(228) AS has_letters, -- A with two dots, and a
    EXISTS (
        SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolsuper AND pg_has_role(session_user, r.oid, 'MEMBER')
    ) AS is_superuser,
    EXISTS (
        SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolbypassrls AND pg_has_role(session_user, r.oid, 'MEMBER')
    ) AS bypasses_row_security,
    has_database_privilege(session_user, current_database(), 'TEMP') AS may_create_temporary_tables,
    ARRAY(
        SELECT c.relname::text
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace
            AND c.relkind IN ('r', 'p', 'v', 'm')
            AND pg_has_role(session_user, c.relowner, 'MEMBER')
        ORDER BY c.relname
    ) AS owned_tables,
    ARRAY(
        SELECT c.relname::text
        FROM pg_catalog.pg_class AS c
        INNER JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace
            AND c.relkind IN ('r', 'p')
            AND c.relowner = to_regrole('todochat_owner')
            AND NOT (
                c.relrowsecurity
                AND c.relforcerowsecurity
                AND EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid)
            )
        ORDER BY c.relname
    ) AS unprotected_tables,
    coalesce(has_table_privilege(session_user, to_regclass('public.todos'), 'SELECT'), FALSE) AS may_read;

-- list_misowned(tables text[], functions text[], domains text[]) -> many Misowned
-- health.sql, index none
SELECT /* list_misowned */ f.kind, f.name, pg_get_userbyid(f.owner)::text AS owner
FROM (
    SELECT 'TABLE' AS kind, c.oid::regclass::text AS name, c.relowner AS owner
    FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace
        AND c.relkind IN ('r', 'p')
        AND c.relname = ANY ($1::text[])
    UNION ALL
    SELECT 'FUNCTION', replace(p.oid::regprocedure::text, ',', ', '), p.proowner
    FROM unnest($2::text[]) AS s (signature)
    INNER JOIN pg_catalog.pg_proc AS p ON p.oid = to_regprocedure('public.' || s.signature)
    UNION ALL
    SELECT 'DOMAIN', t.oid::regtype::text, t.typowner
    FROM pg_catalog.pg_type AS t
    WHERE t.typnamespace = 'public'::regnamespace
        AND t.typtype = 'd'
        AND t.typname = ANY ($3::text[])
) AS f
WHERE f.owner IS DISTINCT FROM to_regrole('todochat_owner')
ORDER BY f.name;

-- list_applied_migrations() -> many str
-- health.sql, index none
SELECT /* list_applied_migrations */ migration_id
FROM public._yoyo_migration
ORDER BY migration_id;

-- forget_idempotency_key(user_id uuid, key text) -> none
-- idempotency.sql, index idempotency_keys_pkey
DELETE /* forget_idempotency_key */ FROM idempotency_keys
WHERE user_id = $1
  AND key = $2
  AND created_at + INTERVAL '24 hours' < now();

-- claim_idempotency_key(user_id uuid, key text, operation text, request_hash bytea) -> none
-- idempotency.sql, index idempotency_keys_pkey
INSERT /* claim_idempotency_key */ INTO idempotency_keys (user_id, key, operation, request_hash)
VALUES ($1, $2, $3, $4);

-- keep_answer(user_id uuid, key text, status smallint, headers jsonb, body bytea) -> none
-- idempotency.sql, index idempotency_keys_pkey
UPDATE /* keep_answer */ idempotency_keys
SET status = $3,
    headers = $4,
    body = $5
WHERE user_id = $1
  AND key = $2;

-- get_kept_answer(user_id uuid, key text) -> maybe KeptAnswer
-- idempotency.sql, index idempotency_keys_pkey
SELECT /* get_kept_answer */ operation, request_hash, status, headers, body
FROM idempotency_keys
WHERE user_id = $1
  AND key = $2
  AND status IS NOT NULL;

-- reserve_numbers(user_id uuid, last_number integer) -> none
-- imports.sql, index todo_counters_pkey
INSERT /* reserve_numbers */ INTO todo_counters AS c (user_id, last_number)
VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET last_number = excluded.last_number
WHERE c.last_number < excluded.last_number;

-- forget_plans() -> none
-- imports.sql, index none
DISCARD /* forget_plans */ PLANS;

-- begin_chunk() -> none
-- imports.sql, index none
SAVEPOINT /* begin_chunk */ chunk;

-- keep_chunk() -> none
-- imports.sql, index none
RELEASE /* keep_chunk */ SAVEPOINT chunk;

-- undo_chunk() -> none
-- imports.sql, index none
ROLLBACK /* undo_chunk */ TO SAVEPOINT chunk;

-- import_todos(user_id uuid, rows json) -> count
-- imports.sql, index todos_pkey
WITH /* import_todos */ sent AS MATERIALIZED (
    SELECT
        r.id, r.number, r.title, r.description, r.status, r.priority, r.due_date, r.assigned_to, r.completed_at,
        r.metadata, r.created_at, r.updated_at, r.version
    FROM json_to_recordset($2) AS r (
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
            WHERE n.user_id = $1 AND n.number = ANY (ARRAY(SELECT o.number FROM sent AS o))
        ) AS is_taken
    FROM sent AS s
    WHERE s.id NOT IN (
        SELECT t.id
        FROM todos AS t
        WHERE t.user_id = $1 AND t.id = ANY (ARRAY(SELECT o.id FROM sent AS o))
    )
), counter AS (
    UPDATE todo_counters AS c
    SET last_number = c.last_number + (SELECT count(*) FROM lines AS l WHERE l.is_taken)
    WHERE c.user_id = $1
    RETURNING c.last_number
)
INSERT INTO todos (
    user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at, metadata,
    created_at, updated_at, version
)
SELECT
    $1, l.id,
    CASE
        WHEN l.is_taken THEN c.last_number + 1 - row_number() OVER (PARTITION BY l.is_taken ORDER BY l.number DESC)
        ELSE l.number
    END,
    l.title, l.description, l.status, l.priority, l.due_date,
    CASE WHEN l.assigned_to = 'me' THEN $1 ELSE l.assigned_to::uuid END,
    l.completed_at, l.metadata, l.created_at, l.updated_at, l.version
FROM counter AS c
CROSS JOIN lines AS l
ON CONFLICT (user_id, id) DO NOTHING;

-- import_conversations(user_id uuid, rows json) -> many UUID
-- imports.sql, index conversations_pkey
INSERT /* import_conversations */ INTO conversations (user_id, id, external_id, title, metadata, last_position, created_at, updated_at, version)
SELECT
    $1, r.id, r.external_id, r.title, r.metadata, r.last_position, r.created_at, r.updated_at, r.version
FROM json_to_recordset($2) AS r (
    id uuid, external_id text, title text, metadata jsonb, last_position integer, created_at timestamptz, updated_at timestamptz,
    version integer
)
ON CONFLICT (user_id, id) DO NOTHING
RETURNING id;

-- import_messages(user_id uuid, rows json) -> count
-- imports.sql, index messages_pkey
INSERT /* import_messages */ INTO messages (
    user_id, conversation_id, position, id, sender_type, content, message_type, metadata, item, content_truncated,
    created_at, updated_at, version
)
SELECT
    $1, r.conversation_id, r.position, r.id, r.sender_type, r.content, r.message_type, r.metadata,
    r.item, coalesce(r.content_truncated, FALSE), r.created_at, r.updated_at, r.version
FROM json_to_recordset($2) AS r (
    id uuid, conversation_id uuid, position integer, sender_type text, content text, message_type text,
    metadata jsonb, item text, content_truncated boolean, created_at timestamptz, updated_at timestamptz,
    version integer
)
WHERE NOT EXISTS (
    SELECT
    FROM messages AS m
    WHERE m.user_id = $1
      AND m.conversation_id = r.conversation_id
      AND m.position = r.position
      AND m.id = r.id
    OFFSET 0
);

-- import_links(user_id uuid, rows json) -> count
-- imports.sql, index todo_conversation_links_key
INSERT /* import_links */ INTO todo_conversation_links (
    user_id, id, todo_id, conversation_id, relationship_type, created_at, updated_at, version
)
SELECT
    $1, r.id, r.todo_id, r.conversation_id, r.relationship_type, r.created_at, r.updated_at, r.version
FROM json_to_recordset($2) AS r (
    id uuid, todo_id uuid, conversation_id uuid, relationship_type text, created_at timestamptz,
    updated_at timestamptz, version integer
)
ON CONFLICT DO NOTHING;

-- authenticate_key(user_id uuid, digest bytea, scope text) -> none
-- keys.sql, index api_keys_digest_key
SELECT /* authenticate_key */ refuse_key(k.expires_at, u.is_active)
FROM (SELECT) AS one
LEFT JOIN api_keys AS k ON k.user_id = $1 AND k.digest = $2
LEFT JOIN users AS u ON u.id = $1 AND k.id IS NOT NULL
WHERE (
    u.is_active
    AND (k.scope = $3 OR $3 = 'read')
    AND coalesce(k.expires_at > now(), TRUE)
) IS NOT TRUE;

-- touch_key(user_id uuid, digest bytea, hour timestamptz) -> none
-- keys.sql, index api_keys_digest_key
UPDATE /* touch_key */ api_keys
SET last_used_at = $3
WHERE user_id = $1
  AND id IN (
      SELECT k.id
      FROM api_keys AS k
      WHERE k.user_id = $1
        AND k.digest = $2
        AND coalesce(k.last_used_at, '-infinity') < $3
      FOR UPDATE SKIP LOCKED
  );

-- create_key(user_id uuid, name text, scope text, digest bytea, expires_at timestamptz) -> one Key
-- keys.sql, index api_keys_slot_key
INSERT /* create_key */ INTO api_keys (user_id, slot, name, scope, digest, expires_at)
VALUES (
    $1,
    (
        SELECT coalesce(min(s.slot), 21)
        FROM generate_series(1, 20) AS s (slot)
        WHERE NOT EXISTS (SELECT FROM api_keys AS k WHERE k.user_id = $1 AND k.slot = s.slot)
    ),
    $2, $3, $4, $5
)
RETURNING id, name, scope, expires_at, last_used_at, created_at;

-- list_keys(user_id uuid, before_id uuid, limit integer) -> many Key
-- keys.sql, index api_keys_pkey
SELECT /* list_keys */ id, name, scope, expires_at, last_used_at, created_at
FROM api_keys
WHERE user_id = $1
  AND id < $2
ORDER BY id DESC
LIMIT $3;

-- get_key(user_id uuid, id uuid) -> maybe Key
-- keys.sql, index api_keys_pkey
SELECT /* get_key */ id, name, scope, expires_at, last_used_at, created_at
FROM api_keys
WHERE user_id = $1
  AND id = $2;

-- delete_key(user_id uuid, id uuid) -> maybe UUID
-- keys.sql, index api_keys_pkey
DELETE /* delete_key */ FROM api_keys
WHERE user_id = $1
  AND id = $2
RETURNING id;

-- get_link(user_id uuid, id uuid) -> maybe Link+version
-- links.sql, index todo_conversation_links_pkey
SELECT /* get_link */ id, user_id, todo_id, conversation_id, relationship_type, created_at, version
FROM todo_conversation_links
WHERE user_id = $1
  AND id = $2;

-- create_link(user_id uuid, todo_id uuid, conversation_id uuid, relationship_type text) -> one Link+version
-- links.sql, index todo_conversation_links_key
INSERT /* create_link */ INTO todo_conversation_links (user_id, todo_id, conversation_id, relationship_type)
VALUES ($1, $2, $3, $4)
RETURNING id, user_id, todo_id, conversation_id, relationship_type, created_at, version;

-- link_todo(user_id uuid, conversation_id uuid, relationship_type text, id uuid, number bigint) -> count
-- links.sql, index todo_conversation_links_key
INSERT /* link_todo */ INTO todo_conversation_links (user_id, todo_id, conversation_id, relationship_type)
SELECT $1, t.id, $2, $3
FROM todos AS t
WHERE t.user_id = $1
  AND t.id = CASE
      WHEN $4 IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = $1 AND n.number = $5)
      ELSE $4
  END
ON CONFLICT (user_id, todo_id, conversation_id, relationship_type) DO NOTHING;

-- update_link(user_id uuid, id uuid, relationship_type text, version integer) -> maybe Link+version
-- links.sql, index todo_conversation_links_pkey
UPDATE /* update_link */ todo_conversation_links
SET relationship_type = coalesce($3, relationship_type)
WHERE user_id = $1
  AND id = $2
  AND ($4 IS NULL OR version = $4)
RETURNING id, user_id, todo_id, conversation_id, relationship_type, created_at, version;

-- delete_link(user_id uuid, id uuid, version integer) -> maybe UUID
-- links.sql, index todo_conversation_links_pkey
DELETE /* delete_link */ FROM todo_conversation_links
WHERE user_id = $1
  AND id = $2
  AND ($3 IS NULL OR version = $3)
RETURNING id;

-- list_links(user_id uuid, relationship_type text, after_id uuid, looked_at integer, row_limit integer) -> some Link
-- links.sql, index todo_conversation_links_pkey
SELECT /* list_links */ id, user_id, todo_id, conversation_id, relationship_type, created_at, matches, is_last
FROM (
    SELECT id, user_id, todo_id, conversation_id, relationship_type, created_at,
        ($2 IS NULL OR relationship_type = $2) AS matches,
        row_number() OVER (ORDER BY id DESC) = $4 AS is_last
    FROM (
        SELECT id, user_id, todo_id, conversation_id, relationship_type, created_at
        FROM todo_conversation_links
        WHERE user_id = $1
          AND id < $3
        ORDER BY id DESC
        LIMIT $4
    ) AS l
) AS l
WHERE matches OR is_last
ORDER BY id DESC
LIMIT $5;

-- list_links_of_todo(user_id uuid, todo_id uuid, conversation_id uuid, relationship_type text, after_id uuid, row_limit integer) -> many Link
-- links.sql, index todo_conversation_links_key
SELECT /* list_links_of_todo */ id, user_id, todo_id, conversation_id, relationship_type, created_at
FROM (
    SELECT id, user_id, todo_id, conversation_id, relationship_type, created_at
    FROM todo_conversation_links
    WHERE user_id = $1
      AND todo_id = $2
      AND id < $5
      AND ($3 IS NULL OR conversation_id = $3)
      AND ($4 IS NULL OR relationship_type = $4)
    OFFSET 0
) AS found
ORDER BY id DESC
LIMIT $6;

-- list_links_of_conversation(user_id uuid, conversation_id uuid, todo_id uuid, relationship_type text, after_id uuid, row_limit integer) -> many Link
-- links.sql, index todo_conversation_links_conversation_id_idx
SELECT /* list_links_of_conversation */ id, user_id, todo_id, conversation_id, relationship_type, created_at
FROM (
    SELECT id, user_id, todo_id, conversation_id, relationship_type, created_at
    FROM todo_conversation_links
    WHERE user_id = $1
      AND conversation_id = $2
      AND id < $5
      AND ($3 IS NULL OR todo_id = $3)
      AND ($4 IS NULL OR relationship_type = $4)
    OFFSET 0
) AS found
ORDER BY id DESC
LIMIT $6;

-- lock_conversation(user_id uuid, id uuid) -> maybe UUID
-- messages.sql, index conversations_pkey
SELECT /* lock_conversation */ id
FROM conversations
WHERE user_id = $1
  AND id = $2
FOR NO KEY UPDATE;

-- find_last_position(user_id uuid, id uuid) -> maybe int
-- messages.sql, index conversations_pkey
SELECT /* find_last_position */ last_position
FROM conversations
WHERE user_id = $1
  AND id = $2;

-- open_conversation(user_id uuid, id uuid, title text) -> none
-- messages.sql, index conversations_pkey
INSERT /* open_conversation */ INTO conversations (user_id, id, title)
VALUES ($1, $2, $3);

-- expect_position(user_id uuid, conversation_id uuid, expected integer) -> none
-- messages.sql, index messages_pkey
SELECT /* expect_position */ expect_position($1, $2, $3);

-- create_turn_message(user_id uuid, conversation_id uuid, sender_type text, content text, message_type text, metadata jsonb, item text, content_truncated boolean) -> one Message
-- messages.sql, index messages_pkey
INSERT /* create_turn_message */ INTO messages (user_id, conversation_id, sender_type, content, message_type, metadata, item, content_truncated)
VALUES (
    $1, $2, $3, $4, $5, coalesce($6, '{}'),
    $7, $8
)
RETURNING id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at;

-- create_message(user_id uuid, conversation_id uuid, sender_type text, content text, message_type text, metadata jsonb, item text, content_truncated boolean) -> one FullMessage+version
-- messages.sql, index messages_pkey
INSERT /* create_message */ INTO messages (user_id, conversation_id, sender_type, content, message_type, metadata, item, content_truncated)
VALUES (
    $1, $2, $3, $4, $5, coalesce($6, '{}'),
    $7, $8
)
RETURNING id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item::json AS item, version;

-- create_two_messages(user_id uuid, conversation_id uuid, sender_type text, content text, message_type text, metadata jsonb, item text, content_truncated boolean, second_sender_type text, second_content text, second_message_type text, second_metadata jsonb, second_item text, second_content_truncated boolean) -> many Message
-- messages.sql, index messages_pkey
INSERT /* create_two_messages */ INTO messages (user_id, conversation_id, sender_type, content, message_type, metadata, item, content_truncated)
VALUES
    (
        $1, $2, $3, $4, $5,
        coalesce($6, '{}'), $7, $8
    ),
    (
        $1, $2, $9, $10, $11,
        coalesce($12, '{}'), $13, $14
    )
RETURNING id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at;

-- get_message(user_id uuid, conversation_id uuid, id uuid) -> maybe FullMessage+version
-- messages.sql, index messages_user_id_id_key
SELECT /* get_message */ id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item::json AS item, version
FROM messages
WHERE user_id = $1
  AND conversation_id = $2
  AND id = $3;

-- update_message(user_id uuid, conversation_id uuid, id uuid, content text, message_type text, metadata jsonb, version integer) -> maybe FullMessage+version
-- messages.sql, index messages_user_id_id_key
UPDATE /* update_message */ messages
SET content = coalesce($4, content),
    content_truncated = content_truncated AND $4 IS NULL,
    message_type = coalesce($5, message_type),
    metadata = coalesce(nullif($6, metadata), metadata)
WHERE user_id = $1
  AND conversation_id = $2
  AND id = $3
  AND ($7 IS NULL OR version = $7)
RETURNING id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item::json AS item, version;

-- delete_message(user_id uuid, conversation_id uuid, id uuid, version integer) -> maybe UUID
-- messages.sql, index messages_user_id_id_key
DELETE /* delete_message */ FROM messages
WHERE user_id = $1
  AND conversation_id = $2
  AND id = $3
  AND ($4 IS NULL OR version = $4)
RETURNING id;

-- delete_messages_from(user_id uuid, conversation_id uuid, from_position integer) -> count
-- messages.sql, index messages_pkey
DELETE /* delete_messages_from */ FROM messages
WHERE user_id = $1
  AND conversation_id = $2
  AND position >= $3;

-- list_messages(user_id uuid, conversation_id uuid, sender_type text, message_type text, after integer, before integer, row_limit integer) -> many Message
-- messages.sql, index messages_pkey
SELECT /* list_messages */ id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at
FROM messages
WHERE user_id = $1
  AND conversation_id = $2
  AND position > $5
  AND position < $6
  AND ($3 IS NULL OR sender_type = $3)
  AND ($4 IS NULL OR message_type = $4)
ORDER BY position ASC
LIMIT $7;

-- list_messages_desc(user_id uuid, conversation_id uuid, sender_type text, message_type text, after integer, before integer, row_limit integer) -> many Message
-- messages.sql, index messages_pkey
SELECT /* list_messages_desc */ id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at
FROM messages
WHERE user_id = $1
  AND conversation_id = $2
  AND position > $5
  AND position < $6
  AND ($3 IS NULL OR sender_type = $3)
  AND ($4 IS NULL OR message_type = $4)
ORDER BY position DESC
LIMIT $7;

-- list_messages_with_items(user_id uuid, conversation_id uuid, sender_type text, message_type text, after integer, before integer, row_limit integer) -> many FullMessage
-- messages.sql, index messages_pkey
SELECT /* list_messages_with_items */ id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, l.item::json AS item
FROM (
    SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item,
        sum(coalesce(octet_length(item), 0)) OVER (ORDER BY position ASC)
            - coalesce(octet_length(item), 0) AS bytes_before
    FROM (
        SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item
        FROM messages
        WHERE user_id = $1
          AND conversation_id = $2
          AND position > $5
          AND position < $6
          AND ($3 IS NULL OR sender_type = $3)
          AND ($4 IS NULL OR message_type = $4)
        ORDER BY position ASC
        LIMIT $7
    ) AS p
) AS l
WHERE l.bytes_before < 4194304
ORDER BY l.position ASC;

-- list_messages_with_items_desc(user_id uuid, conversation_id uuid, sender_type text, message_type text, after integer, before integer, row_limit integer) -> many FullMessage
-- messages.sql, index messages_pkey
SELECT /* list_messages_with_items_desc */ id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, l.item::json AS item
FROM (
    SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item,
        sum(coalesce(octet_length(item), 0)) OVER (ORDER BY position DESC)
            - coalesce(octet_length(item), 0) AS bytes_before
    FROM (
        SELECT id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item
        FROM messages
        WHERE user_id = $1
          AND conversation_id = $2
          AND position > $5
          AND position < $6
          AND ($3 IS NULL OR sender_type = $3)
          AND ($4 IS NULL OR message_type = $4)
        ORDER BY position DESC
        LIMIT $7
    ) AS p
) AS l
WHERE l.bytes_before < 4194304
ORDER BY l.position DESC;

-- list_context(user_id uuid, conversation_id uuid, messages integer) -> many ContextRow
-- messages.sql, index messages_pkey
SELECT /* list_context */ l.role, l.content, l.message_type, l.position
FROM (
    SELECT role, content, message_type, position
    FROM messages
    WHERE user_id = $1
      AND conversation_id = $2
    ORDER BY position DESC
    LIMIT $3
) AS l
ORDER BY l.position;

-- list_context_items(user_id uuid, conversation_id uuid, messages integer) -> many ContextItemRow
-- messages.sql, index messages_pkey
SELECT /* list_context_items */ l.role, l.content, l.message_type, l.position, l.item::json AS item
FROM (
    SELECT p.role, p.content, p.message_type, p.item, p.position,
        sum(octet_length(coalesce(p.item, p.content))) OVER (ORDER BY p.position DESC) AS bytes
    FROM (
        SELECT role, content, message_type, item, position
        FROM messages
        WHERE user_id = $1
          AND conversation_id = $2
        ORDER BY position DESC
        LIMIT $3
    ) AS p
) AS l
WHERE l.bytes <= 4194304
ORDER BY l.position;

-- search_messages(user_id uuid, words text[], before_id uuid, looked_at integer, row_limit integer) -> some FoundMessage
-- messages.sql, index messages_user_id_id_key
SELECT /* search_messages */
    s.id, s.conversation_id, s.position, s.role, s.message_type,
    substring(s.content FROM greatest(1, strpos(s.lowered, lower(($2::text[])[1])) - 40) FOR 200) AS snippet,
    s.created_at, s.matches, s.is_last
FROM (
    SELECT
        l.id, l.conversation_id, l.position, l.role, l.message_type, l.content, l.lowered, l.created_at,
        NOT EXISTS (
            SELECT FROM unnest($2::text[]) AS w (word) WHERE strpos(l.lowered, lower(w.word)) = 0
        ) AS matches,
        row_number() OVER (ORDER BY l.id DESC) = $4 AS is_last
    FROM (
        SELECT
            id, conversation_id, position, role, message_type, content, created_at,
            replace(lower(content), U&'\03C2', U&'\03C3') AS lowered
        FROM messages
        WHERE user_id = $1
          AND id < $3
        ORDER BY id DESC
        LIMIT $4
    ) AS l
) AS s
WHERE s.matches OR s.is_last
ORDER BY s.id DESC
LIMIT $5;

-- find_item(user_id uuid, conversation_id uuid, item_id text) -> maybe FullMessage
-- messages.sql, index messages_pkey
SELECT /* find_item */ id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata,
    content_truncated, created_at, updated_at, item::json AS item
FROM messages
WHERE user_id = $1
  AND conversation_id = $2
  AND metadata ->> 'item_id' = $3
ORDER BY position DESC
LIMIT 1;

-- begin_restoring() -> none
-- restoring.sql, index none
SET /* begin_restoring */ LOCAL app.restoring = 'on';

-- end_restoring() -> none
-- restoring.sql, index none
SET /* end_restoring */ LOCAL app.restoring = '';

-- write_entries() -> none
-- restoring.sql, index none
SET /* write_entries */ CONSTRAINTS
    users_audit, users_audit_update, identities_audit, identities_audit_update, todos_audit, todos_audit_update,
    conversations_audit, conversations_audit_update, messages_audit, messages_audit_update,
    todo_conversation_links_audit, todo_conversation_links_audit_update
    IMMEDIATE;

-- hold_assignees() -> none
-- restoring.sql, index none
SET /* hold_assignees */ CONSTRAINTS todos_assigned_to_fkey, todos_assignee_hold, todos_assignee_hold_update IMMEDIATE;

-- authenticate(user_id uuid, token_version integer, issued_at bigint) -> none
-- sign_in.sql, index users_pkey
SELECT /* authenticate */ refuse_token(u.is_active)
FROM (SELECT) AS one
LEFT JOIN users AS u ON u.id = $1
WHERE (
    u.is_active
    AND (u.token_version = $2 OR u.tokens_valid_from <= to_timestamp($3::bigint))
) IS NOT TRUE;

-- create_user(user_id uuid, email text, username text, full_name text, password_hash text) -> one User
-- sign_in.sql, index users_pkey
INSERT /* create_user */ INTO users (id, email, username, full_name, password_hash)
VALUES ($1, $2, $3, $4, $5)
RETURNING id, email, username, full_name, is_active, version, created_at, updated_at;

-- find_account(email text) -> maybe UUID
-- sign_in.sql, index users_email_key
SELECT /* find_account */ f.id
FROM find_credentials($1) AS f;

-- find_credentials(email text) -> maybe Credentials
-- sign_in.sql, index users_email_key
SELECT /* find_credentials */ id, password_hash, is_active, token_version
FROM find_credentials($1);

-- get_own_credentials(user_id uuid) -> one OwnCredentials
-- sign_in.sql, index users_pkey
SELECT /* get_own_credentials */ email, password_hash
FROM users
WHERE id = $1;

-- take_sign_in_attempt(account bytea, networks bytea[]) -> one float
-- sign_in.sql, index sign_in_attempts_pkey
SELECT /* take_sign_in_attempt */ take_sign_in_attempt($1, $2);

-- forgive_sign_in_attempt(account bytea, networks bytea[]) -> none
-- sign_in.sql, index sign_in_attempts_pkey
SELECT /* forgive_sign_in_attempt */ forgive_sign_in_attempt($1, $2);

-- set_password(user_id uuid, password_hash text) -> none
-- sign_in.sql, index users_pkey
UPDATE /* set_password */ users
SET password_hash = $2,
    token_version = token_version + 1
WHERE id = $1;

-- revoke_tokens(user_id uuid) -> none
-- sign_in.sql, index users_pkey
UPDATE /* revoke_tokens */ users
SET token_version = token_version + 1
WHERE id = $1;

-- resolve_identity(user_id uuid, issuer text, subject text, issued_at bigint, email text, full_name text, creates boolean) -> maybe UUID
-- sign_in.sql, index identities_issuer_subject_key
SELECT /* resolve_identity */ r.id
FROM resolve_identity(
    $1, $2, $3, $4, $5, $6, $7
) AS r (id)
WHERE r.id IS NOT NULL;

-- get_task(user_id uuid, number bigint) -> maybe Task+version
-- tasks.sql, index todos_user_id_number_key
SELECT /* get_task */ number AS id, user_id, title, description, completed, created_at, updated_at, version
FROM todos
WHERE user_id = $1
  AND number = $2;

-- create_task(user_id uuid, title text, description text, status text) -> one Task+version
-- tasks.sql, index todos_pkey
INSERT /* create_task */ INTO todos (user_id, title, description, status)
VALUES ($1, $2, $3, $4)
RETURNING number AS id, user_id, title, description, completed, created_at, updated_at, version;

-- update_task(user_id uuid, number bigint, title text, set_description boolean, description text, completed boolean, version integer) -> maybe Task+version
-- tasks.sql, index todos_user_id_number_key
UPDATE /* update_task */ todos
SET title = coalesce($3, title),
    description = CASE WHEN $4 THEN $5 ELSE description END,
    status = CASE
        WHEN $6 THEN 'completed'
        WHEN NOT $6 AND status = 'completed' THEN 'pending'
        ELSE status
    END
WHERE user_id = $1
  AND number = $2
  AND ($7 IS NULL OR version = $7)
RETURNING number AS id, user_id, title, description, completed, created_at, updated_at, version;

-- complete_task(user_id uuid, number bigint, completed boolean, version integer) -> maybe Task+version
-- tasks.sql, index todos_user_id_number_key
UPDATE /* complete_task */ todos
SET status = CASE
        WHEN coalesce($3, status <> 'completed') THEN 'completed'
        WHEN status = 'completed' THEN 'pending'
        ELSE status
    END
WHERE user_id = $1
  AND number = $2
  AND ($4 IS NULL OR version = $4)
RETURNING number AS id, user_id, title, description, completed, created_at, updated_at, version;

-- list_task_ids_by_created(user_id uuid, completed boolean) -> one str
-- tasks.sql, index todos_user_id_created_at_idx
SELECT /* list_task_ids_by_created */ coalesce(string_agg(t.id::text, ',' ORDER BY t.created_at, t.id), '')
FROM (
    SELECT id, title, due_date, created_at
    FROM todos
    WHERE user_id = $1
      AND (status <> 'archived' AND ($2 IS NULL OR completed = $2))
    ORDER BY created_at, id
    OFFSET 0
) AS t;

-- list_task_ids_by_title(user_id uuid, completed boolean) -> one str
-- tasks.sql, index todos_user_id_created_at_idx
SELECT /* list_task_ids_by_title */ coalesce(string_agg(t.id::text, ',' ORDER BY t.title, t.id), '')
FROM (
    SELECT id, title, due_date, created_at
    FROM todos
    WHERE user_id = $1
      AND (status <> 'archived' AND ($2 IS NULL OR completed = $2))
    ORDER BY created_at, id
    OFFSET 0
) AS t;

-- list_task_ids_by_due_date(user_id uuid, completed boolean) -> one str
-- tasks.sql, index todos_user_id_due_date_idx
SELECT /* list_task_ids_by_due_date */ coalesce(string_agg(t.id::text, ',' ORDER BY t.due_date, t.id), '')
FROM (
    SELECT id, title, due_date, created_at
    FROM todos
    WHERE user_id = $1
      AND (status <> 'archived' AND ($2 IS NULL OR completed = $2))
    ORDER BY due_date, id
    OFFSET 0
) AS t;

-- list_tasks(user_id uuid, ids uuid[], completed boolean) -> many Task
-- tasks.sql, index todos_pkey
SELECT /* list_tasks */ t.id, t.user_id, t.title, t.description, t.completed, t.created_at, t.updated_at
FROM unnest($2::uuid[]) WITH ORDINALITY AS w (id, place)
CROSS JOIN LATERAL (
    SELECT number AS id, user_id, title, description, completed, created_at, updated_at
    FROM todos
    WHERE user_id = $1
      AND todos.id = w.id
      AND (status <> 'archived' AND ($3 IS NULL OR completed = $3))
    OFFSET 0
) AS t
ORDER BY w.place;

-- get_todo(user_id uuid, id uuid) -> maybe Todo
-- todos.sql, index todos_pkey
SELECT /* get_todo */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at
FROM todos
WHERE user_id = $1
  AND id = $2
UNION ALL
(
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at
    FROM todos
    WHERE assigned_to = $1
      AND user_id <> $1
      AND id = $2
    ORDER BY uuid_send(user_id)
    LIMIT 1
)
LIMIT 1;

-- get_todo_by_number(user_id uuid, number bigint) -> maybe Todo
-- todos.sql, index todos_user_id_number_key
SELECT /* get_todo_by_number */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at
FROM todos
WHERE user_id = $1
  AND number = $2;

-- create_todo(user_id uuid, id uuid, title text, description text, status text, priority text, due_date timestamptz, assigned_to uuid, completed_at timestamptz, metadata jsonb) -> one Todo
-- todos.sql, index todos_pkey
INSERT /* create_todo */ INTO todos (user_id, id, title, description, status, priority, due_date, assigned_to, completed_at, metadata)
VALUES (
    $1, coalesce($2, uuid7()), $3, $4, $5, $6, $7, $8,
    $9, coalesce($10, '{}')
)
RETURNING id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at;

-- update_todo(user_id uuid, title text, set_description boolean, description text, status text, priority text, set_due_date boolean, due_date timestamptz, set_assigned_to boolean, assigned_to uuid, set_completed_at boolean, completed_at timestamptz, metadata jsonb, version integer, id uuid, number bigint) -> maybe Todo
-- todos.sql, index todos_pkey
UPDATE /* update_todo */ todos
SET title = coalesce($2, title),
    description = CASE WHEN $3 THEN $4 ELSE description END,
    status = coalesce($5, status),
    priority = coalesce($6, priority),
    due_date = CASE WHEN $7 THEN $8 ELSE due_date END,
    assigned_to = CASE WHEN $9 THEN $10 ELSE assigned_to END,
    completed_at = CASE WHEN $11 THEN $12 ELSE completed_at END,
    metadata = coalesce(nullif($13, metadata), metadata)
WHERE (user_id = $1 OR assigned_to = $1)
  -- Of several todos with one id the same one is meant as in get_todo.
  AND (
      user_id = $1
      OR NOT EXISTS (
          SELECT
          FROM todos AS o
          WHERE (o.user_id = $1 OR o.assigned_to = $1)
            AND (o.user_id = $1 OR o.user_id < todos.user_id)
            AND o.id = todos.id
      )
  )
  AND id = CASE
      WHEN $15 IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = $1 AND n.number = $16)
      ELSE $15
  END
  AND ($14 IS NULL OR version = $14)
RETURNING id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at;

-- lock_todos(user_id uuid, ids uuid[], numbers bigint[]) -> many UUID
-- todos.sql, index todos_pkey
SELECT /* lock_todos */ t.id
FROM (
    SELECT i.id FROM unnest($2::uuid[]) AS i (id)
    UNION
    SELECT o.id FROM todos AS o WHERE o.user_id = $1 AND o.number = ANY ($3::bigint[])
    ORDER BY id
) AS n
CROSS JOIN LATERAL (
    SELECT o.id
    FROM todos AS o
    WHERE (o.user_id = $1 OR o.assigned_to = $1)
      AND o.id = n.id
    ORDER BY uuid_send(o.user_id)
    FOR NO KEY UPDATE
) AS t;

-- delete_todo(user_id uuid, version integer, id uuid, number bigint) -> maybe UUID
-- todos.sql, index todos_pkey
DELETE /* delete_todo */ FROM todos
WHERE user_id = $1
  AND id = CASE
      WHEN $3 IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = $1 AND n.number = $4)
      ELSE $3
  END
  AND ($2 IS NULL OR version = $2)
RETURNING id;

-- list_todos_by_status(user_id uuid, status text, after timestamptz, after_id uuid, row_limit integer) -> many Todo
-- todos.sql, index todos_user_id_status_created_at_idx
SELECT /* list_todos_by_status */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at
FROM todos
WHERE user_id = $1
  AND status = $2
  AND (created_at, id) < ($3, $4)
ORDER BY created_at DESC, id DESC
LIMIT $5;

-- list_todos_by_created_at(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_created_at_idx
SELECT /* list_todos_by_created_at */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY created_at ASC, id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND (created_at, id, user_id) > ($1, $3, $4)
        ORDER BY created_at ASC, id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY created_at ASC, id ASC
LIMIT $6;

-- list_todos_by_created_at_desc(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_created_at_idx
SELECT /* list_todos_by_created_at_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY created_at DESC, id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND (created_at, id, user_id) < ($1, $3, $4)
        ORDER BY created_at DESC, id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY created_at DESC, id DESC
LIMIT $6;

-- list_todos_by_updated_at(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_updated_hour_idx
SELECT /* list_todos_by_updated_at */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY updated_hour ASC, updated_at ASC, id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND updated_hour >= date_bin('1 hour', $1, 'epoch') AND (updated_at, id, user_id) > ($1, $3, $4)
        ORDER BY updated_hour ASC, updated_at ASC, id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY updated_hour ASC, updated_at ASC, id ASC
LIMIT $6;

-- list_todos_by_updated_at_desc(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_updated_hour_idx
SELECT /* list_todos_by_updated_at_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY updated_hour DESC, updated_at DESC, id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND updated_hour <= date_bin('1 hour', $1, 'epoch') AND (updated_at, id, user_id) < ($1, $3, $4)
        ORDER BY updated_hour DESC, updated_at DESC, id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY updated_hour DESC, updated_at DESC, id DESC
LIMIT $6;

-- list_todos_by_due_date(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_due_date_idx
SELECT /* list_todos_by_due_date */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY due_date ASC, id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND (due_date, id, user_id) > ($1, $3, $4)
        ORDER BY due_date ASC, id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date ASC, id ASC
LIMIT $6;

-- list_todos_by_due_date_desc(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_due_date_idx
SELECT /* list_todos_by_due_date_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY due_date DESC, id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND (due_date, id, user_id) < ($1, $3, $4)
        ORDER BY due_date DESC, id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date DESC, id DESC
LIMIT $6;

-- list_todos_by_no_due_date(user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_due_date_idx
SELECT /* list_todos_by_no_due_date */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($6 IS NULL OR status = ANY ($6))
    AND ($7 IS NULL OR completed = $7)
    AND ($8 IS NULL OR priority = ANY ($8))
    AND ($9 IS NULL OR due_date < $9)
    AND ($10 IS NULL OR due_date >= $10)
    AND ($11 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $11)
    AND ($12 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($12::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($13 IS NULL OR metadata @> $13) AS matches,
        row_number() OVER (ORDER BY due_date ASC, id ASC) = $4 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $1
          AND due_date IS NULL AND (id, user_id) > ($2, $3)
        ORDER BY due_date ASC, id ASC
        LIMIT $4
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date ASC, id ASC
LIMIT $5;

-- list_todos_by_no_due_date_desc(user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_due_date_idx
SELECT /* list_todos_by_no_due_date_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($6 IS NULL OR status = ANY ($6))
    AND ($7 IS NULL OR completed = $7)
    AND ($8 IS NULL OR priority = ANY ($8))
    AND ($9 IS NULL OR due_date < $9)
    AND ($10 IS NULL OR due_date >= $10)
    AND ($11 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $11)
    AND ($12 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($12::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($13 IS NULL OR metadata @> $13) AS matches,
        row_number() OVER (ORDER BY due_date DESC, id DESC) = $4 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $1
          AND due_date IS NULL AND (id, user_id) < ($2, $3)
        ORDER BY due_date DESC, id DESC
        LIMIT $4
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date DESC, id DESC
LIMIT $5;

-- list_todos_by_priority(after integer, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_priority_rank_idx
SELECT /* list_todos_by_priority */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY priority_rank ASC, id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND ((CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END), id, user_id) > ($1, $3, $4)
        ORDER BY priority_rank ASC, id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY priority_rank ASC, id ASC
LIMIT $6;

-- list_todos_by_priority_desc(after integer, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_priority_rank_idx
SELECT /* list_todos_by_priority_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY priority_rank DESC, id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND ((CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END), id, user_id) < ($1, $3, $4)
        ORDER BY priority_rank DESC, id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY priority_rank DESC, id DESC
LIMIT $6;

-- list_todos_by_number(after bigint, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_number_key
SELECT /* list_todos_by_number */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY number ASC, id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND (number, id, user_id) > ($1, $3, $4)
        ORDER BY number ASC, id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY number ASC, id ASC
LIMIT $6;

-- list_todos_by_number_desc(after bigint, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_user_id_number_key
SELECT /* list_todos_by_number_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY number DESC, id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE user_id = $2
          AND (number, id, user_id) < ($1, $3, $4)
        ORDER BY number DESC, id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY number DESC, id DESC
LIMIT $6;

-- list_assigned_todos_by_created_at(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_created_at */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY created_at ASC, id ASC, user_id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND (created_at, id, user_id) > ($1, $3, $4)
        ORDER BY created_at ASC, id ASC, user_id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY created_at ASC, id ASC, user_id ASC
LIMIT $6;

-- list_assigned_todos_by_created_at_desc(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_created_at_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY created_at DESC, id DESC, user_id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND (created_at, id, user_id) < ($1, $3, $4)
        ORDER BY created_at DESC, id DESC, user_id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY created_at DESC, id DESC, user_id DESC
LIMIT $6;

-- list_assigned_todos_by_updated_at(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_updated_at */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY updated_hour ASC, updated_at ASC, id ASC, user_id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND updated_hour >= date_bin('1 hour', $1, 'epoch') AND (updated_at, id, user_id) > ($1, $3, $4)
        ORDER BY updated_hour ASC, updated_at ASC, id ASC, user_id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY updated_hour ASC, updated_at ASC, id ASC, user_id ASC
LIMIT $6;

-- list_assigned_todos_by_updated_at_desc(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_updated_at_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY updated_hour DESC, updated_at DESC, id DESC, user_id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND updated_hour <= date_bin('1 hour', $1, 'epoch') AND (updated_at, id, user_id) < ($1, $3, $4)
        ORDER BY updated_hour DESC, updated_at DESC, id DESC, user_id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY updated_hour DESC, updated_at DESC, id DESC, user_id DESC
LIMIT $6;

-- list_assigned_todos_by_due_date(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_due_date */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY due_date ASC, id ASC, user_id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND (due_date, id, user_id) > ($1, $3, $4)
        ORDER BY due_date ASC, id ASC, user_id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date ASC, id ASC, user_id ASC
LIMIT $6;

-- list_assigned_todos_by_due_date_desc(after timestamptz, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_due_date_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY due_date DESC, id DESC, user_id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND (due_date, id, user_id) < ($1, $3, $4)
        ORDER BY due_date DESC, id DESC, user_id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date DESC, id DESC, user_id DESC
LIMIT $6;

-- list_assigned_todos_by_no_due_date(user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_no_due_date */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($6 IS NULL OR status = ANY ($6))
    AND ($7 IS NULL OR completed = $7)
    AND ($8 IS NULL OR priority = ANY ($8))
    AND ($9 IS NULL OR due_date < $9)
    AND ($10 IS NULL OR due_date >= $10)
    AND ($11 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $11)
    AND ($12 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($12::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($13 IS NULL OR metadata @> $13) AS matches,
        row_number() OVER (ORDER BY due_date ASC, id ASC, user_id ASC) = $4 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $1
          AND due_date IS NULL AND (id, user_id) > ($2, $3)
        ORDER BY due_date ASC, id ASC, user_id ASC
        LIMIT $4
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date ASC, id ASC, user_id ASC
LIMIT $5;

-- list_assigned_todos_by_no_due_date_desc(user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_no_due_date_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($6 IS NULL OR status = ANY ($6))
    AND ($7 IS NULL OR completed = $7)
    AND ($8 IS NULL OR priority = ANY ($8))
    AND ($9 IS NULL OR due_date < $9)
    AND ($10 IS NULL OR due_date >= $10)
    AND ($11 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $11)
    AND ($12 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($12::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($13 IS NULL OR metadata @> $13) AS matches,
        row_number() OVER (ORDER BY due_date DESC, id DESC, user_id DESC) = $4 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $1
          AND due_date IS NULL AND (id, user_id) < ($2, $3)
        ORDER BY due_date DESC, id DESC, user_id DESC
        LIMIT $4
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY due_date DESC, id DESC, user_id DESC
LIMIT $5;

-- list_assigned_todos_by_priority(after integer, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_priority */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY priority_rank ASC, id ASC, user_id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND ((CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END), id, user_id) > ($1, $3, $4)
        ORDER BY priority_rank ASC, id ASC, user_id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY priority_rank ASC, id ASC, user_id ASC
LIMIT $6;

-- list_assigned_todos_by_priority_desc(after integer, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_priority_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY priority_rank DESC, id DESC, user_id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND ((CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END), id, user_id) < ($1, $3, $4)
        ORDER BY priority_rank DESC, id DESC, user_id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY priority_rank DESC, id DESC, user_id DESC
LIMIT $6;

-- list_assigned_todos_by_number(after bigint, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_number */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY number ASC, id ASC, user_id ASC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND (number, id, user_id) > ($1, $3, $4)
        ORDER BY number ASC, id ASC, user_id ASC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY number ASC, id ASC, user_id ASC
LIMIT $6;

-- list_assigned_todos_by_number_desc(after bigint, user_id uuid, after_id uuid, after_user uuid, looked_at integer, row_limit integer, status text[], completed boolean, priority text[], due_before timestamptz, due_after timestamptz, overdue boolean, words text[], contains jsonb) -> some Todo
-- todos.sql, index todos_assigned_to_idx
SELECT /* list_assigned_todos_by_number_desc */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, matches, is_last
FROM (
    SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, priority_rank, ($7 IS NULL OR status = ANY ($7))
    AND ($8 IS NULL OR completed = $8)
    AND ($9 IS NULL OR priority = ANY ($9))
    AND ($10 IS NULL OR due_date < $10)
    AND ($11 IS NULL OR due_date >= $11)
    AND ($12 IS NULL
        OR (due_date IS NOT NULL AND due_date < now() AND status IN ('pending', 'in_progress')) = $12)
    AND ($13 IS NULL OR NOT EXISTS (
        SELECT
        -- OFFSET: once for all words. A final sigma counts as any other: see words_of().
        FROM (SELECT replace(lower(concat_ws(' ', title, description)), U&'\03C2', U&'\03C3') AS text OFFSET 0) AS t
        JOIN unnest($13::text[]) AS w (word) ON strpos(t.text, lower(w.word)) = 0
    ))
    AND ($14 IS NULL OR metadata @> $14) AS matches,
        row_number() OVER (ORDER BY number DESC, id DESC, user_id DESC) = $5 AS is_last
    FROM (
        SELECT id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at, updated_hour, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END) AS priority_rank
        FROM todos
        WHERE assigned_to = $2
          AND (number, id, user_id) < ($1, $3, $4)
        ORDER BY number DESC, id DESC, user_id DESC
        LIMIT $5
    ) AS todos
) AS todos
WHERE matches OR is_last
ORDER BY number DESC, id DESC, user_id DESC
LIMIT $6;

-- find_todo(user_id uuid, id uuid, number bigint) -> maybe UUID
-- todos.sql, index todos_pkey
SELECT /* find_todo */ t.id
FROM todos AS t
WHERE t.user_id = $1
  AND t.id = CASE
      WHEN $2 IS NULL THEN (SELECT n.id FROM todos AS n WHERE n.user_id = $1 AND n.number = $3)
      ELSE $2
  END;

-- list_conversation_todos(user_id uuid, conversation_id uuid, after_id uuid, row_limit integer) -> many Todo
-- todos.sql, index todo_conversation_links_conversation_id_idx
SELECT /* list_conversation_todos */ id, number, user_id, title, description, status, completed, priority, due_date, assigned_to,
    completed_at, metadata, version, created_at, updated_at
FROM todos
WHERE user_id = $1
  AND id IN (
    SELECT l.todo_id
    FROM todo_conversation_links AS l
    WHERE l.user_id = $1
      AND l.conversation_id = $2
      AND l.todo_id > $3
    GROUP BY l.todo_id
    ORDER BY l.todo_id
    LIMIT $4
  )
ORDER BY id;

-- get_me(user_id uuid) -> one User
-- users.sql, index users_pkey
SELECT /* get_me */ id, email, username, full_name, is_active, version, created_at, updated_at
FROM users
WHERE id = $1;

-- update_me(user_id uuid, set_username boolean, username text, set_full_name boolean, full_name text, is_active boolean, version integer) -> maybe User
-- users.sql, index users_pkey
UPDATE /* update_me */ users
SET username = CASE WHEN $2 THEN $3 ELSE username END,
    full_name = CASE WHEN $4 THEN $5 ELSE full_name END,
    is_active = coalesce($6, is_active)
WHERE id = $1
  AND ($7 IS NULL OR version = $7)
RETURNING id, email, username, full_name, is_active, version, created_at, updated_at;

-- lock_account(user_id uuid) -> maybe UUID
-- users.sql, index users_pkey
SELECT /* lock_account */ id
FROM users
WHERE id = $1
FOR NO KEY UPDATE;

-- wait_longer() -> none
-- users.sql, index none
SET /* wait_longer */ LOCAL lock_timeout = '30s';

-- erase_me(user_id uuid, version integer, records boolean) -> one bool
-- users.sql, index users_pkey
SELECT /* erase_me */ erase_user($1, $2, $3);

-- unassign_todos(user_id uuid, version integer, most integer, only_open boolean) -> one int
-- users.sql, index none
SELECT /* unassign_todos */ unassign_todos($1, $2, $3, $4);

-- list_users(username text) -> many PublicUser
-- users.sql, index users_username_key
SELECT /* list_users */ id, username, full_name
FROM find_user_by_username($1);
