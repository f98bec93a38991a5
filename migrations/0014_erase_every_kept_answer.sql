-- Have an erasure find the kept answers of all who ever were assigned a todo, however long ago.
-- Why: it looked through 25 hours of the user's trail, since an answer is kept for a day. But where nothing prunes, an
--   answer stays until its key comes again, and went on holding the todo of a user who had been erased.
-- Locks: nothing. Transactions under way go on with the function they began with.
-- Rollback loses: nothing.
-- depends: 0013_plan_alike_for_every_user
SET LOCAL ROLE todochat_owner;
-- All else in the function of 0010 stays: sql/schema.sql shows the whole.
DO $body$
DECLARE
    whole constant text := pg_get_functiondef('public.erase_user(uuid, integer, boolean)'::regprocedure);
    bound constant text := E'\n        AND a.at > now() - interval ''25 hours''';
BEGIN
    IF position(bound IN whole) = 0 THEN
        RAISE EXCEPTION 'erase_user() is not what 0010_create_erase_user made';
    END IF;
    EXECUTE replace(whole, bound, '');
END
$body$;
