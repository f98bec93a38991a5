-- Make conversations, messages and todo_conversation_links.
-- Why: a chatbot keeps its whole state here. A conversation's row counts its messages, so that appending needs no
--   search, and puts their writers in a line.
-- Locks: users and todos, against writes, for a moment (foreign keys).
-- Rollback loses: all conversations, messages and links.
-- depends: 0004_create_todos
SET LOCAL ROLE todochat_owner;
CREATE TABLE public.conversations (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    external_id text,
    title public.title,
    metadata public.metadata NOT NULL DEFAULT '{}',
    last_position integer NOT NULL DEFAULT 0,
    message_count integer NOT NULL DEFAULT 0,
    created_at public.moment NOT NULL DEFAULT now(),
    updated_at public.moment NOT NULL DEFAULT now(),
    version public.ordinal NOT NULL DEFAULT 1,
    updated_hour timestamptz NOT NULL GENERATED ALWAYS AS (date_bin('1 hour', updated_at, 'epoch')) STORED,
    CONSTRAINT conversations_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT conversations_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id),
    CONSTRAINT conversations_external_id_check CHECK (char_length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT conversations_counters_check CHECK (
        message_count BETWEEN 0 AND last_position AND updated_at >= created_at
    )
)
-- Room in each page, so that counting a message stays within it (HOT) and touches no index; and spent versions, of which
-- each message leaves one, go before there are many.
WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX conversations_user_id_updated_hour_idx ON public.conversations (user_id, updated_hour);
CREATE INDEX conversations_user_id_created_at_idx ON public.conversations (user_id, created_at, id);
-- Partial, so that conversations without one cost nothing.
CREATE UNIQUE INDEX conversations_external_id_key ON public.conversations (user_id, external_id)
WHERE external_id IS NOT NULL;
COMMENT ON TABLE public.conversations IS 'Threads of messages between a user and an assistant.';
COMMENT ON COLUMN public.conversations.user_id IS 'The owner.';
COMMENT ON COLUMN public.conversations.external_id IS
    'What a client calls it: 1 to 255 characters, unique for the user; never changes.';
COMMENT ON COLUMN public.conversations.title IS 'What it is about, or null.';
COMMENT ON COLUMN public.conversations.metadata IS 'What a client keeps with it.';
COMMENT ON COLUMN public.conversations.last_position IS 'The highest position ever given here, by trigger; 0 before.';
COMMENT ON COLUMN public.conversations.message_count IS 'How many messages there are, by trigger.';
COMMENT ON COLUMN public.conversations.updated_at IS
    'When the row last really changed or a message was added or deleted, by trigger.';
COMMENT ON COLUMN public.conversations.version IS
    '1, and one more with every change of title or metadata, by trigger. The version that clients see, the ETag, is this '
    'with 2 * last_position - message_count: it moves with each message that is added or deleted, too.';
COMMENT ON COLUMN public.conversations.updated_hour IS
    'The hour of updated_at, indexed in its place: most messages leave it.';
COMMENT ON INDEX public.conversations_pkey IS 'Serves one conversation by id, and the foreign keys to conversations.';
COMMENT ON INDEX public.conversations_user_id_created_at_idx IS
    'Serves the list of one''s own conversations in the order in which they were made, both ways.';
COMMENT ON INDEX public.conversations_external_id_key IS
    'Serves the look-up by a client''s own id, and keeps one conversation for each.';
COMMENT ON INDEX public.conversations_user_id_updated_hour_idx IS
    'Serves the list of one''s own conversations, most recently active first, and the removal of those not touched '
    'for long.';
GRANT
    SELECT,
    INSERT (user_id, id, external_id, title, metadata, last_position, created_at, updated_at, version),
    -- the last three are written by the triggers of messages, which run with the rights of their caller
    UPDATE (title, metadata, last_position, message_count, updated_at),
    DELETE
ON public.conversations TO todochat_app;

CREATE TRIGGER conversations_touch BEFORE UPDATE OF title, metadata ON public.conversations
FOR EACH ROW WHEN ((OLD.title, OLD.metadata) IS DISTINCT FROM (NEW.title, NEW.metadata))
EXECUTE FUNCTION public.touch();
CREATE TRIGGER conversations_counters BEFORE UPDATE OF last_position, message_count, updated_at ON public.conversations
FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION public.refuse_change('conversations');
COMMENT ON TRIGGER conversations_touch ON public.conversations IS
    'title and metadata count as a real change. (Named as columns, so that counting messages never looks at it.)';
