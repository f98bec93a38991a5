-- Make the table of links between todos and conversations, with its row security.
--
-- What: todo_conversation_links and the trigger that moves updated_at and version.
-- Why: which todo came from which conversation. Both foreign keys carry user_id, so a link between two
--   people's rows cannot exist.
-- Code: runs before the first release.
-- Locks: todos and conversations, against writes, for a moment (the foreign keys).
-- Rollback loses: all links.
-- depends: 0008_create_messages

SET LOCAL ROLE todochat_owner;

CREATE TABLE public.todo_conversation_links (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    todo_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    relationship_type text NOT NULL DEFAULT 'discussion',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    CONSTRAINT todo_conversation_links_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT todo_conversation_links_key UNIQUE (user_id, todo_id, conversation_id, relationship_type),
    CONSTRAINT todo_conversation_links_todo_id_fkey FOREIGN KEY (user_id, todo_id)
        REFERENCES public.todos (user_id, id) ON DELETE CASCADE,
    CONSTRAINT todo_conversation_links_conversation_id_fkey FOREIGN KEY (user_id, conversation_id)
        REFERENCES public.conversations (user_id, id) ON DELETE CASCADE,
    CONSTRAINT todo_conversation_links_relationship_type_check CHECK (
        relationship_type IN ('discussion', 'update', 'creation')
    ),
    CONSTRAINT todo_conversation_links_times_check CHECK (
        created_at >= '1970-01-01T00:00:00Z' AND updated_at >= created_at AND updated_at < '10000-01-01T00:00:00Z'
    ),
    CONSTRAINT todo_conversation_links_version_check CHECK (version >= 1)
);

COMMENT ON TABLE public.todo_conversation_links IS 'Which todo a conversation made, changed or discussed.';
COMMENT ON COLUMN public.todo_conversation_links.user_id IS 'The owner of both the todo and the conversation.';
COMMENT ON COLUMN public.todo_conversation_links.id IS 'UUID version 7.';
COMMENT ON COLUMN public.todo_conversation_links.todo_id IS 'The todo; the link goes with it.';
COMMENT ON COLUMN public.todo_conversation_links.conversation_id IS 'The conversation; the link goes with it.';
COMMENT ON COLUMN public.todo_conversation_links.relationship_type IS 'discussion, update or creation.';
COMMENT ON COLUMN public.todo_conversation_links.created_at IS 'When it was made; never changes.';
COMMENT ON COLUMN public.todo_conversation_links.updated_at IS 'When the row last really changed, by trigger.';
COMMENT ON COLUMN public.todo_conversation_links.version IS
    '1, and one more with every real change, by trigger; the ETag.';

CREATE INDEX todo_conversation_links_conversation_id_idx
ON public.todo_conversation_links (user_id, conversation_id, todo_id);

COMMENT ON INDEX public.todo_conversation_links_pkey IS
    'Serves one link by id, and the list of one''s own links by id.';
COMMENT ON INDEX public.todo_conversation_links_key IS
    'Serves the conversations of a todo and the cascade from todos, and keeps one link a todo, conversation and type.';
COMMENT ON INDEX public.todo_conversation_links_conversation_id_idx IS
    'Serves the todos of a conversation and the cascade from conversations.';

GRANT SELECT, INSERT, UPDATE (relationship_type), DELETE ON public.todo_conversation_links TO todochat_app;

ALTER TABLE public.todo_conversation_links ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.todo_conversation_links FORCE ROW LEVEL SECURITY;

CREATE POLICY todo_conversation_links_owner ON public.todo_conversation_links
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

COMMENT ON POLICY todo_conversation_links_owner ON public.todo_conversation_links IS
    'A transaction sees and writes rows of the user it is for.';

CREATE FUNCTION public.todo_conversation_links_before_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF NEW.relationship_type = OLD.relationship_type THEN
        NEW.updated_at := OLD.updated_at;
        NEW.version := OLD.version;
    ELSE
        NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at);
        NEW.version := OLD.version + 1;
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.todo_conversation_links_before_update() IS
    'Trigger: moves updated_at and version on a real change.';

REVOKE ALL ON FUNCTION public.todo_conversation_links_before_update() FROM PUBLIC;

CREATE TRIGGER todo_conversation_links_before_update BEFORE UPDATE ON public.todo_conversation_links
FOR EACH ROW EXECUTE FUNCTION public.todo_conversation_links_before_update();

CREATE TRIGGER todo_conversation_links_immutable
BEFORE UPDATE OF user_id, id, todo_id, conversation_id, created_at ON public.todo_conversation_links
FOR EACH ROW WHEN (
    OLD.user_id IS DISTINCT FROM NEW.user_id
    OR OLD.id IS DISTINCT FROM NEW.id
    OR OLD.todo_id IS DISTINCT FROM NEW.todo_id
    OR OLD.conversation_id IS DISTINCT FROM NEW.conversation_id
    OR OLD.created_at IS DISTINCT FROM NEW.created_at
)
EXECUTE FUNCTION public.refuse_change(
    'todo_conversation_links', 'user_id, id, todo_id, conversation_id and created_at'
);

COMMENT ON TRIGGER todo_conversation_links_before_update ON public.todo_conversation_links IS
    'Moves updated_at and version.';
COMMENT ON TRIGGER todo_conversation_links_immutable ON public.todo_conversation_links IS
    'Refuses to make a link one between other rows.';
