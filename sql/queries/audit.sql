-- The audit trail: what was changed, by whom, from what to what. Newest first. The change feed is in changes.sql.

-- name: list_audit
-- Entries with an id below before_id that match the filters, out of the next so many (looked_at) at most. since_id and
-- until_id bound the ids, which hold the time of the change to a millisecond; since and until bound the time itself.
-- param user_id: uuid
-- param table: text
-- param action: text
-- param since: timestamptz
-- param until: timestamptz
-- param since_id: uuid
-- param until_id: uuid
-- param before_id: uuid
-- param looked_at: integer
-- param row_limit: integer
-- returns: many Entry
-- index: audit_log_pkey
SELECT
    f.id, f.user_id, f.actor_id, f.action, f.table_name AS "table", f.row_id,
    audit_changes(f.user_id, f.commit_order, f.id, f.action, f.table_name, f.row_id, f.before) AS changes,
    f.request_id, f.at
FROM (
    SELECT l.id, l.user_id, l.actor_id, l.action, l.table_name, l.row_id, l.commit_order, l.before, l.request_id, l.at
    FROM (
        SELECT
            a.id, a.user_id, a.actor_id, a.action, a.table_name, a.row_id, a.commit_order, a.before, a.request_id, a.at
        FROM audit_log AS a
        WHERE a.user_id = %(user_id)s
          AND a.id < %(before_id)s
          AND a.id >= %(since_id)s
          AND a.id <= %(until_id)s
        ORDER BY a.id DESC
        LIMIT %(looked_at)s
    ) AS l
    WHERE (%(table)s IS NULL OR l.table_name = %(table)s)
      AND (%(action)s IS NULL OR l.action = %(action)s)
      AND (%(since)s IS NULL OR l.at >= %(since)s)
      AND (%(until)s IS NULL OR l.at < %(until)s)
    ORDER BY l.id DESC
    LIMIT %(row_limit)s
) AS f
ORDER BY f.id DESC;

-- name: find_audit_bound
-- The last of the entries that list_audit looked at, if there were so many.
-- param user_id: uuid
-- param since_id: uuid
-- param until_id: uuid
-- param before_id: uuid
-- param looked_at: integer
-- returns: maybe UUID
-- index: audit_log_pkey
SELECT a.id
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.id < %(before_id)s
  AND a.id >= %(since_id)s
  AND a.id <= %(until_id)s
ORDER BY a.id DESC
OFFSET %(looked_at)s - 1
LIMIT 1;

-- name: list_audit_of_row
-- The same for the entries of one row, from the one before before_id (without it, the last) back. That one is looked
-- for by >= and ORDER BY, which only audit_log_pkey can serve: by = alone another index may be read through instead.
-- param user_id: uuid
-- param row_id: uuid
-- param table: text
-- param action: text
-- param since: timestamptz
-- param until: timestamptz
-- param before_id: uuid
-- param looked_at: integer
-- param row_limit: integer
-- returns: many Entry
-- index: audit_log_user_id_row_id_idx
SELECT
    f.id, f.user_id, f.actor_id, f.action, f.table_name AS "table", f.row_id,
    audit_changes(f.user_id, f.commit_order, f.id, f.action, f.table_name, f.row_id, f.before) AS changes,
    f.request_id, f.at
FROM (
    SELECT l.id, l.user_id, l.actor_id, l.action, l.table_name, l.row_id, l.commit_order, l.before, l.request_id, l.at
    FROM (
        SELECT
            a.id, a.user_id, a.actor_id, a.action, a.table_name, a.row_id, a.commit_order, a.before, a.request_id, a.at
        FROM audit_log AS a
        WHERE a.user_id = %(user_id)s
          AND a.row_id = %(row_id)s
          AND (a.commit_order, a.id) < (
              (
                  SELECT CASE
                      WHEN %(before_id)s = 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid THEN 9223372036854775807
                      ELSE (
                          SELECT CASE WHEN s.id = %(before_id)s THEN s.commit_order END
                          FROM (
                              SELECT b.id, b.commit_order
                              FROM audit_log AS b
                              WHERE b.user_id = %(user_id)s
                                AND b.id >= %(before_id)s
                              ORDER BY b.id
                              LIMIT 1
                          ) AS s
                      )
                  END
              ),
              %(before_id)s
          )
        ORDER BY a.commit_order DESC, a.id DESC
        LIMIT %(looked_at)s
    ) AS l
    WHERE (%(table)s IS NULL OR l.table_name = %(table)s)
      AND (%(action)s IS NULL OR l.action = %(action)s)
      AND (%(since)s IS NULL OR l.at >= %(since)s)
      AND (%(until)s IS NULL OR l.at < %(until)s)
    ORDER BY l.commit_order DESC, l.id DESC
    LIMIT %(row_limit)s
) AS f
ORDER BY f.commit_order DESC, f.id DESC;

-- name: find_audit_bound_of_row
-- The last of the entries that list_audit_of_row looked at, if there were so many.
-- param user_id: uuid
-- param row_id: uuid
-- param before_id: uuid
-- param looked_at: integer
-- returns: maybe UUID
-- index: audit_log_user_id_row_id_idx
SELECT a.id
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.row_id = %(row_id)s
  AND (a.commit_order, a.id) < (
      (
          SELECT CASE
              WHEN %(before_id)s = 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid THEN 9223372036854775807
              ELSE (
                  SELECT CASE WHEN s.id = %(before_id)s THEN s.commit_order END
                  FROM (
                      SELECT b.id, b.commit_order
                      FROM audit_log AS b
                      WHERE b.user_id = %(user_id)s
                        AND b.id >= %(before_id)s
                      ORDER BY b.id
                      LIMIT 1
                  ) AS s
              )
          END
      ),
      %(before_id)s
  )
ORDER BY a.commit_order DESC, a.id DESC
OFFSET %(looked_at)s - 1
LIMIT 1;
