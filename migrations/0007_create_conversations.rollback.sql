-- Drop conversations. Every conversation is lost.

SET LOCAL ROLE todochat_owner;

DROP TABLE public.conversations;
DROP FUNCTION public.conversations_before_update();
