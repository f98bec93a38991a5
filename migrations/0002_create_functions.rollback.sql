-- Drop the functions of defaults and checks. Refused while a table still uses one.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.metadata_is_valid(jsonb);
DROP FUNCTION public.visible_length(text);
DROP FUNCTION public.uuid7();
