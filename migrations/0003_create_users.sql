-- Make users, identities, ended_identities and sign_in_attempts: who signs in, and how.
-- Why: everything else belongs to a user. Row security is enabled but not forced on users: it has no user_id, and the
--   functions that must see other people's rows (sign-in by email, a name to assign a todo to, whether an assignee is
--   active) run as the owner, each showing a few columns only.
-- Locks: nothing that was there before.
-- Rollback loses: all accounts.
-- depends: 0002_create_types
SET LOCAL ROLE todochat_owner;
CREATE TABLE public.users (
    id uuid NOT NULL DEFAULT public.uuid7(),
    email text,
    username text,
    full_name text,
    password_hash text,
    is_active boolean NOT NULL DEFAULT true,
    token_version public.ordinal NOT NULL DEFAULT 1,
    tokens_valid_from timestamptz NOT NULL DEFAULT 'epoch',
    created_at public.moment NOT NULL DEFAULT now(),
    updated_at public.moment NOT NULL DEFAULT now(),
    version public.ordinal NOT NULL DEFAULT 1,
    CONSTRAINT users_pkey PRIMARY KEY (id),
    -- The form browsers accept (HTML, "valid e-mail address"): ASCII only, so lower() has one answer.
    CONSTRAINT users_email_check CHECK (
        char_length(email) <= 255
        AND email COLLATE "C" ~ ('^[a-zA-Z0-9.!#$%&''*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?'
            || '(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$')
    ),
    CONSTRAINT users_username_check CHECK (username COLLATE "C" ~ '^[A-Za-z0-9_-]{3,50}$'),
    CONSTRAINT users_full_name_check CHECK (char_length(full_name) <= 200),
    CONSTRAINT users_password_hash_check CHECK (char_length(password_hash) BETWEEN 1 AND 255),
    CONSTRAINT users_times_check CHECK (updated_at >= created_at)
);
CREATE UNIQUE INDEX users_email_key ON public.users (lower(email COLLATE "C"));
CREATE UNIQUE INDEX users_username_key ON public.users (lower(username COLLATE "C"));
COMMENT ON TABLE public.users IS
    'People who can sign in. The only table of theirs without user_id: its id is everybody else''s user_id.';
COMMENT ON COLUMN public.users.email IS
    'As it was typed; at most 255 ASCII characters. Null for who came from an outside issuer without one, or with a '
    'taken one.';
COMMENT ON COLUMN public.users.username IS 'As it was typed: 3 to 50 of A-Z a-z 0-9 _ -, or null.';
COMMENT ON COLUMN public.users.full_name IS 'At most 200 characters, or null.';
COMMENT ON COLUMN public.users.password_hash IS
    'argon2id, encoded; null for who signs in through an outside issuer. Never leaves the service.';
COMMENT ON COLUMN public.users.is_active IS 'False: no token works and nobody can assign them a todo.';
COMMENT ON COLUMN public.users.token_version IS
    'Tokens carry it; raising it makes every token issued before worthless. Never goes back.';
COMMENT ON COLUMN public.users.tokens_valid_from IS
    'When token_version last moved, by trigger: tokens of outside issuers from before are worthless. After a '
    'deletion, resolve_identity() sets it.';
COMMENT ON INDEX public.users_pkey IS 'Serves the check of who asks, one''s own account and the foreign keys to users.';
COMMENT ON INDEX public.users_email_key IS 'Serves find_credentials(); keeps addresses unique regardless of case.';
COMMENT ON INDEX public.users_username_key IS 'Serves find_user_by_username(); keeps names unique regardless of case.';

-- Accounts end by erase_user() alone, which sees to what other tables hold of them.
GRANT
    SELECT,
    INSERT (id, email, username, full_name, password_hash),
    UPDATE (username, full_name, password_hash, is_active, token_version)
ON public.users TO todochat_app;
ALTER TABLE public.users ENABLE ROW LEVEL SECURITY;
CREATE POLICY users_self ON public.users TO todochat_app
USING (id = nullif(current_setting('app.user_id', true), '')::uuid);
COMMENT ON POLICY users_self ON public.users IS
    'The service reads and writes the account of the user a transaction is for, and no other.';

CREATE TRIGGER users_touch BEFORE UPDATE ON public.users
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION public.touch();
COMMENT ON TRIGGER users_touch ON public.users IS 'Any column counts as a real change.';

CREATE TABLE public.identities (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    issuer text NOT NULL,
    subject text NOT NULL,
    created_at public.moment NOT NULL DEFAULT now(),
    updated_at public.moment NOT NULL DEFAULT now(),
    version public.ordinal NOT NULL DEFAULT 1,
    CONSTRAINT identities_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT identities_issuer_subject_key UNIQUE (issuer, subject),
    CONSTRAINT identities_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT identities_issuer_check CHECK (char_length(issuer) BETWEEN 1 AND 255),
    CONSTRAINT identities_subject_check CHECK (char_length(subject) BETWEEN 1 AND 255),
    CONSTRAINT identities_times_check CHECK (updated_at >= created_at)
);
COMMENT ON TABLE public.identities IS 'Accounts at outside issuers through which a user signs in.';
COMMENT ON COLUMN public.identities.user_id IS 'Whose account it is; goes with the user.';
COMMENT ON COLUMN public.identities.issuer IS 'The iss of its tokens, at most 255 characters.';
COMMENT ON COLUMN public.identities.subject IS 'The sub of its tokens: any text of at most 255 characters.';
COMMENT ON INDEX public.identities_pkey IS 'Serves the list of one user''s outside accounts and the cascade from users.';
COMMENT ON INDEX public.identities_issuer_subject_key IS
    'Serves the sign-in by an outside token. Across users on purpose: an outside account is one person''s.';
