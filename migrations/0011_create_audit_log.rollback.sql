-- Drop the audit triggers, their functions and audit_log. The whole trail is lost.

SET LOCAL ROLE todochat_owner;

DROP TRIGGER todo_conversation_links_audit_insert ON public.todo_conversation_links;
DROP TRIGGER todo_conversation_links_audit_update ON public.todo_conversation_links;
DROP TRIGGER todo_conversation_links_audit_delete ON public.todo_conversation_links;
DROP TRIGGER messages_audit_insert ON public.messages;
DROP TRIGGER messages_audit_update ON public.messages;
DROP TRIGGER messages_audit_delete ON public.messages;
DROP TRIGGER conversations_audit_insert ON public.conversations;
DROP TRIGGER conversations_audit_update ON public.conversations;
DROP TRIGGER conversations_audit_delete ON public.conversations;
DROP TRIGGER todos_audit_insert ON public.todos;
DROP TRIGGER todos_audit_update ON public.todos;
DROP TRIGGER todos_audit_delete ON public.todos;
DROP TRIGGER identities_audit_insert ON public.identities;
DROP TRIGGER identities_audit_update ON public.identities;
DROP TRIGGER identities_audit_delete ON public.identities;
DROP TRIGGER users_audit_insert ON public.users;
DROP TRIGGER users_audit_update ON public.users;
DROP TRIGGER users_audit_delete ON public.users;

DROP FUNCTION public.audit_todo_conversation_links_update();
DROP FUNCTION public.audit_messages_update();
DROP FUNCTION public.audit_conversations_update();
DROP FUNCTION public.audit_todos_update();
DROP FUNCTION public.audit_identities_update();
DROP FUNCTION public.audit_users();
DROP FUNCTION public.audit_delete();
DROP FUNCTION public.audit_insert();

DROP TABLE public.audit_log;
