-- Make the todos table with its numbering, its rules and its row security.
--
-- What: todo_counters, todos, their triggers and policies, and the check on deactivating a user.
-- Why: the rules of status, completed_at, due_date and assigned_to hold for whoever writes, not only
--   for the service.
-- Code: runs before the first release.
-- Locks: users, against writes, for a moment (foreign keys, trigger).
-- Rollback loses: all todos, and which numbers were used.
-- depends: 0005_create_identities

SET LOCAL ROLE todochat_owner;

CREATE TABLE public.todo_counters (
    user_id uuid NOT NULL,
    last_number integer NOT NULL,
    CONSTRAINT todo_counters_pkey PRIMARY KEY (user_id),
    CONSTRAINT todo_counters_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT todo_counters_last_number_check CHECK (last_number >= 1)
)
-- Room in each page, so that counting stays within it (HOT) and never touches the index.
WITH (fillfactor = 50);

COMMENT ON TABLE public.todo_counters IS 'The last number given to a todo, for each user who ever had one.';
COMMENT ON COLUMN public.todo_counters.user_id IS 'Whose todos are counted; goes with the user.';
COMMENT ON COLUMN public.todo_counters.last_number IS
    'The highest number ever used: deleted todos keep theirs from being used again.';
COMMENT ON INDEX public.todo_counters_pkey IS 'Serves todos_before_insert(), which takes the next number.';

GRANT SELECT, INSERT, UPDATE (last_number) ON public.todo_counters TO todochat_app;

ALTER TABLE public.todo_counters ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.todo_counters FORCE ROW LEVEL SECURITY;

CREATE POLICY todo_counters_owner ON public.todo_counters
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

COMMENT ON POLICY todo_counters_owner ON public.todo_counters IS
    'A transaction sees and writes the row of the user it is for.';

CREATE TABLE public.todos (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    number integer NOT NULL,
    title text NOT NULL,
    description text,
    status text NOT NULL DEFAULT 'pending',
    completed boolean NOT NULL GENERATED ALWAYS AS (status = 'completed') STORED,
    priority text NOT NULL DEFAULT 'medium',
    priority_rank smallint GENERATED ALWAYS AS (
        array_position('{low,medium,high,urgent}'::text[], priority)
    ) STORED,
    due_date timestamptz,
    assigned_to uuid,
    completed_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    CONSTRAINT todos_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT todos_user_id_number_key UNIQUE (user_id, number),
    CONSTRAINT todos_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id),
    CONSTRAINT todos_assigned_to_fkey FOREIGN KEY (assigned_to) REFERENCES public.users (id) ON DELETE SET NULL,
    CONSTRAINT todos_number_check CHECK (number >= 1),
    CONSTRAINT todos_title_check CHECK (
        -- a visible character, and at most 200 when trimmed
        title ~ U&'[^\0001-\0020\007F-\00A0\00AD\115F\1160\1680\180E\2000-\200F\2028-\202F\205F-\2064\2800\3000\3164'
            '\FEFF]'
        AND (char_length(title) <= 200 OR (char_length(title) <= 1000 AND public.visible_length(title) <= 200))
    ),
    CONSTRAINT todos_description_check CHECK (char_length(description) <= 1000),
    CONSTRAINT todos_status_check CHECK (status IN ('pending', 'in_progress', 'completed', 'archived')),
    CONSTRAINT todos_priority_check CHECK (priority IN ('low', 'medium', 'high', 'urgent')),
    CONSTRAINT todos_due_date_check CHECK (
        due_date >= '1970-01-01T00:00:00Z' AND due_date < '10000-01-01T00:00:00Z'
    ),
    CONSTRAINT todos_completed_at_check CHECK (
        (completed = (completed_at IS NOT NULL) OR status = 'archived') AND completed_at >= '1970-01-01T00:00:00Z'
    ),
    CONSTRAINT todos_metadata_check CHECK (metadata = '{}' OR public.metadata_is_valid(metadata)),
    CONSTRAINT todos_times_check CHECK (
        created_at >= '1970-01-01T00:00:00Z' AND updated_at >= created_at AND updated_at < '10000-01-01T00:00:00Z'
    ),
    CONSTRAINT todos_version_check CHECK (version >= 1)
);

COMMENT ON TABLE public.todos IS 'Things to do.';
COMMENT ON COLUMN public.todos.user_id IS 'The owner.';
COMMENT ON COLUMN public.todos.id IS 'UUID version 7.';
COMMENT ON COLUMN public.todos.number IS
    '1, 2, 3 ... for each owner, by trigger, never reused: what a person or an agent says aloud.';
