-- Around statements that bring rows back as they were before.

-- name: begin_restoring
-- From here to the end of the transaction rows are inserted and updated as they are: see todos_validate().
-- returns: none
-- index: none
SET LOCAL app.restoring = 'on';

-- name: write_entries
-- Write the transaction's audit entries now and not when it commits: to read them, and because no time limit of the
-- database's holds for a commit. What else is checked at the commit stays there, since it locks other users' accounts.
-- returns: none
-- index: none
SET CONSTRAINTS
    users_audit, users_audit_update, identities_audit, identities_audit_update, todos_audit, todos_audit_update,
    conversations_audit, conversations_audit_update, messages_audit, messages_audit_update,
    todo_conversation_links_audit, todo_conversation_links_audit_update
    IMMEDIATE;
