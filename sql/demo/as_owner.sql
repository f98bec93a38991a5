-- Write through every trigger, as todochat_owner. Messages leave their conversation's times where they are. Row security
-- is forced on the owner too: as_user.sql says whose rows come next.

SET LOCAL app.restoring = 'on';