COMMENT ON COLUMN public.todos.title IS
    '1 to 200 characters when trimmed, some of them visible; stored as it was sent.';
COMMENT ON COLUMN public.todos.description IS 'At most 1000 characters, or null.';
COMMENT ON COLUMN public.todos.status IS
    'pending, in_progress, completed or archived; an archived todo can only go back to pending.';
COMMENT ON COLUMN public.todos.completed IS 'Whether status is completed.';
COMMENT ON COLUMN public.todos.priority IS 'low, medium, high or urgent.';
COMMENT ON COLUMN public.todos.priority_rank IS 'priority as 1 (low) to 4 (urgent), to sort by.';
COMMENT ON COLUMN public.todos.due_date IS 'Never written in the past on a completed todo.';
COMMENT ON COLUMN public.todos.assigned_to IS
    'A user who can read this todo and change its status: active, as long as it is pending or in progress.';
COMMENT ON COLUMN public.todos.completed_at IS
    'Set when completed (by trigger unless given), cleared when reopened, kept when archived; never in the future.';
COMMENT ON COLUMN public.todos.metadata IS 'A JSON object of at most 16 KiB and 32 levels.';
COMMENT ON COLUMN public.todos.created_at IS 'When it was made; never changes.';
COMMENT ON COLUMN public.todos.updated_at IS 'When the row last really changed, by trigger.';
COMMENT ON COLUMN public.todos.version IS '1, and one more with every real change, by trigger; the ETag.';

COMMENT ON INDEX public.todos_pkey IS 'Serves one todo by id, and the foreign keys to todos.';
COMMENT ON INDEX public.todos_user_id_number_key IS 'Serves one todo by number, and the list in order of number.';

CREATE INDEX todos_user_id_created_at_idx ON public.todos (user_id, created_at, id);
CREATE INDEX todos_user_id_updated_at_idx ON public.todos (user_id, updated_at, id);
CREATE INDEX todos_user_id_due_date_idx ON public.todos (user_id, due_date, id);
CREATE INDEX todos_user_id_priority_rank_idx ON public.todos (user_id, priority_rank, id);
CREATE INDEX todos_user_id_status_created_at_idx ON public.todos (user_id, status, created_at, id);
CREATE INDEX todos_assigned_to_idx ON public.todos (assigned_to, id)
WHERE assigned_to IS NOT NULL;

COMMENT ON INDEX public.todos_user_id_created_at_idx IS
    'Serves the list of one''s own todos by created_at, the default order, both ways.';
COMMENT ON INDEX public.todos_user_id_updated_at_idx IS 'Serves the list of one''s own todos by updated_at, both ways.';
COMMENT ON INDEX public.todos_user_id_due_date_idx IS
    'Serves the list of one''s own todos by due_date, both ways, and the filters due_before, due_after and overdue.';
COMMENT ON INDEX public.todos_user_id_priority_rank_idx IS
    'Serves the list of one''s own todos by priority, both ways, and the filter by priority.';
COMMENT ON INDEX public.todos_user_id_status_created_at_idx IS
    'Serves the list of one''s own todos of one status or some, by created_at, and the filter by completed.';
COMMENT ON INDEX public.todos_assigned_to_idx IS
    'Serves one todo by id for its assignee, the lists of todos assigned to somebody (sorted), the check on deactivating '
    'them and the foreign key to users.';

GRANT
    SELECT,
    INSERT (user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at,
        metadata, created_at, updated_at, version),
    UPDATE (title, description, status, priority, due_date, assigned_to, completed_at, metadata),
    DELETE
ON public.todos TO todochat_app;

ALTER TABLE public.todos ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.todos FORCE ROW LEVEL SECURITY;

CREATE POLICY todos_owner ON public.todos
USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);

CREATE POLICY todos_assignee_select ON public.todos FOR SELECT
USING (assigned_to = nullif(current_setting('app.user_id', true), '')::uuid);

CREATE POLICY todos_assignee_update ON public.todos FOR UPDATE
USING (assigned_to = nullif(current_setting('app.user_id', true), '')::uuid);

CREATE POLICY todos_check_deactivation ON public.todos FOR SELECT TO todochat_owner
USING (assigned_to IS NOT NULL);

COMMENT ON POLICY todos_owner ON public.todos IS 'A transaction sees and writes rows of the user it is for.';
COMMENT ON POLICY todos_assignee_select ON public.todos IS 'An assignee reads the todo.';
COMMENT ON POLICY todos_assignee_update ON public.todos IS
    'An assignee updates the todo; todos_before_update() lets only the status through.';
COMMENT ON POLICY todos_check_deactivation ON public.todos IS
    'users_check_deactivation() runs as the owner and must see whose todos a user has been assigned.';

