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
-- Write the transaction's audit entries now, and not when it commits: so that they can be read, and because no time limit
-- of the database holds for a commit. Everything else that is checked at the commit stays there: see hold_assignees.
-- returns: none
-- index: none
SET CONSTRAINTS
    users_audit, users_audit_update, identities_audit, identities_audit_update, todos_audit, todos_audit_update,
    conversations_audit, conversations_audit_update, messages_audit, messages_audit_update,
    todo_conversation_links_audit, todo_conversation_links_audit_update
    IMMEDIATE;

-- name: hold_assignees
-- Check now, and not when the transaction commits, that whoever a todo was assigned to is active, and lock their accounts,
-- so that they stay active until the transaction ends. It runs behind statements that change several todos, and ahead of
-- write_entries, because everybody must lock accounts first and audit trails then: a deactivation locks the account, and
-- then the trails of the users whose todos it changes. In another order two transactions could wait for each other.
-- returns: none
-- index: none
SET CONSTRAINTS todos_assigned_to_fkey, todos_assignee_hold, todos_assignee_hold_update IMMEDIATE;
