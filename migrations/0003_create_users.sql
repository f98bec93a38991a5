-- Make the users table, the triggers that keep it and the functions through which the service signs people in.
--
-- What: users with its row security, refuse_change(), and authenticate(), find_credentials(),
--   find_user_by_username().
-- Why: everything else belongs to a user. Row security is enabled but not forced here: users has no
--   user_id, and the functions that must see other people's rows (sign-in by email, a name to assign a
--   todo to, whether an assignee is active) run as the owner, each showing a few columns only.
-- Code: runs before the first release.
-- Locks: nothing that exists.
-- Rollback loses: all users.
-- depends: 0002_create_functions

SET LOCAL ROLE todochat_owner;

CREATE TABLE public.users (
    id uuid NOT NULL DEFAULT public.uuid7(),
    email text NOT NULL,
    email_key text COLLATE "C" GENERATED ALWAYS AS (lower(email COLLATE "C")) STORED,
    username text,
    username_key text COLLATE "C" GENERATED ALWAYS AS (lower(username COLLATE "C")) STORED,
    full_name text,
    password_hash text,
    is_active boolean NOT NULL DEFAULT true,
    token_version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email_key UNIQUE (email_key),
    CONSTRAINT users_username_key UNIQUE (username_key),
    -- The form browsers accept (HTML, "valid e-mail address"): ASCII only, so lower() has one answer.
    CONSTRAINT users_email_check CHECK (
        char_length(email) <= 255
        AND email COLLATE "C" ~ ('^[a-zA-Z0-9.!#$%&''*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?'
            || '(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$')
    ),
    CONSTRAINT users_username_check CHECK (username COLLATE "C" ~ '^[A-Za-z0-9_-]{3,50}$'),
    CONSTRAINT users_full_name_check CHECK (char_length(full_name) <= 200),
    CONSTRAINT users_password_hash_check CHECK (char_length(password_hash) BETWEEN 1 AND 255),
    CONSTRAINT users_token_version_check CHECK (token_version >= 1),
    CONSTRAINT users_times_check CHECK (
        created_at >= '1970-01-01T00:00:00Z' AND updated_at >= created_at AND updated_at < '10000-01-01T00:00:00Z'
    ),
    CONSTRAINT users_version_check CHECK (version >= 1)
);

COMMENT ON TABLE public.users IS
    'People who can sign in. The only table without user_id: its id is everybody else''s user_id.';
COMMENT ON COLUMN public.users.id IS 'UUID version 7.';
COMMENT ON COLUMN public.users.email IS 'As it was typed; at most 255 ASCII characters.';
COMMENT ON COLUMN public.users.email_key IS 'email in lower case: unique, and what sign-in looks up.';
COMMENT ON COLUMN public.users.username IS 'As it was typed: 3 to 50 of A-Z a-z 0-9 _ -, or null.';
COMMENT ON COLUMN public.users.username_key IS 'username in lower case: unique, and what a search by name looks up.';
COMMENT ON COLUMN public.users.full_name IS 'At most 200 characters, or null.';
COMMENT ON COLUMN public.users.password_hash IS
    'argon2id, encoded; null for who signs in through an outside issuer. Never leaves the service.';
COMMENT ON COLUMN public.users.is_active IS 'False: no token works and nobody can assign them a todo.';
COMMENT ON COLUMN public.users.token_version IS
    'Tokens carry it; raising it makes every token issued before worthless.';
COMMENT ON COLUMN public.users.created_at IS 'When the account was made; never changes.';
COMMENT ON COLUMN public.users.updated_at IS 'When the row last really changed, by trigger.';
COMMENT ON COLUMN public.users.version IS '1, and one more with every real change, by trigger; the ETag.';

COMMENT ON CONSTRAINT users_email_check ON public.users IS
    'Valid e-mail address of the HTML standard, at most 255 characters.';
COMMENT ON INDEX public.users_pkey IS
    'Serves authenticate(), every read of one''s own account and the foreign keys to users.';
COMMENT ON INDEX public.users_email_key IS 'Serves find_credentials() and keeps addresses unique regardless of case.';
COMMENT ON INDEX public.users_username_key IS
    'Serves find_user_by_username() and keeps names unique regardless of case.';

GRANT
    SELECT,
    INSERT (id, email, username, full_name, password_hash),
    UPDATE (username, full_name, password_hash, is_active, token_version),
    DELETE
ON public.users TO todochat_app;

ALTER TABLE public.users ENABLE ROW LEVEL SECURITY;

CREATE POLICY users_self ON public.users TO todochat_app
USING (id = nullif(current_setting('app.user_id', true), '')::uuid);

