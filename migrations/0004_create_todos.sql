-- Make todos and todo_counters, with the rules that hold for whoever writes, and the one on deactivating a user.
-- Why: the rules of status, completed_at, due_date and assigned_to need the row as it was, or another user's row: no
--   constraint can say them.
-- Locks: users, against writes, for a moment (foreign keys, trigger).
-- Rollback loses: all todos, and which numbers were used.
-- depends: 0003_create_users
SET LOCAL ROLE todochat_owner;
CREATE TABLE public.todo_counters (
    user_id uuid NOT NULL,
    last_number public.ordinal NOT NULL,
    CONSTRAINT todo_counters_pkey PRIMARY KEY (user_id),
    CONSTRAINT todo_counters_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE
)
-- Room in each page, so that counting stays within it (HOT) and never touches the index; and spent versions, of which
-- each todo leaves one, go before there are many.
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE public.todo_counters IS 'The last number given to a todo, for each user who ever had one.';
COMMENT ON COLUMN public.todo_counters.user_id IS 'Whose todos are counted; goes with the user.';
COMMENT ON COLUMN public.todo_counters.last_number IS
    'The highest ever used: deleted todos keep theirs from coming again.';
COMMENT ON INDEX public.todo_counters_pkey IS 'Serves todos_validate(), which takes the next number.';
GRANT SELECT, INSERT, UPDATE (last_number) ON public.todo_counters TO todochat_app;

CREATE TABLE public.todos (
    user_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT public.uuid7(),
    number public.ordinal NOT NULL,
    title public.title NOT NULL,
    description public.description,
    status public.status NOT NULL DEFAULT 'pending',
    completed boolean NOT NULL GENERATED ALWAYS AS (status = 'completed') STORED,
    priority public.priority NOT NULL DEFAULT 'medium',
    due_date public.moment,
    assigned_to uuid,
    completed_at public.moment,
    metadata public.metadata NOT NULL DEFAULT '{}',
    created_at public.moment NOT NULL DEFAULT now(),
    updated_at public.moment NOT NULL DEFAULT now(),
    version public.ordinal NOT NULL DEFAULT 1,
    updated_hour timestamptz NOT NULL GENERATED ALWAYS AS (date_bin('1 hour', updated_at, 'epoch')) STORED,
    CONSTRAINT todos_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT todos_user_id_number_key UNIQUE (user_id, number),
    CONSTRAINT todos_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id),
    CONSTRAINT todos_assigned_to_fkey FOREIGN KEY (assigned_to) REFERENCES public.users (id) ON DELETE SET NULL,
    CONSTRAINT todos_completed_at_check CHECK (
        (completed = (completed_at IS NOT NULL) OR status = 'archived')
        AND completed_at <= clock_timestamp()
    ),
    CONSTRAINT todos_times_check CHECK (updated_at >= created_at)
)
-- Room in each page, so that a change which moves no index stays within it (HOT): all did, over a million writes. Half as
-- many left 400 spent versions where PostgreSQL's own 20 % left 20,000, and indexes smaller by 4 %, for 18 vacuums, not 4.
WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX todos_user_id_created_at_idx ON public.todos (user_id, created_at, id);
CREATE INDEX todos_user_id_updated_hour_idx ON public.todos (user_id, updated_hour);
CREATE INDEX todos_user_id_due_date_idx ON public.todos (user_id, due_date, id);
CREATE INDEX todos_user_id_priority_rank_idx ON public.todos (
    user_id, (CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END), id
);
CREATE INDEX todos_user_id_status_created_at_idx ON public.todos (user_id, status, created_at, id);
CREATE INDEX todos_assigned_to_idx ON public.todos (assigned_to, id)
WHERE assigned_to IS NOT NULL;
COMMENT ON TABLE public.todos IS 'Things to do.';
COMMENT ON COLUMN public.todos.user_id IS 'The owner.';
COMMENT ON COLUMN public.todos.number IS
    '1, 2, 3 ... for each owner, by trigger, never reused: what a person says aloud.';
