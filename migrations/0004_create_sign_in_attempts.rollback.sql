-- Drop the store of sign-in attempts and its functions. Whoever is being slowed down no longer is.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.forgive_sign_in_attempt(bytea, bytea);
DROP FUNCTION public.take_sign_in_attempt(bytea, bytea);
DROP TABLE public.sign_in_attempts;
