-- Drop api_keys. All keys are lost; whoever calls with one has to sign in.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.authenticate_key(uuid, bytea, text);
DROP TABLE public.api_keys;
