-- Set what the first reader of each row would set otherwise, and make the statistics: measurements begin even. Runs
-- without a transaction.

SET ROLE todochat_owner;

VACUUM (ANALYZE)
    public.users, public.todos, public.todo_counters, public.conversations, public.messages,
    public.todo_conversation_links, public.audit_log;
