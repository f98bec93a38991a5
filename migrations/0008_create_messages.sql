-- Make the messages table, its positions and its row security.
--
-- What: messages, and the triggers that give positions and keep the conversation's counters.
-- Why: position is the order of a conversation, also when two messages carry the same time. One index,
--   the primary key, serves ownership, conversation and order together.
-- Code: runs before the first release.
-- Locks: conversations, against writes, for a moment (the foreign key).
-- Rollback loses: all messages; the conversations keep the counters they had.
-- depends: 0007_create_conversations

SET LOCAL ROLE todochat_owner;

CREATE TABLE public.messages (
    user_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    position integer NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    sender_type text NOT NULL,
    role text NOT NULL GENERATED ALWAYS AS (
        CASE sender_type WHEN 'ai' THEN 'assistant' ELSE sender_type END
    ) STORED,
    sender_id uuid,
    content text NOT NULL,
    message_type text NOT NULL DEFAULT 'text',
    metadata jsonb NOT NULL DEFAULT '{}',
    -- no default: the trigger sets the time after it has the conversation's lock
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version integer NOT NULL DEFAULT 1,
    CONSTRAINT messages_pkey PRIMARY KEY (user_id, conversation_id, position),
    CONSTRAINT messages_user_id_id_key UNIQUE (user_id, id),
    CONSTRAINT messages_conversation_id_fkey FOREIGN KEY (user_id, conversation_id)
        REFERENCES public.conversations (user_id, id) ON DELETE CASCADE,
    CONSTRAINT messages_position_check CHECK (position >= 1),
    CONSTRAINT messages_sender_type_check CHECK (sender_type IN ('user', 'ai', 'system')),
    -- A user message is the owner's own: with the foreign key above, sender_id always is a user.
    CONSTRAINT messages_sender_id_check CHECK (
        (sender_type = 'user') = (sender_id IS NOT NULL) AND sender_id = user_id
    ),
    CONSTRAINT messages_content_check CHECK (char_length(content) BETWEEN 1 AND 10000),
    CONSTRAINT messages_message_type_check CHECK (message_type IN ('text', 'command', 'response', 'error')),
    CONSTRAINT messages_metadata_check CHECK (metadata = '{}' OR public.metadata_is_valid(metadata)),
    CONSTRAINT messages_times_check CHECK (
        created_at >= '1970-01-01T00:00:00Z' AND updated_at >= created_at AND updated_at < '10000-01-01T00:00:00Z'
    ),
    CONSTRAINT messages_version_check CHECK (version >= 1)
);

COMMENT ON TABLE public.messages IS 'What was said in a conversation, tool calls and their outputs included.';
COMMENT ON COLUMN public.messages.user_id IS 'The conversation''s owner.';
COMMENT ON COLUMN public.messages.conversation_id IS 'The conversation; the messages go with it.';
COMMENT ON COLUMN public.messages.position IS
    '1, 2, 3 ... within the conversation, by trigger: the order. Never used twice.';
COMMENT ON COLUMN public.messages.id IS 'UUID version 7.';
COMMENT ON COLUMN public.messages.sender_type IS 'user, ai or system.';
COMMENT ON COLUMN public.messages.role IS 'sender_type as language models call it: user, assistant or system.';
COMMENT ON COLUMN public.messages.sender_id IS
    'The owner for a message of sender_type user (by trigger unless given), else null.';
COMMENT ON COLUMN public.messages.content IS '1 to 10,000 characters.';
COMMENT ON COLUMN public.messages.message_type IS 'text, command (a tool call), response (a tool''s output) or error.';
COMMENT ON COLUMN public.messages.metadata IS 'A JSON object of at most 16 KiB and 32 levels.';
COMMENT ON COLUMN public.messages.created_at IS
    'When it was added, by trigger unless given; never goes backwards with position; never changes.';
COMMENT ON COLUMN public.messages.updated_at IS 'When the row last really changed, by trigger.';
COMMENT ON COLUMN public.messages.version IS '1, and one more with every real change, by trigger; the ETag.';
COMMENT ON INDEX public.messages_pkey IS
    'Serves the messages of a conversation in order, both ways, its last N, the rewind and the foreign key.';
COMMENT ON INDEX public.messages_user_id_id_key IS 'Serves one message by id.';

GRANT
    SELECT,
    INSERT (user_id, conversation_id, position, id, sender_type, sender_id, content, message_type, metadata,
        created_at, updated_at, version),
    UPDATE (content, message_type, metadata),
    DELETE
ON public.messages TO todochat_app;

ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.messages FORCE ROW LEVEL SECURITY;

CREATE POLICY messages_owner ON public.messages
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

COMMENT ON POLICY messages_owner ON public.messages IS 'A transaction sees and writes rows of the user it is for.';

