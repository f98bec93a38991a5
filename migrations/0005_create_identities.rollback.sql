-- Drop identities. Which outside account belongs to whom is lost.

SET LOCAL ROLE todochat_owner;

DROP TABLE public.identities;
DROP FUNCTION public.identities_before_update();
