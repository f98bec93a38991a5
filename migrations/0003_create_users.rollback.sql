-- Drop the five tables of sign-in. Every account is lost.

SET LOCAL ROLE todochat_owner;

DROP TABLE public.sign_in_attempts;
DROP TABLE public.ended_identities;
DROP TABLE public.api_keys;
DROP TABLE public.identities;
DROP TABLE public.users;
