-- Drop todos and their counters. Every todo is lost, and numbers start again at 1.

SET LOCAL ROLE todochat_owner;

DROP TRIGGER users_check_deactivation ON public.users;
DROP FUNCTION public.users_check_deactivation();
DROP TABLE public.todos;
DROP FUNCTION public.todos_check_assignee();
DROP FUNCTION public.todos_before_update();
DROP FUNCTION public.todos_before_insert();
DROP TABLE public.todo_counters;
