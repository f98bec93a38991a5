-- Drop the functions of sign-in. Nothing is lost.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.forgive_sign_in_attempt(bytea, bytea[]);
DROP FUNCTION public.take_sign_in_attempt(bytea, bytea[]);
DROP FUNCTION public.sign_in_wait(bytea, bytea[]);
DROP FUNCTION public.sign_in_limits(bytea, bytea[]);
DROP FUNCTION public.resolve_identity(uuid, text, text, bigint, text, text, boolean);
DROP TRIGGER identities_after_delete ON public.identities;
DROP FUNCTION public.identities_after_delete();
DROP FUNCTION public.identity_digest(text, text);
DROP FUNCTION public.find_user_by_username(text);
DROP FUNCTION public.find_credentials(text);
DROP FUNCTION public.refuse_key(timestamptz, boolean);
DROP FUNCTION public.refuse_token(boolean);
