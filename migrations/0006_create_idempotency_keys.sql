-- Make the store of first answers to requests with an Idempotency-Key, with its row security.
-- Why: a client that got no answer asks again with the same key and gets the first answer, not a second
--   effect. The row is written in the transaction of the effect.
-- Locks: users, against writes, for a moment (the foreign key).
-- Rollback loses: the answers kept; a request that is repeated then takes effect again.
-- depends: 0005_create_conversations
SET LOCAL ROLE todochat_owner;
CREATE TABLE public.idempotency_keys (
    user_id uuid NOT NULL,
    key text NOT NULL,
    operation text NOT NULL,
    request_hash bytea NOT NULL,
    status smallint,
    headers jsonb NOT NULL DEFAULT '{}',
    body bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, key),
    CONSTRAINT idempotency_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT idempotency_keys_key_check CHECK (key COLLATE "C" ~ '^[ -~]{1,255}$'),
    CONSTRAINT idempotency_keys_operation_check CHECK (char_length(operation) BETWEEN 1 AND 500),
    CONSTRAINT idempotency_keys_request_hash_check CHECK (octet_length(request_hash) = 32),
    CONSTRAINT idempotency_keys_status_check CHECK (status BETWEEN 200 AND 599),
    CONSTRAINT idempotency_keys_headers_check CHECK (jsonb_typeof(headers) = 'object')
)
WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE public.idempotency_keys IS
    'The first answer to each request with an Idempotency-Key, kept for 24 hours.';
COMMENT ON COLUMN public.idempotency_keys.user_id IS 'Who asked; the answers go with the user.';
COMMENT ON COLUMN public.idempotency_keys.key IS 'The header''s value: 1 to 255 printable ASCII characters.';
COMMENT ON COLUMN public.idempotency_keys.operation IS 'Method and path of the request.';
COMMENT ON COLUMN public.idempotency_keys.request_hash IS 'SHA-256 of the body: a key with another body is refused.';
COMMENT ON COLUMN public.idempotency_keys.status IS 'Status of the answer; null only in the transaction that makes it.';
COMMENT ON COLUMN public.idempotency_keys.headers IS 'Headers of the answer that are given again: Location, ETag.';
COMMENT ON COLUMN public.idempotency_keys.body IS 'Body of the answer, byte for byte; null where it had none.';
COMMENT ON COLUMN public.idempotency_keys.created_at IS 'When the first request came.';
COMMENT ON INDEX public.idempotency_keys_pkey IS 'Serves look-up and insert of a key, and the cascade from users.';

CREATE INDEX idempotency_keys_created_at_idx ON public.idempotency_keys (created_at);
COMMENT ON INDEX public.idempotency_keys_created_at_idx IS 'Serves the removal of keys past their age, across users.';
GRANT SELECT, INSERT, UPDATE (status, headers, body), DELETE ON public.idempotency_keys TO todochat_app;
CREATE POLICY idempotency_keys_retention ON public.idempotency_keys TO todochat_owner
USING (true);
COMMENT ON POLICY idempotency_keys_retention ON public.idempotency_keys IS
    'Erasure and retention, which run as the owner, remove anybody''s kept answers.';