COMMENT ON TRIGGER conversations_counters ON public.conversations IS
    'Refuses to set by hand what messages'' triggers keep.';

CREATE TABLE public.messages (
    user_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    position public.ordinal NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    sender_type public.sender_type NOT NULL,
    role text NOT NULL GENERATED ALWAYS AS (CASE sender_type WHEN 'ai' THEN 'assistant' ELSE sender_type END) STORED,
    sender_id uuid GENERATED ALWAYS AS (CASE WHEN sender_type = 'user' THEN user_id END) STORED,
    content public.content NOT NULL,
    message_type public.message_type NOT NULL DEFAULT 'text',
    metadata public.metadata NOT NULL DEFAULT '{}',
    item public.item,
    content_truncated boolean NOT NULL DEFAULT false,
    -- no default: the trigger sets the time after it has the conversation's lock
    created_at public.moment NOT NULL,
    updated_at public.moment NOT NULL,
    version public.ordinal NOT NULL DEFAULT 1,
    CONSTRAINT messages_pkey PRIMARY KEY (user_id, conversation_id, position),
    CONSTRAINT messages_user_id_id_key UNIQUE (user_id, id),
    CONSTRAINT messages_conversation_id_fkey FOREIGN KEY (user_id, conversation_id)
        REFERENCES public.conversations (user_id, id) ON DELETE CASCADE,
    CONSTRAINT messages_content_check CHECK (content <> '' OR item IS NOT NULL),
    CONSTRAINT messages_times_check CHECK (updated_at >= created_at)
);
COMMENT ON TABLE public.messages IS 'What was said in a conversation, tool calls and their outputs included.';
COMMENT ON COLUMN public.messages.user_id IS 'The conversation''s owner.';
COMMENT ON COLUMN public.messages.conversation_id IS 'The conversation; the messages go with it.';
COMMENT ON COLUMN public.messages.position IS
    '1, 2, 3 ... within the conversation, by trigger unless given: the order. Never used twice.';
COMMENT ON COLUMN public.messages.sender_type IS 'Who said it.';
COMMENT ON COLUMN public.messages.role IS 'sender_type as language models call it: user, assistant or system.';
COMMENT ON COLUMN public.messages.sender_id IS 'The owner for a message of sender_type user, else null.';
COMMENT ON COLUMN public.messages.content IS 'What was said; empty only beside an item.';
COMMENT ON COLUMN public.messages.message_type IS 'What kind of message it is.';
COMMENT ON COLUMN public.messages.metadata IS 'What a client keeps with it.';
COMMENT ON COLUMN public.messages.item IS
    'What an agent''s framework needs back: a tool call, an output, an image; content is its readable text. Never changes.';
COMMENT ON COLUMN public.messages.content_truncated IS 'Whether content is only the beginning of the item''s text.';
COMMENT ON COLUMN public.messages.created_at IS
    'When it was added, by trigger unless given; never goes backwards with position; never changes.';
COMMENT ON INDEX public.messages_pkey IS
    'Serves the messages of a conversation in order, both ways, its last N, the rewind and the foreign key.';
COMMENT ON INDEX public.messages_user_id_id_key IS 'Serves one message by id.';
GRANT
    SELECT,
    INSERT (user_id, conversation_id, position, id, sender_type, content, message_type, metadata, item,
        content_truncated, created_at, updated_at, version),
    UPDATE (content, message_type, metadata, content_truncated),
    DELETE
ON public.messages TO todochat_app;

CREATE TRIGGER messages_touch BEFORE UPDATE ON public.messages
FOR EACH ROW WHEN (record_ne(
    ROW(OLD.content, OLD.message_type, OLD.metadata, OLD.content_truncated),
    ROW(NEW.content, NEW.message_type, NEW.metadata, NEW.content_truncated)
))
EXECUTE FUNCTION public.touch();
COMMENT ON TRIGGER messages_touch ON public.messages IS 'Every column that may change counts as a real change.';

-- A message is counted where it is numbered: one update, in place. Each leaves a spent version of the conversation
-- behind, which the next one of the same transaction has to pass. So from the thousandth on (app.messages_counted), and
-- where messages come with their positions, a statement counts all of its messages at once, behind them
-- (app.messages_bulk).
CREATE FUNCTION public.messages_before_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $body$
DECLARE
    last_at timestamptz;
    counted text := coalesce(nullif(current_setting('app.messages_counted', true), ''), '0');
