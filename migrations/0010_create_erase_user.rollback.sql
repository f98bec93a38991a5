-- Drop erase_user(). Nothing is lost; nobody can be erased.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.erase_user(uuid, integer, boolean);
