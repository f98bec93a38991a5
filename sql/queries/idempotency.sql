-- Answers kept under the client's Idempotency-Key, in the transaction of their effect.

-- name: forget_idempotency_key
-- A key older than a day is free again. (Said so that the index on created_at, which knows the keys of all users, can't
-- be taken for it.)
-- param user_id: uuid
-- param key: text
-- returns: none
-- index: idempotency_keys_pkey
DELETE FROM idempotency_keys
WHERE user_id = %(user_id)s
  AND key = %(key)s
  AND created_at + INTERVAL '24 hours' < now();

-- name: claim_idempotency_key
-- Fails on the key's index when it is in use: at once when the answer is there, behind the first request's lock when
-- that still runs.
-- param user_id: uuid
-- param key: text
-- param operation: text
-- param request_hash: bytea
-- returns: none
-- index: idempotency_keys_pkey
INSERT INTO idempotency_keys (user_id, key, operation, request_hash)
VALUES (%(user_id)s, %(key)s, %(operation)s, %(request_hash)s);

-- name: keep_answer
-- param user_id: uuid
-- param key: text
-- param status: smallint
-- param headers: jsonb
-- param body: bytea
-- returns: none
-- index: idempotency_keys_pkey
UPDATE idempotency_keys
SET status = %(status)s,
    headers = %(headers)s,
    body = %(body)s
WHERE user_id = %(user_id)s
  AND key = %(key)s;

-- name: get_kept_answer
-- There is a status once the answer is there.
-- param user_id: uuid
-- param key: text
-- returns: maybe KeptAnswer
-- index: idempotency_keys_pkey
SELECT operation, request_hash, status, headers, body
FROM idempotency_keys
WHERE user_id = %(user_id)s
  AND key = %(key)s
  AND status IS NOT NULL;