BEGIN
    IF NEW.position IS NULL AND counted::integer < 1000
        AND current_setting('app.restoring', true) IS DISTINCT FROM 'on'
    THEN
        UPDATE public.conversations AS c
        SET last_position = c.last_position + 1,
            -- One that is there already fails, or is passed over by ON CONFLICT.
            message_count = c.message_count + CASE
                WHEN EXISTS (SELECT FROM public.messages AS m WHERE m.user_id = NEW.user_id AND m.id = NEW.id) THEN 0
                ELSE 1
            END,
            updated_at = greatest(NEW.created_at, c.updated_at, clock_timestamp())
        WHERE c.user_id = NEW.user_id AND c.id = NEW.conversation_id
        RETURNING c.last_position, c.updated_at INTO NEW.position, last_at;
        counted := set_config('app.messages_counted', (counted::integer + 1)::text, true);
    ELSE
        -- The lock keeps other writers away: only messages of this very statement matter, and to one without a position.
        SELECT coalesce(NEW.position, greatest(c.last_position, m.position) + 1),
            greatest(clock_timestamp(), c.updated_at, m.created_at)
        INTO NEW.position, last_at
        FROM public.conversations AS c
        LEFT JOIN LATERAL (
            SELECT p.position, p.created_at
            FROM public.messages AS p
            WHERE p.user_id = NEW.user_id AND p.conversation_id = NEW.conversation_id AND NEW.position IS NULL
            ORDER BY p.position DESC
            LIMIT 1
        ) AS m ON true
        WHERE c.user_id = NEW.user_id AND c.id = NEW.conversation_id
        FOR NO KEY UPDATE OF c;
        IF coalesce(current_setting('app.messages_bulk', true), '') = '' THEN
            PERFORM set_config('app.messages_bulk', 'mixed', true), set_config('app.messages_counted', '1000', true);
        END IF;
    END IF;
    IF last_at IS NULL THEN
        RAISE EXCEPTION 'there is no such conversation: "messages_conversation_id_fkey"'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'messages', COLUMN = 'conversation_id',
                CONSTRAINT = 'messages_conversation_id_fkey';
    END IF;
    NEW.created_at := coalesce(NEW.created_at, last_at);
    NEW.updated_at := coalesce(NEW.updated_at, NEW.created_at);
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION public.messages_before_insert() IS
    'Trigger: locks the conversation, gives a message position and time, and counts it, unless '
    'messages_after_insert() will.';

CREATE FUNCTION public.messages_after_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    -- The first statement that comes here may have counted some of its messages already: then all are counted anew.
    is_mixed constant boolean := current_setting('app.messages_bulk') = 'mixed'
        AND current_setting('app.restoring', true) IS DISTINCT FROM 'on';
BEGIN
    UPDATE public.conversations AS c
    SET last_position = greatest(c.last_position, a.last_position),
        message_count = CASE
            WHEN is_mixed THEN (
                SELECT count(*) FROM public.messages AS m WHERE m.user_id = c.user_id AND m.conversation_id = c.id
            )
            ELSE c.message_count + a.count
        END,
        updated_at = greatest(c.updated_at, a.last_at)
    FROM (
        SELECT i.user_id, i.conversation_id, max(i.position) AS last_position, count(*) AS count,
            max(i.created_at) AS last_at
        FROM inserted AS i
        GROUP BY i.user_id, i.conversation_id
    ) AS a
    WHERE c.user_id = a.user_id AND c.id = a.conversation_id;
    PERFORM set_config('app.messages_bulk', 'on', true);
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION public.messages_after_insert() IS
    'Trigger: counts the messages that a statement added on their conversations, once for each: linear for any number. '
    'With app.restoring = ''on'' the conversation''s updated_at stays where it was, unless a message is younger.';

CREATE FUNCTION public.messages_after_delete() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    UPDATE public.conversations AS c
    SET message_count = c.message_count - a.count,
        updated_at = greatest(c.updated_at, clock_timestamp())
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

CREATE TRIGGER messages_before_insert BEFORE INSERT ON public.messages
FOR EACH ROW EXECUTE FUNCTION public.messages_before_insert();
CREATE TRIGGER messages_after_insert AFTER INSERT ON public.messages
REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT WHEN (current_setting('app.messages_bulk', true) <> '')
EXECUTE FUNCTION public.messages_after_insert();

