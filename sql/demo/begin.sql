-- What the other files of this folder rely on: the planner's settings, and functions that end.sql drops before the
-- transaction ends, so that nobody else ever sees them. They are single expressions, which the planner puts in place of
-- the calls.

-- New rows have no statistics: the planner would read whole tables for each slice of users.
SET LOCAL enable_seqscan = off;

SET LOCAL enable_hashjoin = off;

SET LOCAL enable_mergejoin = off;

-- A file is run once for each slice of users, or for each user: planning it each time would cost as much as running it.
SET LOCAL plan_cache_mode = force_generic_plan;

SET LOCAL jit = off;

-- A random number from 0 to below 1: the same bits and salt give the same number, on every machine.
CREATE FUNCTION public.demo_random(bits bigint, salt bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashint8extended(bits, salt) & 9007199254740991) / 9007199254740992::double precision;

CREATE FUNCTION public.demo_pick(texts text[], random double precision) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN texts[1 + floor(random * cardinality(texts))::integer];

-- A UUID version 7 as public.uuid7() makes it, of a given time and from given bits.
CREATE FUNCTION public.demo_uuid7(at timestamptz, bits bigint) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    overlay(
        lpad(to_hex(((date_part('epoch', at) * 1000000)::bigint * 512) / 125), 15, '0')
        PLACING '7' FROM 13 FOR 0
    ) || to_hex(bits & 4611686018427387903 | -9223372036854775808)
)::uuid;

-- Something to do, as it stands in the middle of a sentence.
CREATE FUNCTION public.demo_errand(bits bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN public.demo_pick(
    ARRAY['book', 'call about', 'check', 'draft', 'fix', 'order', 'pay for', 'plan', 'prepare', 'renew', 'review',
        'send'],
    public.demo_random(bits, 101)
) || ' ' || public.demo_pick(
    ARRAY['the dentist', 'the quarterly report', 'new running shoes', 'the train to Hamburg', 'the kitchen sink',
        'the insurance', 'slides for Monday', 'the release notes', 'flowers for Mia', 'the garden hose', 'the lease',
        'birthday presents', 'the backup job', 'the winter tyres', 'an answer to the school', 'the invoice of March',
        'the hiking trip', 'the bookshelf', 'interview questions', 'the library books'],
    public.demo_random(bits, 102)
);

-- The users numbered first to last, of 1 to users. They joined in the order of their numbers, in 2024; all that they
-- own is of 2025. Of all rows a user owns the part between part_begin and part_end, where 0 is none and 1 is all: it
-- falls with the user's rank as 1 / (rank + 4). User 1 has rank 0 and owns most; the ranks of the others are mixed.
CREATE FUNCTION public.demo_users(seed integer, users integer, first integer, last integer)
RETURNS TABLE (
    number integer, id uuid, created_at timestamptz, part_begin double precision, part_end double precision
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $body$
    SELECT
        r.number,
        public.demo_uuid7(r.created_at, hashint8extended(r.number, demo_users.seed)),
        r.created_at,
        ln(1 + r.rank / 4::double precision) / ln(1 + demo_users.users / 4::double precision),
        ln(1 + (r.rank + 1) / 4::double precision) / ln(1 + demo_users.users / 4::double precision)
    FROM (
        SELECT
            n.number,
            '2024-01-02T00:00:00Z'::timestamptz + (n.number - 1) * (interval '365 days' / demo_users.users)
                AS created_at,
            -- Multiplying with a prime that is no factor of users gives each number another rank.
            mod((n.number - 1) * 2147483647::bigint, demo_users.users) AS rank
        FROM generate_series(demo_users.first, demo_users.last) AS n (number)
    ) AS r
$body$;
