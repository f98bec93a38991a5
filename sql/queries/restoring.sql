-- Around statements that bring rows back as they were before.

-- name: begin_restoring
-- From here to the end of the transaction rows are inserted and updated as they are: see todos_validate().
-- returns: none
-- index: none
SET LOCAL app.restoring = 'on';

-- name: write_entries
-- Write the transaction's audit entries now and not when it commits: to read them, and because no time limit of the
-- database's holds for a commit.
-- returns: none
-- index: none
SET CONSTRAINTS ALL IMMEDIATE;
