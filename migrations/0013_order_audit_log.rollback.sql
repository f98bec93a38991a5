-- Go back to the order of (xact, id). The commit order is lost; no entry is.
--
-- Locks: audit_log, against everything, while it is rewritten.

-- squawk-ignore-file require-concurrent-index-deletion, require-concurrent-index-creation
-- squawk-ignore-file ban-drop-default, changing-column-type

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.rebase_audit_log();
DROP FUNCTION public.audit_changes(uuid, bigint, uuid, text, text, uuid, jsonb);
DROP FUNCTION public.utc_time(jsonb);
DROP TRIGGER audit_log_check_actor ON public.audit_log;
DROP FUNCTION public.audit_check_actor();

DROP INDEX public.audit_log_user_id_row_id_rare_idx;
DROP INDEX public.audit_log_user_id_row_id_idx;
DROP INDEX public.audit_log_user_id_commit_order_idx;

ALTER TABLE public.audit_log DROP COLUMN commit_order;
ALTER TABLE public.audit_log ALTER COLUMN xact DROP DEFAULT;
-- What `todochat rebase` moved below zero was written by no transaction of this cluster: 3 is the first there is.
ALTER TABLE public.audit_log
ALTER COLUMN xact TYPE xid8 USING greatest((xact - 1) / 2, 3)::text::xid8,
ALTER COLUMN xact SET DEFAULT pg_current_xact_id();

COMMENT ON COLUMN public.audit_log.xact IS
    'The transaction. Once it is below pg_snapshot_xmin() no entry of it or an earlier one can appear any more: '
    'the change feed hands out entries in the order of (xact, id) up to there.';

CREATE INDEX audit_log_user_id_xact_idx ON public.audit_log (user_id, xact, id);
CREATE INDEX audit_log_user_id_row_id_idx ON public.audit_log (user_id, row_id, id);

COMMENT ON INDEX public.audit_log_user_id_xact_idx IS 'Serves the change feed, in commit order.';
COMMENT ON INDEX public.audit_log_user_id_row_id_idx IS
    'Serves the new values of an entry, found in the next entry of its row, and the audit list of one row.';
