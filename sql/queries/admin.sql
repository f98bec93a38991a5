-- What the operator's commands run, as the owner of the tables: row security on users is not forced on its owner.

-- name: list_accounts
-- A page of all accounts, oldest first. `user_id` is the last one of the page before (all zeros for the first page).
-- param user_id: uuid
-- param limit: integer
-- returns: many Account
-- index: users_pkey
SELECT u.id, u.email, u.username, u.is_active, u.created_at
FROM users AS u
WHERE u.id > %(user_id)s
ORDER BY u.id
LIMIT %(limit)s;

-- name: find_account_by_id
-- Whether there is such an account; who came from an outside issuer may have no address.
-- param user_id: uuid
-- returns: maybe UUID
-- index: users_pkey
SELECT u.id
FROM users AS u
WHERE u.id = %(user_id)s;

-- name: update_account
-- Activate or deactivate an account. A trigger takes a deactivated one off every open todo, whoever's it is.
-- param user_id: uuid
-- param is_active: boolean
-- returns: count
-- index: users_pkey
UPDATE users AS u
SET is_active = %(is_active)s
WHERE u.id = %(user_id)s;

-- name: count_assigned
-- How many open todos are assigned to the account, whoever's they are.
-- param user_id: uuid
-- returns: one int
-- index: todos_assigned_to_idx
SELECT count(*)
FROM todos AS t
WHERE t.assigned_to = %(user_id)s
  AND t.status IN ('pending', 'in_progress');

-- name: erase_account
-- What erase_me is to the service: nobody's version matters here.
-- param user_id: uuid
-- returns: one bool
-- writes: yes
-- index: users_pkey
SELECT erase_user(%(user_id)s, NULL);

-- Retention. Every call is one small batch, to be committed before the next. Of a trail always the oldest entries go,
-- whose times never go back; its user's last entry stays, without its content, so that the next one counts on from it.

-- name: find_prunable_user
-- The next user behind `user_id` with something to prune: from the oldest entry of one user to that of the next, a step
-- for each user, however many entries they have.
-- param user_id: uuid
-- param older_than: timestamptz
-- returns: maybe UUID
-- index: audit_log_pkey
WITH RECURSIVE oldest AS (
    (
        SELECT a.user_id, a.seq, a.at, a.before IS NOT NULL OR a.request_id IS NOT NULL AS has_content
        FROM audit_log AS a
        WHERE a.user_id > %(user_id)s
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
WHERE o.at < %(older_than)s
  AND (
      o.has_content
      OR EXISTS (SELECT FROM audit_log AS n WHERE n.user_id = o.user_id AND n.seq > o.seq)
      OR (SELECT u.id FROM users AS u WHERE u.id = o.user_id) IS NULL
  )
LIMIT 1;

-- slot: last_kept
-- The number of a trail's last entry; above all where its user is gone.
coalesce(
      (
          SELECT l.seq
          FROM audit_log AS l
          WHERE l.user_id = %(user_id)s
            AND EXISTS (SELECT FROM users AS u WHERE u.id = %(user_id)s)
          ORDER BY l.seq DESC
          LIMIT 1
      ),
      9223372036854775807
  );

-- name: count_prunable_entries
-- param user_id: uuid
-- param older_than: timestamptz
-- returns: one int
-- index: audit_log_pkey
SELECT count(*)
FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.at < %(older_than)s
  AND a.seq < {last_kept};

-- name: prune_audit_log
-- Removes at most a batch of the user's audit entries, oldest first, and says how many. No more than a batch is looked at:
-- times never go back.
-- param user_id: uuid
-- param older_than: timestamptz
-- param batch: integer
-- returns: count
-- index: audit_log_pkey
DELETE FROM audit_log AS a
WHERE a.user_id = %(user_id)s
  AND a.seq IN (
    SELECT o.seq
    FROM (
        SELECT e.seq, e.at
        FROM audit_log AS e
        WHERE e.user_id = %(user_id)s
          AND e.seq < {last_kept}
        ORDER BY e.seq
        LIMIT %(batch)s
    ) AS o
    WHERE o.at < %(older_than)s
  );

-- name: blank_last_entry
-- Takes the content off the user's last entry, where that is past its age, too.
-- param user_id: uuid
-- param older_than: timestamptz
-- returns: count
-- index: audit_log_pkey
UPDATE audit_log AS a
SET before = NULL,
    request_id = NULL
WHERE a.user_id = %(user_id)s
  AND a.at < %(older_than)s
  AND a.seq = {last_kept}
  AND (a.before IS NOT NULL OR a.request_id IS NOT NULL);

-- name: count_prunable_keys
-- users: all
-- returns: one int
-- index: idempotency_keys_created_at_idx
SELECT count(*)
FROM idempotency_keys AS k
WHERE k.created_at < now() - INTERVAL '24 hours';

-- name: prune_idempotency_keys
-- users: all
-- Removes at most a batch of the keys that are older than 24 hours, of whoever, oldest first, and says how many. Passes
-- over what another transaction holds.
-- param batch: integer
-- returns: count
-- index: idempotency_keys_created_at_idx
DELETE FROM idempotency_keys AS k
USING (
    SELECT o.user_id, o.key
    FROM idempotency_keys AS o
    WHERE o.created_at < now() - INTERVAL '24 hours'
    ORDER BY o.created_at
    LIMIT %(batch)s
    FOR UPDATE SKIP LOCKED
) AS old
WHERE k.user_id = old.user_id
  AND k.key = old.key;

-- name: count_untouched_conversations
-- The user's conversations in which nothing happened since; as that user, since row security is forced on the owner.
-- param user_id: uuid
-- param untouched_since: timestamptz
-- returns: one int
-- index: conversations_user_id_updated_hour_idx
SELECT count(*)
FROM conversations
WHERE user_id = %(user_id)s
  AND updated_hour <= %(untouched_since)s
  AND updated_at < %(untouched_since)s;

-- name: prune_conversation
-- Deletes the one of them that was left alone longest, with its messages and links.
-- param user_id: uuid
-- param untouched_since: timestamptz
-- returns: count
-- index: conversations_user_id_updated_hour_idx
DELETE FROM conversations
WHERE user_id = %(user_id)s
  AND updated_at < %(untouched_since)s
  AND id = (
    SELECT o.id
    FROM conversations AS o
    WHERE o.user_id = %(user_id)s
      AND o.updated_hour <= %(untouched_since)s
      AND o.updated_at < %(untouched_since)s
    ORDER BY o.updated_hour
    LIMIT 1
    FOR UPDATE SKIP LOCKED
  );
