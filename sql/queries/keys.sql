-- Keys of agents and scripts. A key's text is known to nobody but whoever made it.

-- name: authenticate_key
-- The check at the head of every transaction of a key: raises TC401, TC402, TC404 or TC405 unless it may do this.
-- param user_id: uuid
-- param digest: bytea
-- param scope: text
-- returns: none
-- index: api_keys_digest_key
SELECT refuse_key(k.expires_at, u.is_active)
FROM (SELECT) AS one
LEFT JOIN api_keys AS k ON k.user_id = %(user_id)s AND k.digest = %(digest)s
LEFT JOIN users AS u ON u.id = %(user_id)s AND k.id IS NOT NULL
WHERE (
    u.is_active
    AND (k.scope = %(scope)s OR %(scope)s = 'read')
    AND coalesce(k.expires_at > now(), TRUE)
) IS NOT TRUE;

-- name: touch_key
-- Notes the hour. While another transaction does, this one goes on without.
-- param user_id: uuid
-- param digest: bytea
-- param hour: timestamptz
-- returns: none
-- index: api_keys_digest_key
UPDATE api_keys
SET last_used_at = %(hour)s
WHERE user_id = %(user_id)s
  AND id IN (
      SELECT k.id
      FROM api_keys AS k
      WHERE k.user_id = %(user_id)s
        AND k.digest = %(digest)s
        AND coalesce(k.last_used_at, '-infinity') < %(hour)s
      FOR UPDATE SKIP LOCKED
  );

-- name: create_key
-- Behind lock_account, so that two keys that are made at once find different slots. There is no slot 21:
-- api_keys_slot_check refuses it.
-- param user_id: uuid
-- param name: text
-- param scope: text
-- param digest: bytea
-- param expires_at: timestamptz
-- returns: one Key
-- index: api_keys_slot_key
INSERT INTO api_keys (user_id, slot, name, scope, digest, expires_at)
VALUES (
    %(user_id)s,
    (
        SELECT coalesce(min(s.slot), 21)
        FROM generate_series(1, 20) AS s (slot)
        WHERE NOT EXISTS (SELECT FROM api_keys AS k WHERE k.user_id = %(user_id)s AND k.slot = s.slot)
    ),
    %(name)s, %(scope)s, %(digest)s, %(expires_at)s
)
RETURNING id, name, scope, expires_at, last_used_at, created_at;

-- name: list_keys
-- Newest first; there are 20 at most.
-- param user_id: uuid
-- param before_id: uuid
-- param limit: integer
-- returns: many Key
-- index: api_keys_pkey
SELECT id, name, scope, expires_at, last_used_at, created_at
FROM api_keys
WHERE user_id = %(user_id)s
  AND id < %(before_id)s
ORDER BY id DESC
LIMIT %(limit)s;

-- name: get_key
-- param user_id: uuid
-- param id: uuid
-- returns: maybe Key
-- index: api_keys_pkey
SELECT id, name, scope, expires_at, last_used_at, created_at
FROM api_keys
WHERE user_id = %(user_id)s
  AND id = %(id)s;

-- name: delete_key
-- param user_id: uuid
-- param id: uuid
-- returns: maybe UUID
-- index: api_keys_pkey
DELETE FROM api_keys
WHERE user_id = %(user_id)s
  AND id = %(id)s
RETURNING id;
