-- Put the audit trail in an order in which it can be followed and replayed, and make `changes` readable.
--
-- What: audit_log.commit_order, xact as a number of the same scale, their indexes, audit_changes(), and a
--   trigger that checks actor_id.
-- Why: (xact, id) is not the order of changes. A transaction that began earlier may change a row after
--   one that began later has changed it and committed; a replay in that order would end wrong.
--   commit_order is set by the INSERT in the audit functions, which takes its snapshot when the row is
--   locked already: every transaction that changed the row before is complete in it.
-- Code: runs before the release that answers /v1/audit and /v1/changes; the release before writes
--   through the same triggers and reads neither column.
-- Data: every row is rewritten, whatever row security says, because ALTER TABLE does it. SET NOT NULL
--   is the check that none is left out. Entries of before keep the order of (xact, id).
-- Locks: audit_log, against everything, while it is rewritten: about 2 s for a million entries.
-- Rollback loses: the commit order; the order of (xact, id) is back.
-- depends: 0012_create_expect_position

-- The table is locked and rewritten as a whole: its indexes can wait no shorter.
-- squawk-ignore-file require-concurrent-index-deletion, require-concurrent-index-creation
-- squawk-ignore-file ban-drop-default, changing-column-type, adding-not-nullable-field

SET LOCAL ROLE todochat_owner;

DROP INDEX public.audit_log_user_id_xact_idx;
DROP INDEX public.audit_log_user_id_row_id_idx;

ALTER TABLE public.audit_log ALTER COLUMN xact DROP DEFAULT;
ALTER TABLE public.audit_log ADD COLUMN commit_order bigint;

ALTER TABLE public.audit_log
ALTER COLUMN xact TYPE bigint USING 2 * xact::text::bigint + 1,
ALTER COLUMN commit_order TYPE bigint USING 2 * xact::text::bigint + 1,
ALTER COLUMN xact SET DEFAULT 2 * txid_current() + 1,
ALTER COLUMN commit_order SET DEFAULT
    greatest(2 * txid_current() + 1, 2 * txid_snapshot_xmax(txid_current_snapshot())),
ALTER COLUMN commit_order SET NOT NULL;

COMMENT ON COLUMN public.audit_log.xact IS
    'The transaction: twice its id, and one. What a cascade deleted has the xact of the row it began with.';
COMMENT ON COLUMN public.audit_log.commit_order IS
    'With id, the order in which changes were made to a row and became visible: xact, or twice the xmax of the '
    'snapshot if that is more. Even numbers say that every transaction below half of it is complete. A transaction '
    'that still runs, or begins later, only writes entries above twice pg_snapshot_xmin(): the change feed hands out '
    'what is not above it. After a restore into another cluster, see `todochat rebase`.';

CREATE INDEX audit_log_user_id_commit_order_idx ON public.audit_log (user_id, commit_order, id);
CREATE INDEX audit_log_user_id_row_id_idx ON public.audit_log (user_id, row_id, commit_order, id);
-- Neither inserts (before is null) nor what merely counts or toggles: 100,000 messages leave 100,000 entries of
-- their conversation that don't have its title.
CREATE INDEX audit_log_user_id_row_id_rare_idx ON public.audit_log (user_id, row_id, commit_order, id)
WHERE before ?| '{email,username,full_name,is_active,issuer,subject,title,description,priority,due_date,assigned_to,'
'metadata,content,message_type,relationship_type}';

COMMENT ON INDEX public.audit_log_user_id_commit_order_idx IS
    'Serves the change feed, in commit order, and what a cascade deleted.';
COMMENT ON INDEX public.audit_log_user_id_row_id_idx IS
    'Serves the new values of an entry, found in the next entry of its row, and the audit list of one row.';
COMMENT ON INDEX public.audit_log_user_id_row_id_rare_idx IS
    'Serves the new values of columns that seldom change, past any number of entries without them.';

CREATE FUNCTION public.audit_check_actor() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF pg_has_role(session_user, 'todochat_owner', 'MEMBER')
        OR (
            NEW.table_name = 'todos' AND (
                NEW.before ->> 'assigned_to' = NEW.actor_id::text
                OR EXISTS (
                    SELECT
                    FROM public.todos AS t
                    WHERE t.user_id = NEW.user_id AND t.id = NEW.row_id AND t.assigned_to = NEW.actor_id
                )
            )
        )
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'app.user_id was changed in the statement that made this change'
        USING ERRCODE = 'insufficient_privilege', TABLE = 'audit_log', COLUMN = 'actor_id';
END
$body$;

COMMENT ON FUNCTION public.audit_check_actor() IS
    'Trigger: somebody else than the owner of the data may only be the assignee of a todo, or an operator, who may '
    'work without app.user_id too. Else a statement that sets app.user_id on its way, in RETURNING, would have its changes '
    'recorded as somebody else''s.';

