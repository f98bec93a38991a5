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

-- name: find_account
-- The account with that address, whatever the case of its letters.
-- param email: text
-- returns: maybe UUID
-- index: users_email_key
SELECT f.id
FROM find_credentials(%(email)s) AS f;

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

-- name: lock_account
-- Until the transaction ends, nobody can assign a todo to the account.
-- param user_id: uuid
-- returns: maybe UUID
-- writes: yes
-- index: users_pkey
SELECT u.id
FROM users AS u
WHERE u.id = %(user_id)s
FOR NO KEY UPDATE;

-- name: count_assigned
-- How many open todos are assigned to the account, whoever's they are; no row where there are none.
-- param user_id: uuid
-- returns: maybe int
-- index: todos_assigned_to_idx
SELECT count(*)
FROM todos AS t
WHERE t.assigned_to = %(user_id)s
  AND t.status IN ('pending', 'in_progress')
HAVING count(*) > 0;

-- name: erase_account
-- What erase_me is to the service: nobody's version matters here.
-- param user_id: uuid
-- returns: one bool
-- writes: yes
-- index: users_pkey
SELECT erase_user(%(user_id)s, NULL);

-- name: find_prunable_user
-- The next user behind `user_id` with audit entries whose id, and so whose time, is below older_than.
-- param user_id: uuid
-- param older_than: uuid
-- returns: maybe UUID
-- index: audit_log_pkey
SELECT f.user_id
FROM find_prunable_user(%(user_id)s, %(older_than)s) AS f (user_id);

-- name: count_prunable_entries
-- param user_id: uuid
-- param older_than: uuid
-- returns: one int
-- index: audit_log_pkey
SELECT count_prunable_entries(%(user_id)s, %(older_than)s);

-- name: prune_audit_log
-- Removes at most a batch of the user's audit entries, oldest first, and says how many.
-- param user_id: uuid
-- param older_than: uuid
-- param batch: integer
-- returns: one int
-- writes: yes
-- index: audit_log_pkey
SELECT prune_audit_log(%(user_id)s, %(older_than)s, %(batch)s);

-- name: count_prunable_keys
-- returns: one int
-- index: idempotency_keys_created_at_idx
SELECT count_prunable_keys();

-- name: prune_idempotency_keys
-- Removes at most a batch of the keys that are older than 24 hours, of whoever, oldest first, and says how many.
-- param batch: integer
-- returns: one int
-- writes: yes
-- index: idempotency_keys_created_at_idx
SELECT prune_idempotency_keys(%(batch)s);

-- name: rebase_audit_log
-- After a dump was restored into another cluster: brings the trail into the order of the transactions of this one.
-- returns: one int
-- writes: yes
-- index: none
SELECT rebase_audit_log();