COMMENT ON COLUMN public.todos.title IS 'What is to be done.';
COMMENT ON COLUMN public.todos.description IS 'More about it, or null.';
COMMENT ON COLUMN public.todos.status IS 'An archived todo can only go back to pending.';
COMMENT ON COLUMN public.todos.completed IS 'Whether status is completed.';
COMMENT ON COLUMN public.todos.priority IS 'low < medium < high < urgent.';
COMMENT ON COLUMN public.todos.due_date IS 'Never written in the past on a completed todo.';
COMMENT ON COLUMN public.todos.assigned_to IS
    'A user who can read this todo and change its status: active, as long as it is pending or in progress.';
COMMENT ON COLUMN public.todos.completed_at IS
    'Set when completed (by trigger unless given), cleared when reopened, kept when archived; never in the future.';
COMMENT ON COLUMN public.todos.metadata IS 'What a client keeps with it.';
COMMENT ON COLUMN public.todos.updated_hour IS
    'The hour of updated_at, indexed in its place: most changes leave it as it is.';
COMMENT ON INDEX public.todos_pkey IS 'Serves one todo by id, and the foreign keys to todos.';
COMMENT ON INDEX public.todos_user_id_number_key IS 'Serves one todo by number, and the list in order of number.';
COMMENT ON INDEX public.todos_user_id_created_at_idx IS 'Serves own todos by created_at, the default order, both ways.';
COMMENT ON INDEX public.todos_user_id_updated_hour_idx IS
    'Serves the list of one''s own todos by updated_at, both ways: what was changed within an hour is sorted.';
COMMENT ON INDEX public.todos_user_id_due_date_idx IS
    'Serves the list of one''s own todos by due_date, both ways, and the filters due_before, due_after and overdue.';
COMMENT ON INDEX public.todos_user_id_priority_rank_idx IS 'Serves own todos by priority, both ways, and of some.';
COMMENT ON INDEX public.todos_user_id_status_created_at_idx IS
    'Serves the list of one''s own todos of one status or some, by created_at, and the filter by completed.';
COMMENT ON INDEX public.todos_assigned_to_idx IS
    'Serves one todo by id and the lists (sorted) for its assignee, the check on deactivating them and the foreign '
    'key.';
GRANT
    SELECT,
    INSERT (user_id, id, number, title, description, status, priority, due_date, assigned_to, completed_at,
        metadata, created_at, updated_at, version),
    UPDATE (title, description, status, priority, due_date, assigned_to, completed_at, metadata),
    DELETE
ON public.todos TO todochat_app;
CREATE POLICY todos_assignee_select ON public.todos FOR SELECT
USING (assigned_to = nullif(current_setting('app.user_id', true), '')::uuid);
CREATE POLICY todos_assignee_update ON public.todos FOR UPDATE
USING (assigned_to = nullif(current_setting('app.user_id', true), '')::uuid);
CREATE POLICY todos_check_deactivation ON public.todos FOR SELECT TO todochat_owner
USING (assigned_to IS NOT NULL);
CREATE POLICY todos_unassign ON public.todos FOR UPDATE TO todochat_owner
USING (assigned_to IS NOT NULL)
WITH CHECK (assigned_to IS NULL);
COMMENT ON POLICY todos_assignee_select ON public.todos IS 'An assignee reads the todo.';
COMMENT ON POLICY todos_assignee_update ON public.todos IS 'todos_validate() lets only the status through.';
COMMENT ON POLICY todos_check_deactivation ON public.todos IS 'users_before_revocation() must see whose they are.';
COMMENT ON POLICY todos_unassign ON public.todos IS 'users_before_revocation() takes an assignee off, and no more.';