GRANT SELECT, INSERT, DELETE ON public.identities TO todochat_app;
CREATE POLICY identities_resolve ON public.identities FOR SELECT TO todochat_owner
USING (true);
COMMENT ON POLICY identities_resolve ON public.identities IS
    'resolve_identity(), which runs as the owner, finds whose an outside account is.';

CREATE TRIGGER identities_touch BEFORE UPDATE ON public.identities
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION public.touch();
COMMENT ON TRIGGER identities_touch ON public.identities IS 'Any column counts as a real change.';

CREATE TABLE public.api_keys (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    slot smallint NOT NULL,
    name text NOT NULL,
    scope text NOT NULL,
    digest bytea NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    created_at public.moment NOT NULL DEFAULT now(),
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
COMMENT ON COLUMN public.api_keys.slot IS
    '1 to 20, unique for the user: which is how no user has more than 20 keys, however many are made at once.';
COMMENT ON COLUMN public.api_keys.name IS 'What its user calls it: 1 to 100 characters.';
COMMENT ON COLUMN public.api_keys.scope IS 'read: it only reads. write: it may do all that a key may.';
COMMENT ON COLUMN public.api_keys.digest IS 'SHA-256 of the key, of which 256 bits are random.';
COMMENT ON COLUMN public.api_keys.expires_at IS 'It works until then; null: until it is deleted.';
COMMENT ON COLUMN public.api_keys.last_used_at IS 'The hour in which it was last used; null: never.';
COMMENT ON INDEX public.api_keys_pkey IS 'Serves the list of a user''s keys and the cascade from users.';
COMMENT ON INDEX public.api_keys_digest_key IS 'Serves the check of a key and the note of its use.';
COMMENT ON INDEX public.api_keys_slot_key IS 'Serves the insert: it looks for a free slot.';
GRANT
    SELECT,
    INSERT (user_id, id, slot, name, scope, digest, expires_at),
    UPDATE (last_used_at),
    DELETE
ON public.api_keys TO todochat_app;

CREATE TABLE public.ended_identities (
    digest bytea NOT NULL,
    ended_at timestamptz NOT NULL,
    CONSTRAINT ended_identities_pkey PRIMARY KEY (digest),
    CONSTRAINT ended_identities_digest_check CHECK (octet_length(digest) = 32)
);
CREATE INDEX ended_identities_ended_at_idx ON public.ended_identities (ended_at);
COMMENT ON TABLE public.ended_identities IS
    'Outside accounts whose user was deleted, as long as a token from before may live (31 days): it must not make '
    'the user anew. No role but the owner can touch it.';
COMMENT ON COLUMN public.ended_identities.digest IS 'SHA-256 of issuer and subject, never the names.';
COMMENT ON COLUMN public.ended_identities.ended_at IS 'Tokens issued before are worthless.';
COMMENT ON INDEX public.ended_identities_pkey IS 'Serves resolve_identity().';
COMMENT ON INDEX public.ended_identities_ended_at_idx IS 'Serves the removal of spent rows in resolve_identity().';
ALTER TABLE public.ended_identities ENABLE ROW LEVEL SECURITY;

CREATE TABLE public.sign_in_attempts (
    key bytea NOT NULL,
    allowed_at timestamptz NOT NULL,
    CONSTRAINT sign_in_attempts_pkey PRIMARY KEY (key),
    CONSTRAINT sign_in_attempts_key_check CHECK (octet_length(key) BETWEEN 1 AND 64)
);
CREATE INDEX sign_in_attempts_allowed_at_idx ON public.sign_in_attempts (allowed_at);
COMMENT ON TABLE public.sign_in_attempts IS
    'How far sign-in attempts have used up their allowance, for each account, network or pair of both seen lately. '
    'No role but the owner can touch it.';
COMMENT ON COLUMN public.sign_in_attempts.key IS 'A digest of names, never the names: see sign_in_limits().';
COMMENT ON COLUMN public.sign_in_attempts.allowed_at IS
    'When the allowance will be whole again; one attempt moves it on by one step. In the past: as if there were no row.';
COMMENT ON INDEX public.sign_in_attempts_pkey IS 'Serves take_sign_in_attempt() and forgive_sign_in_attempt().';
COMMENT ON INDEX public.sign_in_attempts_allowed_at_idx IS 'Serves removing spent rows in take_sign_in_attempt().';
ALTER TABLE public.sign_in_attempts ENABLE ROW LEVEL SECURITY;
