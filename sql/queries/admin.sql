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

-- name: update_account
-- Activate or deactivate an account; a trigger refuses the latter while open todos are assigned to it.
-- param user_id: uuid
-- param is_active: boolean
-- returns: count
-- index: users_pkey
UPDATE users AS u
SET is_active = %(is_active)s
WHERE u.id = %(user_id)s;
