-- Count sign-in attempts for an account as a whole again. Nothing is lost: counts go on under the keys of before.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.forgive_sign_in_attempt(bytea, bytea[]);
DROP FUNCTION public.take_sign_in_attempt(bytea, bytea[]);
DROP FUNCTION public.sign_in_wait(bytea, bytea[]);
DROP FUNCTION public.sign_in_limits(bytea, bytea[]);

-- Both functions lock the address before the account, so that no two of them wait for each other.
CREATE FUNCTION public.take_sign_in_attempt(account bytea, address bytea) RETURNS double precision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    account_step constant interval := interval '30 seconds';
    account_burst constant integer := 10;
    address_step constant interval := interval '3 seconds';
    address_burst constant integer := 50;
    address_at timestamptz;
    account_at timestamptz;
    moment timestamptz;
    wait interval;
BEGIN
    -- SKIP LOCKED, and a handful at a time: tidying up never makes a sign-in wait.
    DELETE FROM public.sign_in_attempts AS a
    WHERE a.key IN (
        SELECT spent.key
        FROM public.sign_in_attempts AS spent
        WHERE spent.allowed_at < now() - interval '1 minute'
        ORDER BY spent.allowed_at
        LIMIT 4
        FOR UPDATE SKIP LOCKED
    );

    -- DO UPDATE rather than DO NOTHING, because it locks the row and returns it either way.
    INSERT INTO public.sign_in_attempts AS a (key, allowed_at)
    VALUES (take_sign_in_attempt.address, clock_timestamp())
    ON CONFLICT (key) DO UPDATE SET allowed_at = a.allowed_at
    RETURNING a.allowed_at INTO address_at;
    moment := clock_timestamp();
    address_at := greatest(address_at, moment) + address_step;
    wait := address_at - moment - address_step * address_burst;
    IF wait > interval '0' THEN
        RETURN extract(epoch FROM wait);
    END IF;

    INSERT INTO public.sign_in_attempts AS a (key, allowed_at)
    VALUES (take_sign_in_attempt.account, moment)
    ON CONFLICT (key) DO UPDATE SET allowed_at = a.allowed_at
    RETURNING a.allowed_at INTO account_at;
    moment := greatest(clock_timestamp(), moment);
    account_at := greatest(account_at, moment) + account_step;
    wait := account_at - moment - account_step * account_burst;
    IF wait > interval '0' THEN
        RETURN extract(epoch FROM wait);
    END IF;

    UPDATE public.sign_in_attempts AS a SET allowed_at = address_at WHERE a.key = take_sign_in_attempt.address;
    UPDATE public.sign_in_attempts AS a SET allowed_at = account_at WHERE a.key = take_sign_in_attempt.account;
    RETURN 0;
END
$body$;

COMMENT ON FUNCTION public.take_sign_in_attempt(bytea, bytea) IS
    'Counts an attempt to sign in to an account (10 at once, then one in 30 s) from an address (50 at once, then one '
    'in 3 s): 0 when it may go on, else the seconds to wait; a refused attempt is not counted. Call it in a '
    'transaction of its own, before the password is looked at, so that parallel guesses count too.';

CREATE FUNCTION public.forgive_sign_in_attempt(account bytea, address bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    UPDATE public.sign_in_attempts AS a
    SET allowed_at = a.allowed_at - interval '3 seconds'
    WHERE a.key = forgive_sign_in_attempt.address;
    DELETE FROM public.sign_in_attempts AS a
    WHERE a.key = forgive_sign_in_attempt.account;
END
$body$;

COMMENT ON FUNCTION public.forgive_sign_in_attempt(bytea, bytea) IS
    'After a sign-in that succeeded: forgets the attempts on the account and gives the address its step back.';

REVOKE ALL ON FUNCTION
    public.take_sign_in_attempt(bytea, bytea), public.forgive_sign_in_attempt(bytea, bytea)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    public.take_sign_in_attempt(bytea, bytea), public.forgive_sign_in_attempt(bytea, bytea)
TO todochat_app;
