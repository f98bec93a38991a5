-- Act as the user of a number, to whom alone row security opens the tables.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param first: integer, the user's number

-- What the one before did goes into their trail while they are the one who acts.
SET CONSTRAINTS ALL IMMEDIATE;

SET CONSTRAINTS ALL DEFERRED;

SELECT set_config('app.user_id', u.id::text, true)
FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(first)s) AS u;
