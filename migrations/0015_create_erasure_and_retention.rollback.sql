-- Drop the functions of erasure and retention, the memory of what was pruned, and the owner's policies. Followers of
-- the change feed are no longer told when what they have not seen was pruned.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.prune_idempotency_keys(integer);
DROP FUNCTION public.count_prunable_keys();
DROP FUNCTION public.prune_audit_log(uuid, uuid, integer);
DROP FUNCTION public.count_prunable_entries(uuid, uuid);
DROP FUNCTION public.find_prunable_user(uuid, uuid);
DROP FUNCTION public.erase_user(uuid, integer, boolean);

CREATE OR REPLACE FUNCTION public.audit_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before, request_id)
    VALUES (
        OLD.user_id, nullif(current_setting('app.user_id', true), '')::uuid, 'delete', TG_ARGV[0], OLD.id,
        to_jsonb(OLD) - TG_ARGV[1]::text[], nullif(current_setting('app.request_id', true), '')
    );
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.audit_delete() IS
    'Trigger: an entry with the deleted row. Arguments: the table, and the columns to leave out.';

COMMENT ON TABLE public.audit_log IS
    'One entry for every insert, update and delete of a user''s data, written by triggers. Append-only: the service '
    'reads its user''s entries and can do nothing else. No foreign key: entries outlive what they tell of.';

DROP TABLE public.audit_prunes;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX public.audit_log_actor_id_idx;
DROP POLICY idempotency_keys_retention ON public.idempotency_keys;
DROP POLICY audit_log_retention ON public.audit_log;