COMMENT ON POLICY users_self ON public.users IS
    'The service reads and writes the account of the user a transaction is for, and no other.';

-- Fires only where a statement assigns one of the columns it names: the hot path never pays for it.
CREATE FUNCTION public.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RAISE EXCEPTION '% of % never change', TG_ARGV[1], TG_ARGV[0]
        USING ERRCODE = 'check_violation', TABLE = TG_ARGV[0], CONSTRAINT = TG_ARGV[0] || '_immutable_check';
END
$body$;

COMMENT ON FUNCTION public.refuse_change() IS
    'Trigger: refuses to change the columns that never change. Arguments: the table, the columns.';

CREATE FUNCTION public.users_before_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF (NEW.email, NEW.username, NEW.full_name, NEW.password_hash, NEW.is_active, NEW.token_version)
        IS NOT DISTINCT FROM
        (OLD.email, OLD.username, OLD.full_name, OLD.password_hash, OLD.is_active, OLD.token_version)
    THEN
        NEW.updated_at := OLD.updated_at;
        NEW.version := OLD.version;
        RETURN NEW;
    END IF;

    IF NEW.token_version < OLD.token_version THEN
        RAISE EXCEPTION 'token_version never goes back: tokens that were taken away would work again'
            USING ERRCODE = 'check_violation', TABLE = 'users', COLUMN = 'token_version',
                CONSTRAINT = 'users_token_version_check';
    END IF;
    IF OLD.is_active AND NOT NEW.is_active AND NEW.token_version = OLD.token_version THEN
        -- Else tokens from before would work again after a reactivation.
        NEW.token_version := OLD.token_version + 1;
    END IF;

    -- The time after the row was locked: the time the transaction began may lie before the last change.
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at);
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.users_before_update() IS
    'Trigger: moves updated_at and version on a real change, and token_version on deactivation.';

REVOKE ALL ON FUNCTION public.refuse_change(), public.users_before_update() FROM PUBLIC;

CREATE TRIGGER users_before_update BEFORE UPDATE ON public.users
FOR EACH ROW EXECUTE FUNCTION public.users_before_update();

COMMENT ON TRIGGER users_before_update ON public.users IS 'Moves updated_at and version.';

CREATE TRIGGER users_immutable BEFORE UPDATE OF id, created_at ON public.users
FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id OR OLD.created_at IS DISTINCT FROM NEW.created_at)
EXECUTE FUNCTION public.refuse_change('users', 'id and created_at');

COMMENT ON TRIGGER users_immutable ON public.users IS 'Refuses to change id and created_at.';

-- Runs with the rights of its caller: row security lets everybody see their own row, which is all it needs.
CREATE FUNCTION public.authenticate(user_id uuid, token_version integer) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $body$
DECLARE
    found_active boolean;
    found_version integer;
BEGIN
    SELECT u.is_active, u.token_version INTO found_active, found_version
    FROM public.users AS u
    WHERE u.id = authenticate.user_id;

    IF found_active AND found_version = authenticate.token_version THEN
        RETURN;
    ELSIF NOT found_active THEN
        RAISE EXCEPTION 'the account is not active' USING ERRCODE = 'TC402';
    ELSE
        RAISE EXCEPTION 'the token is not valid any more' USING ERRCODE = 'TC401';
    END IF;
END
$body$;

COMMENT ON FUNCTION public.authenticate(uuid, integer) IS
    'Raises TC401 when there is no such user or the token is of another version, TC402 when the user is not active. '
    'The second statement of every transaction of the service.';

CREATE FUNCTION public.find_credentials(email text)
RETURNS TABLE (id uuid, password_hash text, is_active boolean, token_version integer)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT u.id, u.password_hash, u.is_active, u.token_version
    FROM public.users AS u
    WHERE u.email_key = lower(find_credentials.email COLLATE "C");
END;

COMMENT ON FUNCTION public.find_credentials(text) IS
    'What sign-in needs of the account with this address, regardless of case: no row or one.';

CREATE FUNCTION public.find_user_by_username(username text)
RETURNS TABLE (id uuid, username text, full_name text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT u.id, u.username, u.full_name
    FROM public.users AS u
    WHERE u.username_key = lower(find_user_by_username.username COLLATE "C") AND u.is_active;
END;

COMMENT ON FUNCTION public.find_user_by_username(text) IS
    'The active user of exactly this name, regardless of case, to assign a todo to: no row or one.';

REVOKE ALL ON FUNCTION
    public.authenticate(uuid, integer), public.find_credentials(text), public.find_user_by_username(text)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    public.authenticate(uuid, integer), public.find_credentials(text), public.find_user_by_username(text)
TO todochat_app;