CREATE FUNCTION public.todos_before_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF NEW.number IS NULL THEN
        -- The counter's row stays locked until the end of the transaction: numbers have no holes.
        UPDATE public.todo_counters AS c
        SET last_number = c.last_number + 1
        WHERE c.user_id = NEW.user_id
        RETURNING c.last_number INTO NEW.number;
        IF NEW.number IS NULL THEN
            INSERT INTO public.todo_counters AS c (user_id, last_number)
            VALUES (NEW.user_id, 1)
            ON CONFLICT (user_id) DO UPDATE SET last_number = c.last_number + 1
            RETURNING c.last_number INTO NEW.number;
        END IF;
    ELSE
        INSERT INTO public.todo_counters AS c (user_id, last_number)
        VALUES (NEW.user_id, greatest(NEW.number, 1))
        ON CONFLICT (user_id) DO UPDATE SET last_number = greatest(c.last_number, excluded.last_number);
    END IF;

    IF NEW.status = 'completed' THEN
        IF NEW.completed_at IS NULL THEN
            NEW.completed_at := now();
        END IF;
        IF NEW.due_date < now() THEN
            RAISE EXCEPTION 'due_date of a completed todo must not be in the past'
                USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'due_date',
                    CONSTRAINT = 'todos_due_date_check';
        END IF;
    END IF;
    IF NEW.completed_at > clock_timestamp() THEN
        RAISE EXCEPTION 'completed_at must not be in the future'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'completed_at',
                CONSTRAINT = 'todos_completed_at_check';
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.todos_before_insert() IS
    'Trigger: numbers a todo, sets completed_at and refuses a past due date on a completed one.';

CREATE FUNCTION public.todos_before_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    moment constant timestamptz := clock_timestamp();
BEGIN
    IF (NEW.title, NEW.description, NEW.status, NEW.priority, NEW.due_date, NEW.assigned_to, NEW.completed_at,
        NEW.metadata)
        IS NOT DISTINCT FROM
        (OLD.title, OLD.description, OLD.status, OLD.priority, OLD.due_date, OLD.assigned_to, OLD.completed_at,
        OLD.metadata)
    THEN
        NEW.updated_at := OLD.updated_at;
        NEW.version := OLD.version;
        RETURN NEW;
    END IF;

    -- Deeper than one, it is a foreign key that sets assigned_to to null, whoever deletes the user.
    IF OLD.user_id <> nullif(current_setting('app.user_id', true), '')::uuid
        AND (NEW.title, NEW.description, NEW.priority, NEW.due_date, NEW.assigned_to, NEW.completed_at, NEW.metadata)
        IS DISTINCT FROM
        (OLD.title, OLD.description, OLD.priority, OLD.due_date, OLD.assigned_to, OLD.completed_at, OLD.metadata)
        AND pg_trigger_depth() = 1
    THEN
        RAISE EXCEPTION 'an assignee may change the status and nothing else'
            USING ERRCODE = 'TC403', TABLE = 'todos';
    END IF;

    IF NEW.status <> OLD.status THEN
        IF OLD.status = 'archived' AND NEW.status IN ('in_progress', 'completed') THEN
            RAISE EXCEPTION 'an archived todo can only become pending'
                USING ERRCODE = 'TC409', TABLE = 'todos', COLUMN = 'status',
                    DETAIL = format('The status cannot go from %s to %s.', OLD.status, NEW.status);
        END IF;
        IF NEW.status = 'completed' THEN
            IF NEW.completed_at IS NULL THEN
                NEW.completed_at := moment;
            END IF;
        ELSIF NEW.status <> 'archived' AND NEW.completed_at IS NOT DISTINCT FROM OLD.completed_at THEN
            NEW.completed_at := NULL;
        END IF;
    END IF;

    IF NEW.completed_at IS DISTINCT FROM OLD.completed_at
        AND (NEW.completed_at > moment OR NEW.status = 'archived')
    THEN
        RAISE EXCEPTION 'completed_at must not be in the future, and is kept when a todo is archived'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'completed_at',
                CONSTRAINT = 'todos_completed_at_check';
    END IF;
    IF NEW.status = 'completed' AND NEW.due_date < moment AND NEW.due_date IS DISTINCT FROM OLD.due_date THEN
        RAISE EXCEPTION 'due_date of a completed todo must not be in the past'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'due_date',
                CONSTRAINT = 'todos_due_date_check';
    END IF;

    -- The time after the row was locked: the time the transaction began may lie before the last change.
    NEW.updated_at := greatest(moment, OLD.updated_at);
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.todos_before_update() IS
    'Trigger: holds the rules of status, completed_at and due_date and what an assignee may change (TC403), refuses '
    'transitions that do not exist (TC409), and moves updated_at and version on a real change.';

