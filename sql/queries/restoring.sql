-- Around statements that bring rows back as they were before.

-- name: begin_restoring
-- From here to the end of the transaction rows are inserted and updated as they are: see todos_validate().
-- returns: none
-- index: none
SET LOCAL app.restoring = 'on';

-- name: end_restoring
-- From here on rows are changed by all rules again.
-- returns: none
-- index: none
SET LOCAL app.restoring = '';

-- name: write_entries
-- Write the transaction's audit entries now and not when it commits: to read them, and because no time limit of the
-- database's holds for a commit. What else is checked at the commit stays there: see hold_assignees.
-- returns: none
-- index: none
SET CONSTRAINTS
    users_audit, users_audit_update, identities_audit, identities_audit_update, todos_audit, todos_audit_update,
    conversations_audit, conversations_audit_update, messages_audit, messages_audit_update,
    todo_conversation_links_audit, todo_conversation_links_audit_update
    IMMEDIATE;

-- name: hold_assignees
-- Behind a statement that changes several todos, or ahead of write_entries: who is assigned stays active until the end of
-- the transaction. A deactivation locks the account first and then the trails of those whose todos it changes; so must
-- everybody.
-- returns: none
-- index: none
SET CONSTRAINTS todos_assigned_to_fkey, todos_assignee_hold, todos_assignee_hold_update IMMEDIATE;
