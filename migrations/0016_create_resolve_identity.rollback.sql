-- Take users of outside issuers back. Refused while users without an e-mail address exist: erase them, or give them one.
-- Lost are the times of revocation and erasure: once migrated again, tokens of outside issuers from before would work.

SET LOCAL ROLE todochat_owner;

DO $body$
BEGIN
    IF EXISTS (SELECT FROM public.users AS u WHERE u.email IS NULL) THEN
        RAISE EXCEPTION 'users without an e-mail address exist: erase them, or give them one, before this is rolled back'
            USING ERRCODE = 'not_null_violation';
    END IF;
END
$body$;

DROP FUNCTION public.resolve_identity(uuid, text, text, bigint, text, text, boolean);
DROP POLICY identities_resolve ON public.identities;
DROP TRIGGER identities_after_delete ON public.identities;
DROP FUNCTION public.identities_after_delete();
DROP FUNCTION public.identity_digest(text, text);
DROP TABLE public.ended_identities;
DROP FUNCTION public.authenticate_issued(uuid, bigint);
CREATE OR REPLACE FUNCTION public.audit_users() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    old_values jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN
        old_values := to_jsonb(OLD) - '{password_hash,email_key,username_key}'::text[];
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

DROP TRIGGER users_token_version ON public.users;
DROP FUNCTION public.users_token_version();
ALTER TABLE public.users DROP COLUMN tokens_valid_from;
-- squawk-ignore adding-not-nullable-field
ALTER TABLE public.users ALTER COLUMN email SET NOT NULL;

COMMENT ON COLUMN public.users.email IS 'As it was typed; at most 255 ASCII characters.';
