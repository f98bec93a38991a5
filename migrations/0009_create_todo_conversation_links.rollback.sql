-- Drop todo_conversation_links. Every link is lost.

SET LOCAL ROLE todochat_owner;

DROP TABLE public.todo_conversation_links;
DROP FUNCTION public.todo_conversation_links_before_update();
