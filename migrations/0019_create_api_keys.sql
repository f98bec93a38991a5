-- Make the keys with which agents and scripts call the service.
--
-- What: api_keys with its row security, and authenticate_key().
-- Why: a token of a sign-in lives for minutes; an agent needs one that lasts, that may do less, and that its
--   user takes away by itself.
-- Code: runs before the release that knows keys.
-- Locks: users, against writes, for a moment (the foreign key).
-- Rollback loses: all keys; whoever calls with one has to sign in.
-- depends: 0018_count_sign_in_failures

SET LOCAL ROLE todochat_owner;

CREATE TABLE public.api_keys (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    slot smallint NOT NULL,
    name text NOT NULL,
    scope text NOT NULL,
    digest bytea NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT api_keys_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT api_keys_digest_key UNIQUE (user_id, digest),
    CONSTRAINT api_keys_slot_key UNIQUE (user_id, slot),
    CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT api_keys_slot_check CHECK (slot BETWEEN 1 AND 20),
    CONSTRAINT api_keys_name_check CHECK (char_length(name) BETWEEN 1 AND 100),
    CONSTRAINT api_keys_scope_check CHECK (scope IN ('read', 'write')),
    CONSTRAINT api_keys_digest_check CHECK (octet_length(digest) = 32)
);

COMMENT ON TABLE public.api_keys IS
    'Bearer tokens for agents and scripts. The text of a key is shown once, to whoever makes it; here is its digest.';
COMMENT ON COLUMN public.api_keys.user_id IS 'Whom the key acts for; goes with the user.';
COMMENT ON COLUMN public.api_keys.id IS 'UUID version 7.';
COMMENT ON COLUMN public.api_keys.slot IS
    '1 to 20, unique for the user: which is how no user has more than 20 keys, however many are made at once.';
COMMENT ON COLUMN public.api_keys.name IS 'What its user calls it: 1 to 100 characters.';
COMMENT ON COLUMN public.api_keys.scope IS 'read: it only reads. write: it may do all that a key may.';
COMMENT ON COLUMN public.api_keys.digest IS 'SHA-256 of the key, of which 256 bits are random.';
COMMENT ON COLUMN public.api_keys.expires_at IS 'It works until then; null: until it is deleted.';
COMMENT ON COLUMN public.api_keys.last_used_at IS 'The hour in which it was last used; null: never.';
COMMENT ON COLUMN public.api_keys.created_at IS 'When it was made; never changes.';
COMMENT ON INDEX public.api_keys_pkey IS 'Serves the list of a user''s keys and the cascade from users.';
COMMENT ON INDEX public.api_keys_digest_key IS 'Serves authenticate_key() and the note of a use.';
COMMENT ON INDEX public.api_keys_slot_key IS 'Serves the insert: it looks for a free slot.';

GRANT
    SELECT,
    INSERT (user_id, id, slot, name, scope, digest, expires_at),
    UPDATE (last_used_at),
    DELETE
ON public.api_keys TO todochat_app;

ALTER TABLE public.api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.api_keys FORCE ROW LEVEL SECURITY;

CREATE POLICY api_keys_owner ON public.api_keys
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

COMMENT ON POLICY api_keys_owner ON public.api_keys IS 'A transaction sees and writes rows of the user it is for.';

-- Runs with the rights of its caller, like authenticate(): the key says whose it is, and row security shows that
-- user's keys.
CREATE FUNCTION public.authenticate_key(user_id uuid, digest bytea, scope text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $body$
DECLARE
    found_scope text;
    found_end timestamptz;
    found_active boolean;
BEGIN
    SELECT k.scope, k.expires_at, u.is_active INTO found_scope, found_end, found_active
    FROM public.api_keys AS k
    JOIN public.users AS u ON u.id = k.user_id
    WHERE k.user_id = authenticate_key.user_id AND k.digest = authenticate_key.digest AND u.id = authenticate_key.user_id;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such key' USING ERRCODE = 'TC401';
    ELSIF found_end <= now() THEN
        RAISE EXCEPTION 'the key has expired' USING ERRCODE = 'TC404';
    ELSIF NOT found_active THEN
        RAISE EXCEPTION 'the account is not active' USING ERRCODE = 'TC402';
    ELSIF authenticate_key.scope <> 'read' AND found_scope <> authenticate_key.scope THEN
        RAISE EXCEPTION 'the key may not do this' USING ERRCODE = 'TC405';
    END IF;
END
$body$;

COMMENT ON FUNCTION public.authenticate_key(uuid, bytea, text) IS
    'authenticate() for a key: raises TC401 when the user has no such key, TC404 when it has expired, TC402 when the '
    'user is not active, TC405 when its scope is not the one needed (read, which every key has; write; or another, '
    'which none has).';

REVOKE ALL ON FUNCTION public.authenticate_key(uuid, bytea, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.authenticate_key(uuid, bytea, text) TO todochat_app;
