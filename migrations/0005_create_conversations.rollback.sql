-- Drop conversations, messages and links. All of them are lost.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.expect_position(uuid, uuid, integer);
DROP TABLE public.todo_conversation_links;
DROP TABLE public.messages;
DROP FUNCTION public.messages_after_delete();
DROP FUNCTION public.messages_after_insert();
DROP FUNCTION public.messages_before_insert();
DROP TABLE public.conversations;
