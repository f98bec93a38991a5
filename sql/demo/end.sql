-- Drop the functions that begin.sql made.

DROP FUNCTION
    public.demo_users(integer, integer, integer, integer),
    public.demo_errand(bigint),
    public.demo_uuid7(timestamptz, bigint),
    public.demo_pick(text[], double precision),
    public.demo_random(bigint, bigint);
