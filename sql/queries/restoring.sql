-- Bringing rows back as they were before.

-- name: begin_restoring
-- From here to the end of the transaction rows are inserted and updated as they are: see migration 0014.
-- returns: none
-- index: none
SET LOCAL app.restoring = 'on';

-- name: trust_counters
-- The messages to come are those that their conversations, which came in before, count already. Without it each
-- statement counts all that its conversations have.
-- returns: none
-- index: none
SET LOCAL app.counted = 'on';

-- name: check_counters
-- returns: none
-- index: none
SET LOCAL app.counted = 'off';