-- SECURITY DEFINER: row security shows the caller no other user's row.
CREATE FUNCTION public.todos_check_assignee() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- Nothing to check where a closed todo stays closed, or an open one stays with whom it was.
    IF TG_OP = 'UPDATE'
        AND NEW.assigned_to = OLD.assigned_to
        AND (OLD.status IN ('pending', 'in_progress') OR NEW.status NOT IN ('pending', 'in_progress'))
    THEN
        RETURN NEW;
    END IF;
    -- FOR SHARE: a deactivation waits until this transaction is through, and then sees the todo.
    PERFORM FROM public.users AS u WHERE u.id = NEW.assigned_to AND u.is_active FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'assigned_to must be an active user'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'assigned_to',
                CONSTRAINT = 'todos_assigned_to_check';
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.todos_check_assignee() IS
    'Trigger: refuses an assignee who is unknown or inactive, and holds their being active until the transaction ends.';

CREATE FUNCTION public.users_check_deactivation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- The row is locked by now. What was assigned while waiting for it is seen by a new snapshot only.
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION 'a user cannot be deactivated in a REPEATABLE READ transaction'
            USING ERRCODE = 'invalid_transaction_state', HINT = 'Use READ COMMITTED.';
    END IF;
    IF EXISTS (
        SELECT 1
        FROM public.todos AS t
        WHERE t.assigned_to = NEW.id AND t.status IN ('pending', 'in_progress')
    ) THEN
        RAISE EXCEPTION 'the user still has todos assigned that are pending or in progress'
            USING ERRCODE = 'TC410', TABLE = 'users', COLUMN = 'is_active';
    END IF;
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION public.users_check_deactivation() IS
    'Trigger: refuses to deactivate a user who has pending or in_progress todos assigned (TC410).';

REVOKE ALL ON FUNCTION
    public.todos_before_insert(), public.todos_before_update(), public.todos_check_assignee(),
    public.users_check_deactivation()
FROM PUBLIC;

CREATE TRIGGER todos_before_insert BEFORE INSERT ON public.todos
FOR EACH ROW EXECUTE FUNCTION public.todos_before_insert();

CREATE TRIGGER todos_before_update BEFORE UPDATE ON public.todos
FOR EACH ROW EXECUTE FUNCTION public.todos_before_update();

-- Triggers of one kind fire by name: the two checks of the assignee come after the rules above. Their
-- conditions are short because PostgreSQL plans them anew for every statement.
CREATE TRIGGER todos_check_assignee_insert BEFORE INSERT ON public.todos
FOR EACH ROW WHEN (NEW.assigned_to IS NOT NULL)
EXECUTE FUNCTION public.todos_check_assignee();

CREATE TRIGGER todos_check_assignee_update BEFORE UPDATE ON public.todos
FOR EACH ROW WHEN (NEW.assigned_to IS NOT NULL)
EXECUTE FUNCTION public.todos_check_assignee();

CREATE TRIGGER todos_immutable BEFORE UPDATE OF user_id, id, number, created_at ON public.todos
FOR EACH ROW WHEN (
    OLD.user_id IS DISTINCT FROM NEW.user_id
    OR OLD.id IS DISTINCT FROM NEW.id
    OR OLD.number IS DISTINCT FROM NEW.number
    OR OLD.created_at IS DISTINCT FROM NEW.created_at
)
EXECUTE FUNCTION public.refuse_change('todos', 'user_id, id, number and created_at');

CREATE TRIGGER users_check_deactivation BEFORE UPDATE OF is_active ON public.users
FOR EACH ROW WHEN (OLD.is_active AND NOT NEW.is_active)
EXECUTE FUNCTION public.users_check_deactivation();

COMMENT ON TRIGGER todos_before_insert ON public.todos IS 'Numbers a todo and sets completed_at.';
COMMENT ON TRIGGER todos_before_update ON public.todos IS 'Holds the rules of a change, moves updated_at and version.';
COMMENT ON TRIGGER todos_check_assignee_insert ON public.todos IS 'An assignee must be an active user.';
COMMENT ON TRIGGER todos_check_assignee_update ON public.todos IS
    'An assignee must be an active user, when assigned and when the todo becomes open again.';
COMMENT ON TRIGGER todos_immutable ON public.todos IS 'Refuses to change user_id, id, number and created_at.';
COMMENT ON TRIGGER users_check_deactivation ON public.users IS 'Refuses to deactivate whoever has open todos assigned.';
