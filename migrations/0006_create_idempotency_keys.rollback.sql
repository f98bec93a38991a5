-- Drop idempotency_keys. The answers kept are lost; a request that is repeated takes effect again.

SET LOCAL ROLE todochat_owner;

DROP TABLE public.idempotency_keys;
