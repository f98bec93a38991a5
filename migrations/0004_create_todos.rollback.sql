-- Drop the tables of todos with their rules. All todos are lost, and which numbers were used.

SET LOCAL ROLE todochat_owner;

DROP TRIGGER users_before_revocation ON public.users;
DROP FUNCTION public.users_before_revocation();
DROP TABLE public.todos;
DROP FUNCTION public.todos_validate_assignee();
DROP FUNCTION public.todos_validate();
DROP TABLE public.todo_counters;
