-- Make the identities table: accounts at outside issuers, and whose they are.
--
-- What: identities with its row security.
-- Why: a token of an outside issuer names a subject; this says which user that is.
-- Code: runs before the first release.
-- Locks: users, against writes, for a moment (the foreign key).
-- Rollback loses: which outside account belongs to whom.
-- depends: 0004_create_sign_in_attempts

SET LOCAL ROLE todochat_owner;

CREATE TABLE public.identities (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    issuer text NOT NULL,
    subject text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    CONSTRAINT identities_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT identities_issuer_subject_key UNIQUE (issuer, subject),
    CONSTRAINT identities_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT identities_issuer_check CHECK (char_length(issuer) BETWEEN 1 AND 255),
    CONSTRAINT identities_subject_check CHECK (char_length(subject) BETWEEN 1 AND 255),
    CONSTRAINT identities_times_check CHECK (
        created_at >= '1970-01-01T00:00:00Z' AND updated_at >= created_at AND updated_at < '10000-01-01T00:00:00Z'
    ),
    CONSTRAINT identities_version_check CHECK (version >= 1)
);

COMMENT ON TABLE public.identities IS 'Accounts at outside issuers through which a user signs in.';
COMMENT ON COLUMN public.identities.user_id IS 'Whose account it is; goes with the user.';
COMMENT ON COLUMN public.identities.id IS 'UUID version 7.';
COMMENT ON COLUMN public.identities.issuer IS 'The iss of its tokens, at most 255 characters.';
COMMENT ON COLUMN public.identities.subject IS 'The sub of its tokens: any text of at most 255 characters.';
COMMENT ON COLUMN public.identities.created_at IS 'When it was linked; never changes.';
COMMENT ON COLUMN public.identities.updated_at IS 'When the row last really changed, by trigger.';
COMMENT ON COLUMN public.identities.version IS '1, and one more with every real change, by trigger.';
COMMENT ON INDEX public.identities_pkey IS
    'Serves the list of one user''s outside accounts and the cascade from users.';
COMMENT ON INDEX public.identities_issuer_subject_key IS
    'Serves the sign-in by an outside token. Across users on purpose: an outside account is one person''s.';

GRANT SELECT, INSERT, DELETE ON public.identities TO todochat_app;

ALTER TABLE public.identities ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.identities FORCE ROW LEVEL SECURITY;

CREATE POLICY identities_owner ON public.identities
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

COMMENT ON POLICY identities_owner ON public.identities IS 'A transaction sees and writes rows of the user it is for.';

CREATE FUNCTION public.identities_before_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF (NEW.issuer, NEW.subject) IS NOT DISTINCT FROM (OLD.issuer, OLD.subject) THEN
        NEW.updated_at := OLD.updated_at;
        NEW.version := OLD.version;
    ELSE
        NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at);
        NEW.version := OLD.version + 1;
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.identities_before_update() IS 'Trigger: moves updated_at and version on a real change.';

REVOKE ALL ON FUNCTION public.identities_before_update() FROM PUBLIC;

CREATE TRIGGER identities_before_update BEFORE UPDATE ON public.identities
FOR EACH ROW EXECUTE FUNCTION public.identities_before_update();

COMMENT ON TRIGGER identities_before_update ON public.identities IS 'Moves updated_at and version.';

CREATE TRIGGER identities_immutable BEFORE UPDATE OF user_id, id, created_at ON public.identities
FOR EACH ROW WHEN (
    OLD.user_id IS DISTINCT FROM NEW.user_id
    OR OLD.id IS DISTINCT FROM NEW.id
    OR OLD.created_at IS DISTINCT FROM NEW.created_at
)
EXECUTE FUNCTION public.refuse_change('identities', 'user_id, id and created_at');

COMMENT ON TRIGGER identities_immutable ON public.identities IS 'Refuses to change user_id, id and created_at.';