-- OLD is null in an insert. Fires behind touch(), whose time is the time of a completion. enable_seqscan: a plan that a
-- session made while a table was small must not read all of it later.
CREATE FUNCTION public.todos_validate() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.number IS NULL THEN
            -- The counter's row stays locked until the end of the transaction: numbers have no holes.
            UPDATE public.todo_counters AS c
            SET last_number = c.last_number + 1
            WHERE c.user_id = NEW.user_id
            RETURNING c.last_number INTO NEW.number;
            IF NOT FOUND THEN
                INSERT INTO public.todo_counters AS c (user_id, last_number)
                VALUES (NEW.user_id, 1)
                ON CONFLICT (user_id) DO UPDATE SET last_number = c.last_number + 1
                RETURNING c.last_number INTO NEW.number;
            END IF;
        ELSE
            INSERT INTO public.todo_counters AS c (user_id, last_number)
            VALUES (NEW.user_id, NEW.number)
            ON CONFLICT (user_id) DO UPDATE SET last_number = excluded.last_number
            WHERE c.last_number < excluded.last_number;
        END IF;
    ELSIF OLD.user_id <> nullif(current_setting('app.user_id', true), '')::uuid THEN
        -- Deeper than one, it is a foreign key that sets assigned_to to null, whoever deletes the user.
        IF pg_trigger_depth() = 1
            AND (NEW.title, NEW.description, NEW.priority, NEW.due_date, NEW.assigned_to, NEW.completed_at, NEW.metadata)
            IS DISTINCT FROM
            (OLD.title, OLD.description, OLD.priority, OLD.due_date, OLD.assigned_to, OLD.completed_at, OLD.metadata)
        THEN
            RAISE EXCEPTION 'an assignee may change the status and nothing else'
                USING ERRCODE = 'TC403', TABLE = 'todos';
        END IF;
    END IF;
    -- Nothing else is asked of a todo that begins or stays open, or goes back to what it was, by an import or an undo.
    IF (NEW.status IN ('pending', 'in_progress') AND NEW.status = coalesce(OLD.status, NEW.status))
        OR current_setting('app.restoring', true) = 'on'
    THEN
        RETURN NEW;
    END IF;
    IF NEW.status IS DISTINCT FROM OLD.status THEN
        IF OLD.status = 'archived' AND NEW.status IN ('in_progress', 'completed') THEN
            RAISE EXCEPTION 'an archived todo can only become pending'
                USING ERRCODE = 'TC409', TABLE = 'todos', COLUMN = 'status',
                    DETAIL = format('The status cannot go from %s to %s.', OLD.status, NEW.status);
        END IF;
        IF NEW.status = 'completed' THEN
            NEW.completed_at := coalesce(NEW.completed_at, least(NEW.updated_at, clock_timestamp()));
        ELSIF NEW.status <> 'archived' AND NEW.completed_at = OLD.completed_at THEN
            NEW.completed_at := NULL;
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.status = 'archived' AND NEW.completed_at IS DISTINCT FROM OLD.completed_at THEN
        RAISE EXCEPTION 'completed_at is kept when a todo is archived: "todos_completed_at_check"'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'completed_at',
                CONSTRAINT = 'todos_completed_at_check';
    END IF;
    IF NEW.status = 'completed' AND NEW.due_date < clock_timestamp() AND NEW.due_date IS DISTINCT FROM OLD.due_date THEN
        RAISE EXCEPTION 'due_date of a completed todo must not be in the past: "todos_due_date_check"'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'due_date',
                CONSTRAINT = 'todos_due_date_check';
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION public.todos_validate() IS
    'Trigger: numbers a todo and holds the rules of a change: transitions (TC409), completed_at, due_date, and what '
    'an assignee may change (TC403). With app.restoring = ''on'' only the last and the numbers bind.';

-- SECURITY DEFINER: row security shows the caller no other user.
CREATE FUNCTION public.todos_validate_assignee() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    is_open constant boolean := NEW.status IN ('pending', 'in_progress');
BEGIN
    -- Nothing to check where a closed todo stays closed, or an open one stays with whom it was. Whoever a closed todo
    -- that is brought back was assigned to may have left since; the foreign key still wants them to exist.
    IF (NEW.assigned_to = OLD.assigned_to AND (OLD.status IN ('pending', 'in_progress') OR NOT is_open))
        OR (TG_OP = 'INSERT' AND NOT is_open AND current_setting('app.restoring', true) = 'on')
    THEN
        RETURN NEW;
    END IF;
    -- FOR SHARE: a deactivation waits until this transaction is through, and then sees the todo.
    PERFORM FROM public.users AS u WHERE u.id = NEW.assigned_to AND u.is_active FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'assigned_to must be an active user: "todos_assigned_to_check"'
            USING ERRCODE = 'check_violation', TABLE = 'todos', COLUMN = 'assigned_to',
                CONSTRAINT = 'todos_assigned_to_check';
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION public.todos_validate_assignee() IS
    'Trigger: refuses an assignee who is unknown or inactive, and holds their being active until the transaction ends.';

