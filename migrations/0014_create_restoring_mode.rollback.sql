-- Take the restoring mode away: the triggers are again as they were, and app.restoring means nothing. No data is lost.

SET LOCAL ROLE todochat_owner;

REVOKE INSERT (message_count) ON public.conversations FROM todochat_app;

DROP TRIGGER conversations_before_insert ON public.conversations;
DROP FUNCTION public.conversations_before_insert();

CREATE OR REPLACE FUNCTION public.todos_before_insert() RETURNS trigger
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

CREATE OR REPLACE FUNCTION public.todos_before_update() RETURNS trigger
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

CREATE OR REPLACE FUNCTION public.todos_check_assignee() RETURNS trigger
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

CREATE OR REPLACE FUNCTION public.messages_after_insert() RETURNS trigger
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
