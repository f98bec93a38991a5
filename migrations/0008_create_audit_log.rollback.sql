-- Drop the audit triggers, their function and audit_log. The whole trail is lost.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.audit() CASCADE;
DROP TABLE public.audit_log;
