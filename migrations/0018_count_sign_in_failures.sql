-- Count failed sign-ins for each account and network, so that nobody is locked out by somebody else.
--
-- What: take_sign_in_attempt() and forgive_sign_in_attempt() for an account and several networks instead
--   of one address; sign_in_limits() and sign_in_wait(), which both are made of.
-- Why: guesses from anywhere used up an account's one allowance, and its owner was refused with the right
--   password. Now a network is slowed by its own guesses alone. Guesses from many networks at one account
--   make each network's allowance for it smaller, but never take the first attempts of another away.
-- Code: runs together with the release that passes networks; under the one before nobody could sign in.
-- Locks: nothing but the functions.
-- Rollback loses: nothing; counts go on under other keys.
-- depends: 0017_unassign_on_deactivation

SET LOCAL ROLE todochat_owner;

-- squawk-ignore ban-drop-function -- no release that calls them is deployed
DROP FUNCTION public.forgive_sign_in_attempt(bytea, bytea);
-- squawk-ignore ban-drop-function -- the same
DROP FUNCTION public.take_sign_in_attempt(bytea, bytea);

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
    'What an attempt to sign in to an account from these networks counts on: burst attempts at once, then one in a '
    'step. The account''s own limit refuses nobody: past it the account is under attack, and then "guesses under '
    'attack" holds, too. No more than ceiling attempts are kept in mind.';

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
    -- Once without a lock, so that refusing writes nothing, and once with the rows locked, so that attempts made at
    -- once are all counted. DO UPDATE locks a row that is there; in the order of keys, so that no two wait for each
    -- other.
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
    'Counts an attempt to sign in to an account from these networks: 0 when it may go on, else the seconds to wait; a '
    'refused attempt is not counted. Call it in a transaction of its own, before the password is looked at, so that '
    'parallel guesses count too.';

CREATE FUNCTION public.forgive_sign_in_attempt(account bytea, networks bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- Only rows that were locked, in the order of keys, so that no two of these functions wait for each other.
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

REVOKE ALL ON FUNCTION
    public.sign_in_limits(bytea, bytea[]),
    public.sign_in_wait(bytea, bytea[]),
    public.take_sign_in_attempt(bytea, bytea[]),
    public.forgive_sign_in_attempt(bytea, bytea[])
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    public.take_sign_in_attempt(bytea, bytea[]), public.forgive_sign_in_attempt(bytea, bytea[])
TO todochat_app;
