-- Make users of outside issuers possible: made at their first call, and their tokens revocable.
--
-- What: users.email may be null; users.tokens_valid_from with its trigger, left out of the audit;
--   authenticate_issued(), resolve_identity(), ended_identities with its trigger, and a policy for the
--   second function.
-- Why: who signs in at an outside issuer may have no address. Its tokens carry no token_version, so what
--   revokes them is a time. A token that was issued before its user was erased must not make them anew.
-- Code: runs before the release that knows outside issuers. The release before it makes no user without
--   an address and sees none until then.
-- Locks: users and identities, against everything, for a moment (catalogue only, no rewrite).
-- Rollback loses: the times of revocation and erasure. It is refused while users without an address exist.
-- depends: 0015_create_erasure_and_retention

SET LOCAL ROLE todochat_owner;

-- squawk-ignore ban-drop-not-null -- the release before meets a null only once this release has made one
ALTER TABLE public.users ALTER COLUMN email DROP NOT NULL;
ALTER TABLE public.users ADD COLUMN tokens_valid_from timestamptz NOT NULL DEFAULT 'epoch';

COMMENT ON COLUMN public.users.email IS
    'As it was typed; at most 255 ASCII characters. Null for who came from an outside issuer without one, or with one '
    'that was taken.';
COMMENT ON COLUMN public.users.tokens_valid_from IS
    'When token_version last moved: tokens of outside issuers from before then are worthless. Set by trigger, and for '
    'who comes back after a deletion by resolve_identity().';

CREATE FUNCTION public.users_token_version() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    NEW.tokens_valid_from := greatest(clock_timestamp(), OLD.tokens_valid_from);
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.users_token_version() IS 'Trigger: notes when token_version moved.';

-- Triggers fire in the order of their names: users_before_update has moved token_version on a deactivation by then.
CREATE TRIGGER users_token_version BEFORE UPDATE ON public.users
FOR EACH ROW WHEN (OLD.token_version IS DISTINCT FROM NEW.token_version)
EXECUTE FUNCTION public.users_token_version();

COMMENT ON TRIGGER users_token_version ON public.users IS 'Notes when token_version moved.';

-- As it was, but that tokens_valid_from, like password_hash, stays out of the trail: token_version tells it all.
CREATE OR REPLACE FUNCTION public.audit_users() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    old_values jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN
        old_values := to_jsonb(OLD) - '{password_hash,email_key,username_key,tokens_valid_from}'::text[];
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.version = OLD.version THEN
            RETURN NULL;
        END IF;
        old_values := jsonb_build_object('updated_at', OLD.updated_at, 'version', OLD.version);
        IF NEW.email IS DISTINCT FROM OLD.email THEN
            old_values := old_values || jsonb_build_object('email', OLD.email);
        END IF;
        IF NEW.username IS DISTINCT FROM OLD.username THEN
            old_values := old_values || jsonb_build_object('username', OLD.username);
        END IF;
        IF NEW.full_name IS DISTINCT FROM OLD.full_name THEN
            old_values := old_values || jsonb_build_object('full_name', OLD.full_name);
        END IF;
        IF NEW.is_active IS DISTINCT FROM OLD.is_active THEN
            old_values := old_values || jsonb_build_object('is_active', OLD.is_active);
        END IF;
        IF NEW.token_version IS DISTINCT FROM OLD.token_version THEN
            old_values := old_values || jsonb_build_object('token_version', OLD.token_version);
        END IF;
    END IF;
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        coalesce(NEW.id, OLD.id), nullif(current_setting('app.user_id', true), '')::uuid, lower(TG_OP), TG_ARGV[0],
        coalesce(NEW.id, OLD.id), old_values, nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

-- Runs with the rights of its caller, like authenticate().
CREATE FUNCTION public.authenticate_issued(user_id uuid, issued_at bigint) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $body$
DECLARE
    found_active boolean;
    found_from timestamptz;
BEGIN
    SELECT u.is_active, u.tokens_valid_from INTO found_active, found_from
    FROM public.users AS u
    WHERE u.id = authenticate_issued.user_id;

    IF found_active AND to_timestamp(authenticate_issued.issued_at) >= found_from THEN
        RETURN;
    ELSIF NOT found_active THEN
        RAISE EXCEPTION 'the account is not active' USING ERRCODE = 'TC402';
    ELSE
        RAISE EXCEPTION 'the token is not valid any more' USING ERRCODE = 'TC401';
    END IF;
END
$body$;

COMMENT ON FUNCTION public.authenticate_issued(uuid, bigint) IS
    'authenticate() for a token of an outside issuer: raises TC401 when there is no such user or their tokens of that '
    'time (seconds since 1970) were revoked, TC402 when the user is not active.';

CREATE TABLE public.ended_identities (
    digest bytea NOT NULL,
    ended_at timestamptz NOT NULL,
    CONSTRAINT ended_identities_pkey PRIMARY KEY (digest),
    CONSTRAINT ended_identities_digest_check CHECK (octet_length(digest) = 32)
);

COMMENT ON TABLE public.ended_identities IS
    'Outside accounts whose user was deleted, for as long as a token from before may live (31 days): such a token must '
    'not make the user anew. Belongs to no user; no role but the owner can touch it.';