REVOKE ALL ON FUNCTION public.audit_check_actor() FROM PUBLIC;

CREATE TRIGGER audit_log_check_actor BEFORE INSERT ON public.audit_log
FOR EACH ROW WHEN (NEW.actor_id IS DISTINCT FROM NEW.user_id)
EXECUTE FUNCTION public.audit_check_actor();

COMMENT ON TRIGGER audit_log_check_actor ON public.audit_log IS
    'Refuses to record a change as somebody''s who can''t have made it. Costs a comparison where the owner made it.';

CREATE FUNCTION public.utc_time(value jsonb) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN to_jsonb(replace(
    to_char((value #>> '{}')::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z'
));

COMMENT ON FUNCTION public.utc_time(jsonb) IS
    'A time of a row as jsonb, which was written in some session''s time zone, as the service answers it: UTC with Z. '
    'JSON null stays null.';

CREATE FUNCTION public.audit_changes(
    user_id uuid, commit_order bigint, id uuid, action text, table_name text, row_id uuid, before jsonb
) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
DECLARE
    owner_id constant uuid := audit_changes.user_id;
    changed_id constant uuid := audit_changes.row_id;
    -- Columns that may change any number of times while the others stay.
    often constant text[] := CASE audit_changes.table_name
        WHEN 'todos' THEN '{status,completed_at,updated_at,version}'::text[]
        WHEN 'conversations' THEN '{last_position,message_count,updated_at,version}'
        WHEN 'users' THEN '{token_version,updated_at,version}'
        ELSE '{updated_at,version}'
    END;
    -- All columns that the entry is about; null for an insert, which is about every one.
    columns constant text[] := CASE
        WHEN audit_changes.before IS NOT NULL THEN ARRAY(SELECT jsonb_object_keys(audit_changes.before))
    END;
    present jsonb;
    -- Old values in later entries, of the earliest that has the column.
    found_often jsonb := '{}';
    found_rare jsonb := '{}';
    wanted text[];
    next_entry record;
    later record;
BEGIN
    IF audit_changes.action <> 'delete' THEN
        CASE audit_changes.table_name
            WHEN 'todos' THEN
                SELECT to_jsonb(t) - '{completed,priority_rank}'::text[] INTO present
                FROM public.todos AS t WHERE t.user_id = owner_id AND t.id = changed_id;
            WHEN 'conversations' THEN
                SELECT to_jsonb(c) INTO present
                FROM public.conversations AS c WHERE c.user_id = owner_id AND c.id = changed_id;
            WHEN 'messages' THEN
                SELECT to_jsonb(m) - 'role' INTO present
                FROM public.messages AS m WHERE m.user_id = owner_id AND m.id = changed_id;
            WHEN 'todo_conversation_links' THEN
                SELECT to_jsonb(l) INTO present
                FROM public.todo_conversation_links AS l WHERE l.user_id = owner_id AND l.id = changed_id;
            WHEN 'users' THEN
                SELECT to_jsonb(u) - '{password_hash,email_key,username_key,tokens_valid_from}'::text[] INTO present
                FROM public.users AS u WHERE u.id = owner_id AND u.id = changed_id;
            WHEN 'identities' THEN
                SELECT to_jsonb(i) INTO present
                FROM public.identities AS i WHERE i.user_id = owner_id AND i.id = changed_id;
        END CASE;

        -- The very next entry says all there is, for most.
        SELECT a.commit_order, a.id, a.action, coalesce(a.before, '{}') AS before INTO next_entry
        FROM public.audit_log AS a
        WHERE a.user_id = owner_id AND a.row_id = changed_id AND a.table_name = audit_changes.table_name
            AND (a.commit_order, a.id) > (audit_changes.commit_order, audit_changes.id)
        ORDER BY a.commit_order, a.id
        LIMIT 1;
        IF FOUND THEN
            found_often := next_entry.before;
            found_rare := next_entry.before;
        END IF;

        wanted := ARRAY(SELECT o.name FROM unnest(often) AS o (name) WHERE columns IS NULL OR o.name = ANY (columns));
        IF next_entry.action <> 'delete' AND NOT found_often ?& wanted THEN
            FOR later IN
                SELECT a.action, coalesce(a.before, '{}') AS before
                FROM public.audit_log AS a
                WHERE a.user_id = owner_id AND a.row_id = changed_id AND a.table_name = audit_changes.table_name
                    AND (a.commit_order, a.id) > (next_entry.commit_order, next_entry.id)
                ORDER BY a.commit_order, a.id
            LOOP
                found_often := later.before || found_often;
                EXIT WHEN later.action = 'delete' OR found_often ?& wanted;
            END LOOP;
        END IF;

        wanted := ARRAY(SELECT c.name FROM unnest(columns) AS c (name) WHERE c.name <> ALL (often));
        IF next_entry.action <> 'delete' AND (columns IS NULL OR NOT found_rare ?& wanted) THEN
            -- The condition is the one of the index audit_log_user_id_row_id_rare_idx, word for word.
            FOR later IN
                SELECT a.action, a.before
                FROM public.audit_log AS a
                WHERE a.user_id = owner_id AND a.row_id = changed_id AND a.table_name = audit_changes.table_name
                    AND (a.commit_order, a.id) > (next_entry.commit_order, next_entry.id)
                    AND a.before ?| '{email,username,full_name,is_active,issuer,subject,title,description,priority,'
                    'due_date,assigned_to,metadata,content,message_type,relationship_type}'
                ORDER BY a.commit_order, a.id
            LOOP
                found_rare := later.before || found_rare;
                EXIT WHEN later.action = 'delete' OR (columns IS NOT NULL AND found_rare ?& wanted);
            END LOOP;
        END IF;
    END IF;

    RETURN (
        SELECT coalesce(jsonb_object_agg(v.name, jsonb_build_array(v.before, v.after)), '{}')
        FROM (
            SELECT
                c.name,
                CASE WHEN c.is_time THEN public.utc_time(c.before) ELSE c.before END AS before,
                CASE WHEN c.is_time THEN public.utc_time(c.after) ELSE c.after END AS after
            FROM (
                SELECT
                    k.name,
                    k.name IN ('created_at', 'updated_at', 'due_date', 'completed_at') AS is_time,
                    audit_changes.before -> k.name AS before,
                    CASE WHEN audit_changes.action <> 'delete' THEN coalesce(
                        CASE WHEN k.name = ANY (often) THEN found_often -> k.name ELSE found_rare -> k.name END,
                        present -> k.name
                    ) END AS after
                FROM unnest(
                    coalesce(columns, ARRAY(SELECT jsonb_object_keys(coalesce(present, found_rare))))
                ) AS k (name)
            ) AS c
        ) AS v
        -- A conversation's updated_at may stand still while its messages are counted.
        WHERE audit_changes.action <> 'update' OR v.before IS DISTINCT FROM v.after
    );
END
$body$;

COMMENT ON FUNCTION public.audit_changes(uuid, bigint, uuid, text, text, uuid, jsonb) IS
    'An entry''s column -> [before, after]. What a column became stands in the next entry of the row that has its old '
    'value, else in the row. Null on the missing side of an insert or delete; times in UTC, as RFC 3339.';

CREATE FUNCTION public.rebase_audit_log() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    -- What every transaction from now on writes above, and the feed hands out at once.
    reached bigint;
    newest bigint;
    last_id uuid;
    distance bigint;
    moved bigint;
BEGIN
    LOCK TABLE public.audit_log IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE public.audit_log NO FORCE ROW LEVEL SECURITY;
    reached := 2 * txid_snapshot_xmin(txid_current_snapshot());
    SELECT max(a.commit_order) INTO newest
    FROM public.audit_log AS a;
    IF newest > 2 * txid_snapshot_xmax(txid_current_snapshot()) THEN
        -- What has been written here since the dump came in is younger than all that came with it, and stays.
        SELECT a.id INTO last_id
        FROM public.audit_log AS a
        WHERE a.commit_order > 2 * txid_snapshot_xmax(txid_current_snapshot())
        ORDER BY a.id DESC
        LIMIT 1;
        SELECT
            least(reached, min(a.commit_order) FILTER (WHERE a.id > last_id) - 1),
            count(*) FILTER (WHERE a.id <= last_id)
        INTO reached, moved
        FROM public.audit_log AS a;
        distance := newest - reached;
        EXECUTE format(
            'ALTER TABLE public.audit_log '
            'ALTER COLUMN xact TYPE bigint USING xact - CASE WHEN id <= %1$L THEN %2$s ELSE 0 END, '
            'ALTER COLUMN commit_order TYPE bigint USING commit_order - CASE WHEN id <= %1$L THEN %2$s ELSE 0 END',
            last_id, distance
        );
        IF to_regclass('public.audit_prunes') IS NOT NULL THEN
            UPDATE public.audit_prunes AS p
            SET commit_order = p.commit_order - distance
            WHERE p.id <= last_id;
        END IF;
    END IF;
    ALTER TABLE public.audit_log FORCE ROW LEVEL SECURITY;
    RETURN coalesce(moved, 0);
END
$body$;

COMMENT ON FUNCTION public.rebase_audit_log() IS
    'For the operator: after a dump was restored into another cluster, whose transaction ids begin anew, moves what '
    'came with it to before what is written from now on, in the order it has. Says how many entries; none where '
    'nothing is ahead of this cluster. audit_log is locked and rewritten.';

REVOKE ALL ON FUNCTION
    public.rebase_audit_log(), public.utc_time(jsonb), public.audit_changes(uuid, bigint, uuid, text, text, uuid, jsonb)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    public.utc_time(jsonb), public.audit_changes(uuid, bigint, uuid, text, text, uuid, jsonb)
TO todochat_app;
