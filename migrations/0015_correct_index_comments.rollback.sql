-- Have the comments of three indexes say what they said before. Nothing is lost.

SET LOCAL ROLE todochat_owner;

COMMENT ON INDEX public.todos_user_id_due_date_idx IS
    'Serves the list of one''s own todos by due_date, both ways, and the filters due_before, due_after and overdue.';
COMMENT ON INDEX public.todos_user_id_priority_rank_idx IS 'Serves own todos by priority, both ways, and of some.';
COMMENT ON INDEX public.todos_user_id_status_created_at_idx IS
    'Serves the list of one''s own todos of one status or some, by created_at, and the filter by completed.';