COMMENT ON COLUMN public.ended_identities.digest IS 'SHA-256 of issuer and subject, never the names.';
COMMENT ON COLUMN public.ended_identities.ended_at IS 'Tokens issued before are worthless.';
COMMENT ON INDEX public.ended_identities_pkey IS 'Serves resolve_identity().';

CREATE INDEX ended_identities_ended_at_idx ON public.ended_identities (ended_at);

COMMENT ON INDEX public.ended_identities_ended_at_idx IS 'Serves the removal of spent rows in resolve_identity().';

ALTER TABLE public.ended_identities ENABLE ROW LEVEL SECURITY;

-- The length keeps apart what would read the same in one piece.
CREATE FUNCTION public.identity_digest(issuer text, subject text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(convert_to(length(issuer)::text || ':' || issuer || subject, 'UTF8'));

COMMENT ON FUNCTION public.identity_digest(text, text) IS 'What ended_identities knows an outside account by.';

CREATE FUNCTION public.identities_after_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO public.ended_identities AS e (digest, ended_at)
    VALUES (public.identity_digest(OLD.issuer, OLD.subject), clock_timestamp())
    ON CONFLICT (digest) DO UPDATE SET ended_at = greatest(e.ended_at, excluded.ended_at);
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.identities_after_delete() IS 'Trigger: notes in ended_identities that the account ended.';

CREATE TRIGGER identities_after_delete AFTER DELETE ON public.identities
FOR EACH ROW EXECUTE FUNCTION public.identities_after_delete();

COMMENT ON TRIGGER identities_after_delete ON public.identities IS
    'Keeps a token from before the deletion from making the user anew.';

CREATE POLICY identities_resolve ON public.identities FOR SELECT TO todochat_owner
USING (true);

COMMENT ON POLICY identities_resolve ON public.identities IS
    'resolve_identity(), which runs as the owner, finds whose an outside account is.';

CREATE FUNCTION public.resolve_identity(
    user_id uuid, issuer text, subject text, issued_at bigint, email text, full_name text, creates boolean
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    found_id uuid;
    ended timestamptz;
    account constant bytea := public.identity_digest(resolve_identity.issuer, resolve_identity.subject);
BEGIN
    SELECT i.user_id INTO found_id
    FROM public.identities AS i
    WHERE i.issuer = resolve_identity.issuer AND i.subject = resolve_identity.subject;
    IF FOUND OR NOT creates THEN
        RETURN found_id;
    END IF;

    -- First calls of one account queue here; a statement behind the lock sees what the one before has committed.
    PERFORM pg_advisory_xact_lock(('x' || encode(substr(account, 1, 8), 'hex'))::bit(64)::bigint);
    SELECT i.user_id INTO found_id
    FROM public.identities AS i
    WHERE i.issuer = resolve_identity.issuer AND i.subject = resolve_identity.subject;
    IF FOUND THEN
        RETURN found_id;
    END IF;

    SELECT e.ended_at INTO ended
    FROM public.ended_identities AS e
    WHERE e.digest = account;
    IF ended > to_timestamp(resolve_identity.issued_at) THEN
        RAISE EXCEPTION 'the token was issued before its user was deleted' USING ERRCODE = 'TC401';
    END IF;
    -- SKIP LOCKED, and a handful at a time: tidying up never makes a sign-in wait.
    DELETE FROM public.ended_identities AS e
    WHERE e.digest IN (
        SELECT spent.digest
        FROM public.ended_identities AS spent
        WHERE spent.ended_at < now() - interval '31 days'
        ORDER BY spent.ended_at
        LIMIT 4
        FOR UPDATE SKIP LOCKED
    );

    -- Tokens from before the deletion stay worthless, now that there is a user again.
    ended := coalesce(ended, 'epoch');
    BEGIN
        INSERT INTO public.users (id, email, full_name, tokens_valid_from)
        VALUES (resolve_identity.user_id, resolve_identity.email, resolve_identity.full_name, ended);
    EXCEPTION WHEN unique_violation OR check_violation THEN
        -- The address is another user's, or none by our rules. It proves nothing: nobody is linked by it.
        INSERT INTO public.users (id, full_name, tokens_valid_from)
        VALUES (resolve_identity.user_id, resolve_identity.full_name, ended);
    END;
    INSERT INTO public.identities (user_id, issuer, subject)
    VALUES (resolve_identity.user_id, resolve_identity.issuer, resolve_identity.subject);
    RETURN resolve_identity.user_id;
END
$body$;

COMMENT ON FUNCTION public.resolve_identity(uuid, text, text, bigint, text, text, boolean) IS
    'The user of an outside account. Where there is none and creates is true, makes one under user_id, which must be '
    'the user the transaction is for, with the e-mail address if it is valid and free; else null. Raises TC401 when '
    'the token (issued_at, seconds since 1970) is older than the deletion of the account''s user.';

REVOKE ALL ON FUNCTION
    public.users_token_version(),
    public.authenticate_issued(uuid, bigint),
    public.identity_digest(text, text),
    public.identities_after_delete(),
    public.resolve_identity(uuid, text, text, bigint, text, text, boolean)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    public.authenticate_issued(uuid, bigint),
    public.resolve_identity(uuid, text, text, bigint, text, text, boolean)
TO todochat_app;
