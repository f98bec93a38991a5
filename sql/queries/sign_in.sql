-- Sign-in with local accounts. Users other than the caller are out of row security's sight: three narrow functions,
-- which the schema's owner defines, answer what sign-in has to know of them.

-- name: authenticate
-- The check at the head of every transaction: raises TC401 or TC402 unless the account is active and the token current,
-- by its version, or, of an outside issuer, by when it was issued (its iat). A function would cost half as much again.
-- param user_id: uuid
-- param token_version: integer
-- param issued_at: bigint
-- returns: none
-- index: users_pkey
SELECT refuse_token(u.is_active)
FROM (SELECT) AS one
LEFT JOIN users AS u ON u.id = %(user_id)s
WHERE (
    u.is_active
    AND (u.token_version = %(token_version)s OR u.tokens_valid_from <= to_timestamp(%(issued_at)s::bigint))
) IS NOT TRUE;

-- name: create_user
-- param user_id: uuid
-- param email: text
-- param username: text
-- param full_name: text
-- param password_hash: text
-- returns: one User
-- index: users_pkey
INSERT INTO users (id, email, username, full_name, password_hash)
VALUES (%(user_id)s, %(email)s, %(username)s, %(full_name)s, %(password_hash)s)
RETURNING id, email, username, full_name, is_active, version, created_at, updated_at;

-- name: find_account
-- Whose account has that address, whatever the case of its letters.
-- param email: text
-- returns: maybe UUID
-- index: users_email_key
SELECT f.id
FROM find_credentials(%(email)s) AS f;

-- name: find_credentials
-- param email: text
-- returns: maybe Credentials
-- index: users_email_key
SELECT id, password_hash, is_active, token_version
FROM find_credentials(%(email)s);

-- name: get_own_credentials
-- param user_id: uuid
-- returns: one OwnCredentials
-- index: users_pkey
SELECT email, password_hash
FROM users
WHERE id = %(user_id)s;

-- name: take_sign_in_attempt
-- Count one attempt before the password is looked at: seconds to wait, or 0 to go on.
-- param account: bytea
-- param networks: bytea[]
-- returns: one float
-- index: sign_in_attempts_pkey
-- writes: yes
SELECT take_sign_in_attempt(%(account)s, %(networks)s);

-- name: forgive_sign_in_attempt
-- The password was right: what its attempt counted is taken back.
-- param account: bytea
-- param networks: bytea[]
-- returns: none
-- index: sign_in_attempts_pkey
-- writes: yes
SELECT forgive_sign_in_attempt(%(account)s, %(networks)s);

-- name: set_password
-- Tokens issued before carry the old token_version and stop working.
-- param user_id: uuid
-- param password_hash: text
-- returns: none
-- index: users_pkey
UPDATE users
SET password_hash = %(password_hash)s,
    token_version = token_version + 1
WHERE id = %(user_id)s;

-- name: revoke_tokens
-- param user_id: uuid
-- returns: none
-- index: users_pkey
UPDATE users
SET token_version = token_version + 1
WHERE id = %(user_id)s;

-- name: resolve_identity
-- Whose the outside account is; with `creates` its user is made at the first call, under `user_id`, a new id.
-- param user_id: uuid
-- param issuer: text
-- param subject: text
-- param issued_at: bigint
-- param email: text
-- param full_name: text
-- param creates: boolean
-- returns: maybe UUID
-- index: identities_issuer_subject_key
-- writes: yes
SELECT r.id
FROM resolve_identity(
    %(user_id)s, %(issuer)s, %(subject)s, %(issued_at)s, %(email)s, %(full_name)s, %(creates)s
) AS r (id)
WHERE r.id IS NOT NULL;
