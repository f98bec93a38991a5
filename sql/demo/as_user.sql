-- Act as the user of a number, to whom alone row security opens the tables.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param first: integer, the user's number

SELECT set_config('app.user_id', u.id::text, true)
FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(first)s) AS u;