CREATE FUNCTION public.messages_before_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    conversation record;
BEGIN
    -- The lock puts the writers of a conversation in a line. Its row counts what other transactions have
    -- written; of messages only those matter that this very statement wrote before, which it sees.
    SELECT greatest(c.last_position, m.position) AS last_position, greatest(c.updated_at, m.created_at) AS last_at
    INTO conversation
    FROM public.conversations AS c
    LEFT JOIN LATERAL (
        SELECT p.position, p.created_at
        FROM public.messages AS p
        WHERE p.user_id = NEW.user_id AND p.conversation_id = NEW.conversation_id
        ORDER BY p.position DESC
        LIMIT 1
    ) AS m ON true
    WHERE c.user_id = NEW.user_id AND c.id = NEW.conversation_id
    FOR NO KEY UPDATE OF c;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such conversation'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'messages', COLUMN = 'conversation_id',
                CONSTRAINT = 'messages_conversation_id_fkey';
    END IF;

    IF NEW.position IS NULL THEN
        NEW.position := conversation.last_position + 1;
    END IF;
    IF NEW.created_at IS NULL THEN
        NEW.created_at := greatest(clock_timestamp(), conversation.last_at);
    END IF;
    IF NEW.updated_at IS NULL THEN
        NEW.updated_at := NEW.created_at;
    END IF;
    IF NEW.sender_id IS NULL AND NEW.sender_type = 'user' THEN
        NEW.sender_id := NEW.user_id;
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.messages_before_insert() IS
    'Trigger: locks the conversation and gives a message its position, its time and its sender.';

CREATE FUNCTION public.messages_after_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    UPDATE public.conversations AS c
    SET last_position = greatest(c.last_position, a.last_position),
        message_count = c.message_count + a.count,
        updated_at = a.last_at
    FROM (
        SELECT i.user_id, i.conversation_id, max(i.position) AS last_position, count(*) AS count,
            max(i.created_at) AS last_at
        FROM inserted AS i
        GROUP BY i.user_id, i.conversation_id
    ) AS a
    WHERE c.user_id = a.user_id AND c.id = a.conversation_id;
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.messages_after_insert() IS
    'Trigger: counts the messages a statement added on their conversations, once for each, and moves updated_at.';

CREATE FUNCTION public.messages_after_delete() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- In the cascade from a conversation there is no row left to update, and this finds none.
    UPDATE public.conversations AS c
    SET message_count = c.message_count - a.count,
        updated_at = clock_timestamp()
    FROM (
        SELECT d.user_id, d.conversation_id, count(*) AS count
        FROM deleted AS d
        GROUP BY d.user_id, d.conversation_id
    ) AS a
    WHERE c.user_id = a.user_id AND c.id = a.conversation_id;
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.messages_after_delete() IS
    'Trigger: takes the messages a statement deleted off the count of their conversations; last_position stays.';

CREATE FUNCTION public.messages_before_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF (NEW.content, NEW.message_type, NEW.metadata) IS NOT DISTINCT FROM (OLD.content, OLD.message_type, OLD.metadata)
    THEN
        NEW.updated_at := OLD.updated_at;
        NEW.version := OLD.version;
    ELSE
        NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at);
        NEW.version := OLD.version + 1;
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.messages_before_update() IS 'Trigger: moves updated_at and version on a real change.';

REVOKE ALL ON FUNCTION
    public.messages_before_insert(), public.messages_after_insert(), public.messages_after_delete(),
    public.messages_before_update()
FROM PUBLIC;

CREATE TRIGGER messages_before_insert BEFORE INSERT ON public.messages
FOR EACH ROW EXECUTE FUNCTION public.messages_before_insert();

CREATE TRIGGER messages_after_insert AFTER INSERT ON public.messages
REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION public.messages_after_insert();

CREATE TRIGGER messages_after_delete AFTER DELETE ON public.messages
REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION public.messages_after_delete();

CREATE TRIGGER messages_before_update BEFORE UPDATE ON public.messages
FOR EACH ROW EXECUTE FUNCTION public.messages_before_update();

CREATE TRIGGER messages_immutable
BEFORE UPDATE OF user_id, conversation_id, position, id, sender_type, sender_id, created_at ON public.messages
FOR EACH ROW WHEN (
    OLD.user_id IS DISTINCT FROM NEW.user_id
    OR OLD.conversation_id IS DISTINCT FROM NEW.conversation_id
    OR OLD.position IS DISTINCT FROM NEW.position
    OR OLD.id IS DISTINCT FROM NEW.id
    OR OLD.sender_type IS DISTINCT FROM NEW.sender_type
    OR OLD.sender_id IS DISTINCT FROM NEW.sender_id
    OR OLD.created_at IS DISTINCT FROM NEW.created_at
)
EXECUTE FUNCTION public.refuse_change(
    'messages', 'user_id, conversation_id, position, id, sender_type, sender_id and created_at'
);

COMMENT ON TRIGGER messages_before_insert ON public.messages IS 'Gives position, time and sender.';
COMMENT ON TRIGGER messages_after_insert ON public.messages IS 'Counts added messages on their conversations.';
COMMENT ON TRIGGER messages_after_delete ON public.messages IS 'Counts deleted messages on their conversations.';
COMMENT ON TRIGGER messages_before_update ON public.messages IS 'Moves updated_at and version.';
COMMENT ON TRIGGER messages_immutable ON public.messages IS
    'Refuses to move a message to another place, sender or time.';
