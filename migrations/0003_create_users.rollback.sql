-- Drop users and its functions. Every account is lost.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.find_user_by_username(text);
DROP FUNCTION public.find_credentials(text);
DROP FUNCTION public.authenticate(uuid, integer);
DROP TABLE public.users;
DROP FUNCTION public.users_before_update();
DROP FUNCTION public.refuse_change();