-- SECURITY DEFINER for the todos of others.
CREATE FUNCTION public.users_before_revocation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    open_todos CURSOR FOR
        SELECT t.user_id
        FROM public.todos AS t
        WHERE t.assigned_to = NEW.id AND t.status IN ('pending', 'in_progress')
        FOR UPDATE;
BEGIN
    IF OLD.is_active AND NOT NEW.is_active THEN
        -- The row is locked by now. What was assigned while waiting for it is seen by a new snapshot only.
        IF current_setting('transaction_isolation') = 'repeatable read' THEN
            RAISE EXCEPTION 'a user cannot be deactivated in a REPEATABLE READ transaction'
                USING ERRCODE = 'invalid_transaction_state', HINT = 'Use READ COMMITTED.';
        END IF;
        FOR todo IN open_todos LOOP
            IF todo.user_id = NEW.id AND NOT pg_has_role(session_user, 'todochat_owner', 'MEMBER') THEN
                RAISE EXCEPTION 'the user still has todos of their own assigned that are pending or in progress'
                    USING ERRCODE = 'TC410', TABLE = 'users', COLUMN = 'is_active';
            END IF;
            -- The owner of the tables may not see the row that results, and an UPDATE with a condition on columns would
            -- need to. CURRENT OF is none.
            UPDATE public.todos
            SET assigned_to = NULL
            WHERE CURRENT OF open_todos;
        END LOOP;
        -- Else tokens from before would work again after a reactivation.
        NEW.token_version := greatest(NEW.token_version, OLD.token_version + 1);
    END IF;
    IF NEW.token_version < OLD.token_version THEN
        RAISE EXCEPTION 'token_version never goes back, or revoked tokens would work again: "users_token_version_check"'
            USING ERRCODE = 'check_violation', TABLE = 'users', COLUMN = 'token_version',
                CONSTRAINT = 'users_token_version_check';
    END IF;
    IF NEW.token_version > OLD.token_version THEN
        NEW.tokens_valid_from := greatest(clock_timestamp(), OLD.tokens_valid_from);
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION public.users_before_revocation() IS
    'Trigger: takes who is deactivated off pending and in_progress todos, and moves token_version and '
    'tokens_valid_from. Refuses who is assigned to such todos of their own (TC410), unless an operator does it.';

CREATE TRIGGER todos_touch BEFORE UPDATE ON public.todos
FOR EACH ROW WHEN (record_ne(
    ROW(OLD.title, OLD.description, OLD.status, OLD.priority, OLD.due_date, OLD.assigned_to, OLD.completed_at,
        OLD.metadata),
    ROW(NEW.title, NEW.description, NEW.status, NEW.priority, NEW.due_date, NEW.assigned_to, NEW.completed_at,
        NEW.metadata)
))
EXECUTE FUNCTION public.touch();
CREATE TRIGGER todos_validate BEFORE INSERT OR UPDATE ON public.todos
FOR EACH ROW EXECUTE FUNCTION public.todos_validate();
CREATE TRIGGER todos_validate_assignee BEFORE INSERT OR UPDATE ON public.todos
FOR EACH ROW WHEN (NEW.assigned_to IS NOT NULL) EXECUTE FUNCTION public.todos_validate_assignee();
CREATE TRIGGER users_before_revocation BEFORE UPDATE OF is_active, token_version ON public.users
FOR EACH ROW EXECUTE FUNCTION public.users_before_revocation();
COMMENT ON TRIGGER todos_validate ON public.todos IS 'Numbers a todo and holds the rules of a change.';
COMMENT ON TRIGGER todos_validate_assignee ON public.todos IS 'An assignee must be an active user.';
COMMENT ON TRIGGER todos_touch ON public.todos IS
    'Every column that may change counts. record_ne() is IS DISTINCT FROM for all in one call, for a sixth of the '
    'cost; where columns are generated, OLD and NEW can''t be compared as a whole.';
COMMENT ON TRIGGER users_before_revocation ON public.users IS
    'Takes who is deactivated off open todos, and ends tokens.';
