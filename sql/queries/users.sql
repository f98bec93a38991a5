-- name: get_me
-- param user_id: uuid
-- returns: one User
-- index: users_pkey
SELECT id, email, username, full_name, is_active, version, created_at, updated_at
FROM users
WHERE id = %(user_id)s;

-- name: update_me
-- Fields whose set_ flag is false stay. No row when the version asked for has passed.
-- param user_id: uuid
-- param set_username: boolean
-- param username: text
-- param set_full_name: boolean
-- param full_name: text
-- param is_active: boolean
-- param version: integer
-- returns: maybe User
-- index: users_pkey
UPDATE users
SET username = CASE WHEN %(set_username)s THEN %(username)s ELSE username END,
    full_name = CASE WHEN %(set_full_name)s THEN %(full_name)s ELSE full_name END,
    is_active = coalesce(%(is_active)s, is_active)
WHERE id = %(user_id)s
  AND (%(version)s IS NULL OR version = %(version)s)
RETURNING id, email, username, full_name, is_active, version, created_at, updated_at;

-- name: lock_account
-- Until the transaction ends, whoever else locks the account waits, as do those who assign a todo to it.
-- param user_id: uuid
-- returns: maybe UUID
-- writes: yes
-- index: users_pkey
SELECT id
FROM users
WHERE id = %(user_id)s
FOR NO KEY UPDATE;

-- name: wait_longer
-- To end an account, entries are written into the trails of all whose todos it was assigned: an import holds one of these
-- for as long as it writes its own.
-- returns: none
-- index: none
SET LOCAL lock_timeout = '30s';

-- name: erase_me
-- Removes the user, their audit trail, and everything they own; with records false, whoever owns a todo or conversation
-- is refused by its foreign key. False when the version asked for has passed. erase_user() is the only way to the trail,
-- and to what other people's rows hold of them.
-- param user_id: uuid
-- param version: integer
-- param records: boolean
-- returns: one bool
-- writes: yes
-- index: users_pkey
SELECT erase_user(%(user_id)s, %(version)s, %(records)s);

-- name: unassign_todos
-- Take the user off so many of other people's todos, if there are more, ahead of a deactivation (only_open) or erasure.
-- param user_id: uuid
-- param version: integer
-- param most: integer
-- param only_open: boolean
-- returns: one int
-- writes: yes
-- index: none
SELECT unassign_todos(%(user_id)s, %(version)s, %(most)s, %(only_open)s);

-- name: list_users
-- The one active user with this name, whatever its case. find_user_by_username gives away no more than these columns.
-- param username: text
-- returns: many PublicUser
-- index: users_username_key
SELECT id, username, full_name
FROM find_user_by_username(%(username)s);
