-- Drop messages. Every message is lost; conversations keep the counters they had.

SET LOCAL ROLE todochat_owner;

DROP TABLE public.messages;
DROP FUNCTION public.messages_before_update();
DROP FUNCTION public.messages_after_delete();
DROP FUNCTION public.messages_after_insert();
DROP FUNCTION public.messages_before_insert();
