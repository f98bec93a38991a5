-- Have an erasure look for kept answers in 25 hours of the trail. Nothing is lost.

SET LOCAL ROLE todochat_owner;

DO $body$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('public.erase_user(uuid, integer, boolean)'::regprocedure),
        E'\n        AND a.table_name = ''todos''',
        E'\n        AND a.at > now() - interval ''25 hours''\n        AND a.table_name = ''todos'''
    );
END
$body$;
