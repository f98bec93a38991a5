-- Make the functions that column defaults and checks call.
--
-- What: uuid7() for ids, visible_length(text) and metadata_is_valid(jsonb) for checks.
-- Why: PostgreSQL has no UUID version 7 before 18, and the two checks stand on several tables.
--   uuid7() is a single expression, which the planner puts in place of the call. The two checks are in
--   PL/pgSQL so that it does not: PostgreSQL plans a table's checks anew for every statement, and with
--   their bodies in place of the calls that cost an insert a quarter more. The checks call them only
--   when a plain expression before them does not decide.
-- Code: runs before the first release.
-- Locks: nothing that exists.
-- Rollback loses: nothing; refused while a table uses them.
-- depends: 0001_create_roles

SET LOCAL ROLE todochat_owner;

-- 60 bits of time (48 of milliseconds, 12 of their fraction: RFC 9562, 6.2, method 3), and from
-- gen_random_uuid() the variant and 62 random bits. microseconds * 512 / 125 = milliseconds * 4096.
CREATE FUNCTION public.uuid7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN (
    overlay(
        lpad(to_hex(((date_part('epoch', clock_timestamp()) * 1000000)::bigint * 512) / 125), 15, '0')
        PLACING '7' FROM 13 FOR 0
    ) || substr(gen_random_uuid()::text, 20)
)::uuid;

COMMENT ON FUNCTION public.uuid7() IS
    'A new UUID version 7 (RFC 9562): ordered by time to a quarter of a microsecond. The default of every id.';

CREATE FUNCTION public.visible_length(value text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $body$
BEGIN
    RETURN char_length(btrim(
        value,
        -- in this order: control characters; spaces; zero-width, directional, filler and blank characters
        U&'\0001\0002\0003\0004\0005\0006\0007\0008\0009\000A\000B\000C\000D\000E\000F\0010\0011\0012\0013\0014'
        '\0015\0016\0017\0018\0019\001A\001B\001C\001D\001E\001F\007F\0080\0081\0082\0083\0084\0085\0086\0087'
        '\0088\0089\008A\008B\008C\008D\008E\008F\0090\0091\0092\0093\0094\0095\0096\0097\0098\0099\009A\009B'
        '\009C\009D\009E\009F'
        '\0020\00A0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200A\2028\2029\202F\205F\3000'
        '\00AD\115F\1160\180E\200B\200C\200D\200E\200F\202A\202B\202C\202D\202E\2060\2061\2062\2063\2064\2800\3164'
        '\FEFF'
    ));
END
$body$;

COMMENT ON FUNCTION public.visible_length(text) IS
    'Characters left when white space and invisible characters are trimmed from both ends; 0 when nothing can be seen.';

CREATE FUNCTION public.metadata_is_valid(value jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $body$
BEGIN
    RETURN jsonb_typeof(value) = 'object'
        AND octet_length(value::text) <= 16384
        AND NOT jsonb_path_exists(value, 'strict $.**{32 to last} ? (@.type() == "object" || @.type() == "array")')
        -- jsonb keeps 1e5000, but no reader that computes in double precision gets it back
        AND NOT jsonb_path_exists(
            value,
            'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))'
        );
END
$body$;

COMMENT ON FUNCTION public.metadata_is_valid(jsonb) IS
    'Whether this is a JSON object of at most 16 KiB as text, at most 32 levels of objects and arrays, and numbers '
    'that fit a double.';

REVOKE ALL ON FUNCTION public.uuid7(), public.visible_length(text), public.metadata_is_valid(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.uuid7(), public.visible_length(text), public.metadata_is_valid(jsonb) TO todochat_app;
