-- Write through every trigger, as todochat_owner. Conversations come with the count of their messages. Row security
-- is forced on the owner too: as_user.sql says whose rows come next.

SET LOCAL app.restoring = 'on';

SET LOCAL app.counted = 'on';