-- Deeper than nothing it is the cascade from a conversation that goes itself: there is no row left to count on.
CREATE TRIGGER messages_after_delete AFTER DELETE ON public.messages
REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
EXECUTE FUNCTION public.messages_after_delete();
COMMENT ON TRIGGER messages_before_insert ON public.messages IS 'Gives position and time, and counts one message.';
COMMENT ON TRIGGER messages_after_insert ON public.messages IS 'Counts many added messages on their conversations.';
COMMENT ON TRIGGER messages_after_delete ON public.messages IS 'Counts deleted messages on their conversations.';

CREATE TABLE public.todo_conversation_links (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    todo_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    relationship_type public.relationship_type NOT NULL DEFAULT 'discussion',
    created_at public.moment NOT NULL DEFAULT now(),
    updated_at public.moment NOT NULL DEFAULT now(),
    version public.ordinal NOT NULL DEFAULT 1,
    CONSTRAINT todo_conversation_links_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT todo_conversation_links_key UNIQUE (user_id, todo_id, conversation_id, relationship_type),
    CONSTRAINT todo_conversation_links_todo_id_fkey FOREIGN KEY (user_id, todo_id)
        REFERENCES public.todos (user_id, id) ON DELETE CASCADE,
    CONSTRAINT todo_conversation_links_conversation_id_fkey FOREIGN KEY (user_id, conversation_id)
        REFERENCES public.conversations (user_id, id) ON DELETE CASCADE,
    CONSTRAINT todo_conversation_links_times_check CHECK (updated_at >= created_at)
);
CREATE INDEX todo_conversation_links_conversation_id_idx
ON public.todo_conversation_links (user_id, conversation_id, todo_id);
COMMENT ON TABLE public.todo_conversation_links IS
    'Which todo a conversation made, changed or discussed, both of one user: both foreign keys carry user_id.';
COMMENT ON COLUMN public.todo_conversation_links.user_id IS 'The owner of both the todo and the conversation.';
COMMENT ON COLUMN public.todo_conversation_links.todo_id IS 'The todo; the link goes with it.';
COMMENT ON COLUMN public.todo_conversation_links.conversation_id IS 'The conversation; the link goes with it.';
COMMENT ON COLUMN public.todo_conversation_links.relationship_type IS 'What the conversation has to do with the todo.';
COMMENT ON INDEX public.todo_conversation_links_pkey IS 'Serves one link by id, and one''s own links by id.';
COMMENT ON INDEX public.todo_conversation_links_key IS
    'Serves the conversations of a todo and the cascade from todos, and keeps one link a todo, conversation and type.';
COMMENT ON INDEX public.todo_conversation_links_conversation_id_idx IS
    'Serves the todos of a conversation and the cascade from conversations.';
GRANT SELECT, INSERT, UPDATE (relationship_type), DELETE ON public.todo_conversation_links TO todochat_app;

CREATE TRIGGER todo_conversation_links_touch BEFORE UPDATE ON public.todo_conversation_links
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION public.touch();
COMMENT ON TRIGGER todo_conversation_links_touch ON public.todo_conversation_links IS 'Any column is a real change.';

CREATE FUNCTION public.expect_position(user_id uuid, conversation_id uuid, expected integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    current_position integer;
BEGIN
    PERFORM FROM public.conversations AS c
    WHERE c.user_id = expect_position.user_id AND c.id = expect_position.conversation_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such conversation: "messages_conversation_id_fkey"'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'messages', COLUMN = 'conversation_id',
                CONSTRAINT = 'messages_conversation_id_fkey';
    END IF;
    -- Behind the lock: a new snapshot, which sees what the writer before has committed.
    SELECT max(m.position) INTO current_position
    FROM public.messages AS m
    WHERE m.user_id = expect_position.user_id AND m.conversation_id = expect_position.conversation_id;
    IF coalesce(current_position, 0) <> expected THEN
        RAISE EXCEPTION 'the last message is at another position'
            USING ERRCODE = 'TC411', DETAIL = coalesce(current_position, 0);
    END IF;
END
$body$;
COMMENT ON FUNCTION public.expect_position(uuid, uuid, integer) IS
    'Locks a conversation against other writers; raises TC411, with the position of its last message (0: there is '
    'none) as DETAIL, unless that is the expected one. Statements behind it in the round trip then don''t run.';

GRANT EXECUTE ON FUNCTION public.expect_position(uuid, uuid, integer) TO todochat_app;
