-- Have the comments of three indexes say what they serve since lists look at so many rows of their order.
-- Why: a filter, but for one status alone, is looked for in the order's own index, which these comments denied.
-- Locks: no table's reads or writes wait.
-- Rollback loses: nothing.
-- depends: 0014_erase_every_kept_answer
SET LOCAL ROLE todochat_owner;
COMMENT ON INDEX public.todos_user_id_due_date_idx IS
    'Serves own todos by due_date, both ways, from due_after or due_before on.';
COMMENT ON INDEX public.todos_user_id_priority_rank_idx IS 'Serves own todos by priority, both ways.';
COMMENT ON INDEX public.todos_user_id_status_created_at_idx IS
    'Serves own todos of one status, newest first; with other filters, the index of the order serves.';
