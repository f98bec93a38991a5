-- Make the functions through which the service signs people in and looks at its caller.
-- Why: other users are out of row security's sight. Each function shows a few columns only.
-- Locks: identities, against writes, for a moment (trigger).
-- Rollback loses: nothing.
-- depends: 0008_create_audit_log
SET LOCAL ROLE todochat_owner;
-- What the check at the head of each transaction (the queries authenticate and authenticate_key) calls when it fails.
CREATE FUNCTION public.refuse_token(is_active boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF NOT is_active THEN
        RAISE EXCEPTION 'the account is not active' USING ERRCODE = 'TC402';
    END IF;
    RAISE EXCEPTION 'the token is not valid any more' USING ERRCODE = 'TC401';
END
$body$;
COMMENT ON FUNCTION public.refuse_token(boolean) IS
    'Raises TC402 for an account that is not active, else TC401: the token was revoked, or there is no such user.';

CREATE FUNCTION public.refuse_key(expires_at timestamptz, is_active boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF is_active IS NULL THEN
        RAISE EXCEPTION 'there is no such key' USING ERRCODE = 'TC401';
    ELSIF expires_at <= now() THEN
        RAISE EXCEPTION 'the key has expired' USING ERRCODE = 'TC404';
    ELSIF NOT is_active THEN
        RAISE EXCEPTION 'the account is not active' USING ERRCODE = 'TC402';
    END IF;
    RAISE EXCEPTION 'the key may not do this' USING ERRCODE = 'TC405';
END
$body$;
COMMENT ON FUNCTION public.refuse_key(timestamptz, boolean) IS
    'Raises TC401 where the user has no such key (nulls), TC404 when it has expired, TC402 when the user is not active, '
    'else TC405: its scope is too narrow.';

CREATE FUNCTION public.find_credentials(email text)
RETURNS TABLE (id uuid, password_hash text, is_active boolean, token_version integer)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT u.id, u.password_hash, u.is_active, u.token_version
    FROM public.users AS u
    WHERE lower(u.email COLLATE "C") = lower(find_credentials.email COLLATE "C")
$body$;
COMMENT ON FUNCTION public.find_credentials(text) IS
    'What sign-in needs of the account with this address, regardless of case: no row or one.';

CREATE FUNCTION public.find_user_by_username(username text)
RETURNS TABLE (id uuid, username text, full_name text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT u.id, u.username, u.full_name
    FROM public.users AS u
    WHERE lower(u.username COLLATE "C") = lower(find_user_by_username.username COLLATE "C") AND u.is_active
$body$;
COMMENT ON FUNCTION public.find_user_by_username(text) IS
    'The active user of exactly this name, regardless of case, to assign a todo to: no row or one.';

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
    'Keeps a token from before from making the user anew.';

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
    ended := coalesce(ended, 'epoch');  -- tokens from before the deletion stay worthless
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
    'The user of an outside account. Where there is none and creates is true, makes one: user_id, of the '
    'transaction, with the e-mail address if valid and free. Raises TC401 when the token (issued_at, seconds since '
    '1970) is older than a deletion.';

CREATE FUNCTION public.sign_in_limits(account bytea, networks bytea[])
RETURNS TABLE (key bytea, kind text, step interval, burst integer, ceiling integer)
LANGUAGE sql IMMUTABLE ROWS 7
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT account, 'account', interval '30 seconds', 20, 120
    UNION ALL
    SELECT l.key, l.kind, l.step, l.burst, l.burst
    FROM unnest(networks) AS n (network)
    CROSS JOIN LATERAL (VALUES
        (n.network, 'network', interval '3 seconds', 50),
        (sha256(account || n.network), 'guesses', interval '30 seconds', 10),
        (sha256(n.network || account), 'guesses under attack', interval '15 minutes', 3)
    ) AS l (key, kind, step, burst)
$body$;
COMMENT ON FUNCTION public.sign_in_limits(bytea, bytea[]) IS
    'What an attempt to sign in to an account from these networks counts on: burst at once, then one in a step; at '
    'most ceiling are remembered. The account''s own limit refuses nobody: past it, "guesses under attack" holds.';

CREATE FUNCTION public.sign_in_wait(account bytea, networks bytea[]) RETURNS interval
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH used AS (
        SELECT l.kind, l.step, l.burst, a.allowed_at - clock_timestamp() AS used
        FROM public.sign_in_limits(account, networks) AS l
        INNER JOIN public.sign_in_attempts AS a USING (key)
    )
    SELECT max(u.used + u.step - u.step * u.burst)
    FROM used AS u
    WHERE u.kind IN ('network', 'guesses')
        OR (
            u.kind = 'guesses under attack'
            AND EXISTS (SELECT FROM used AS o WHERE o.kind = 'account' AND o.used > o.step * o.burst)
        )
$body$;
COMMENT ON FUNCTION public.sign_in_wait(bytea, bytea[]) IS
    'How long it is until the next attempt may be made: null, negative or 0 for now. The generic cell rate algorithm '
    '(ITU-T I.371).';

CREATE FUNCTION public.take_sign_in_attempt(account bytea, networks bytea[]) RETURNS double precision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    moment timestamptz;
    wait interval;
BEGIN
    -- Once without a lock, so that refusing writes nothing, and once with the rows locked (by DO UPDATE, in the order of
    -- keys, so that no two wait for each other), so that attempts made at once are all counted.
    wait := public.sign_in_wait(account, networks);
    IF wait > interval '0' THEN
        RETURN extract(epoch FROM wait);
    END IF;
    INSERT INTO public.sign_in_attempts AS a (key, allowed_at)
    SELECT l.key, clock_timestamp()
    FROM public.sign_in_limits(account, networks) AS l
    ORDER BY l.key
    ON CONFLICT (key) DO UPDATE SET allowed_at = a.allowed_at;
    wait := public.sign_in_wait(account, networks);
    IF wait > interval '0' THEN
        RETURN extract(epoch FROM wait);
    END IF;
    moment := clock_timestamp();
    UPDATE public.sign_in_attempts AS a
    SET allowed_at = least(greatest(a.allowed_at, moment) + l.step, moment + l.step * l.ceiling)
    FROM public.sign_in_limits(account, networks) AS l
    WHERE a.key = l.key;
    -- A handful at a time, and behind all waiting, so that tidying up makes nobody wait.
    DELETE FROM public.sign_in_attempts AS a
    WHERE a.key IN (
        SELECT spent.key
        FROM public.sign_in_attempts AS spent
        WHERE spent.allowed_at < now() - interval '1 minute'
        ORDER BY spent.allowed_at
        LIMIT 16
        FOR UPDATE SKIP LOCKED
    );
    RETURN 0;
END
$body$;
COMMENT ON FUNCTION public.take_sign_in_attempt(bytea, bytea[]) IS
    'Counts an attempt to sign in to an account from these networks: 0 when it may go on, else the seconds to wait, '
    'and it is not counted. Call it in a transaction of its own, before the password is looked at: parallel guesses '
    'count.';

CREATE FUNCTION public.forgive_sign_in_attempt(account bytea, networks bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- Rows are locked in the order of keys here, too.
    WITH locked AS (
        SELECT a.key
        FROM public.sign_in_attempts AS a
        WHERE a.key IN (SELECT l.key FROM public.sign_in_limits(account, networks) AS l)
        ORDER BY a.key
        FOR UPDATE
    )
    UPDATE public.sign_in_attempts AS a
    SET allowed_at = CASE WHEN l.kind IN ('account', 'network') THEN a.allowed_at - l.step ELSE 'epoch' END
    FROM locked
    INNER JOIN public.sign_in_limits(account, networks) AS l USING (key)
    WHERE a.key = locked.key;
END
$body$;
COMMENT ON FUNCTION public.forgive_sign_in_attempt(bytea, bytea[]) IS
    'After a sign-in that succeeded: forgets the guesses of these networks at the account, and takes back what the '
    'attempt itself counted.';

GRANT EXECUTE ON FUNCTION
    public.refuse_token(boolean), public.refuse_key(timestamptz, boolean),
    public.find_credentials(text), public.find_user_by_username(text),
    public.resolve_identity(uuid, text, text, bigint, text, text, boolean),
    public.take_sign_in_attempt(bytea, bytea[]), public.forgive_sign_in_attempt(bytea, bytea[])
TO todochat_app;
