-- Make the domains that columns are of, and the functions that columns and every table's triggers call.
-- Why: a domain's check is prepared once a session and looks at a value when it is written; a table's is read anew for
--   each statement. With the same rules as table checks an insert cost a sixth more.
--   The two functions behind checks are in PL/pgSQL so that the planner does not put their bodies in place of the call.
-- Locks: nothing that was there before.
-- Rollback loses: no data.
-- depends: 0001_create_roles

-- A domain's check is changed like a table's: NOT VALID, then VALIDATE.
-- squawk-ignore-file ban-create-domain-with-constraint
SET LOCAL ROLE todochat_owner;
-- Of every function here and in later migrations: nobody may call it but those it is granted to.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

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
    'Whether this is a JSON object of at most 16 KiB as text and 32 levels, with numbers that fit a double.';

CREATE FUNCTION public.touch() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- The time after the row was locked: the time the transaction began may lie before the last change.
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at);
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION public.touch() IS
    'Trigger: moves updated_at and version. The WHEN of each trigger says what of its table is a real change.';

CREATE FUNCTION public.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RAISE EXCEPTION 'what a row of % is, never changes: "%_immutable_check"', TG_ARGV[0], TG_ARGV[0]
        USING ERRCODE = 'check_violation', TABLE = TG_ARGV[0], CONSTRAINT = TG_ARGV[0] || '_immutable_check';
END
$body$;
COMMENT ON FUNCTION public.refuse_change() IS
    'Trigger: refuses to change what never changes, which the trail tells rows by. Only where a statement sets it: '
    'the service has no right to. Argument: the table.';

GRANT EXECUTE ON FUNCTION public.uuid7(), public.visible_length(text), public.metadata_is_valid(jsonb) TO todochat_app;

CREATE DOMAIN public.moment AS timestamptz
CONSTRAINT moment_check CHECK (VALUE >= '1970-01-01T00:00:00Z' AND VALUE < '10000-01-01T00:00:00Z');
CREATE DOMAIN public.ordinal AS integer CONSTRAINT ordinal_check CHECK (VALUE >= 1);
CREATE DOMAIN public.title AS text
CONSTRAINT title_check CHECK (
    -- a visible character, and at most 200 when trimmed
    VALUE ~ U&'[^\0001-\0020\007F-\00A0\00AD\115F\1160\1680\180E\2000-\200F\2028-\202F\205F-\2064\2800\3000\3164\FEFF]'
    AND (char_length(VALUE) <= 200 OR (char_length(VALUE) <= 1000 AND public.visible_length(VALUE) <= 200))
);
CREATE DOMAIN public.description AS text CONSTRAINT description_check CHECK (char_length(VALUE) <= 1000);
CREATE DOMAIN public.content AS text CONSTRAINT content_check CHECK (char_length(VALUE) <= 10000);
-- Text and not json, which can't become part of the trail's jsonb where it holds NUL or half of a surrogate pair. The
-- cast holds it to the grammar.
CREATE DOMAIN public.item AS text
CONSTRAINT item_check CHECK (VALUE IS NULL OR (octet_length(VALUE) <= 1048576 AND VALUE::json IS NOT NULL));
CREATE DOMAIN public.metadata AS jsonb
CONSTRAINT metadata_check CHECK (VALUE = '{}' OR public.metadata_is_valid(VALUE));
CREATE DOMAIN public.status AS text
CONSTRAINT status_check CHECK (VALUE IN ('pending', 'in_progress', 'completed', 'archived'));
CREATE DOMAIN public.priority AS text CONSTRAINT priority_check CHECK (VALUE IN ('low', 'medium', 'high', 'urgent'));
CREATE DOMAIN public.sender_type AS text CONSTRAINT sender_type_check CHECK (VALUE IN ('user', 'ai', 'system'));
CREATE DOMAIN public.message_type AS text
CONSTRAINT message_type_check CHECK (VALUE IN ('text', 'command', 'response', 'error'));
CREATE DOMAIN public.relationship_type AS text
CONSTRAINT relationship_type_check CHECK (VALUE IN ('discussion', 'update', 'creation'));
CREATE DOMAIN public.action AS text CONSTRAINT action_check CHECK (VALUE IN ('insert', 'update', 'delete'));
COMMENT ON DOMAIN public.moment IS 'A time in the years 1970 to 9999, in UTC.';
COMMENT ON DOMAIN public.ordinal IS '1, 2, 3 ...';
COMMENT ON DOMAIN public.title IS '1 to 200 characters when trimmed, some of them visible; stored as it was sent.';
COMMENT ON DOMAIN public.description IS 'At most 1000 characters.';
COMMENT ON DOMAIN public.content IS 'At most 10,000 characters.';
COMMENT ON DOMAIN public.item IS 'Any JSON value of at most 1 MiB as text, as it was sent.';
COMMENT ON DOMAIN public.metadata IS 'A JSON object of at most 16 KiB and 32 levels: see metadata_is_valid().';
COMMENT ON DOMAIN public.status IS 'pending, in_progress, completed or archived.';
COMMENT ON DOMAIN public.priority IS 'low, medium, high or urgent.';
COMMENT ON DOMAIN public.sender_type IS 'user, ai or system.';
COMMENT ON DOMAIN public.message_type IS 'text, command (a tool call), response (a tool''s output) or error.';
COMMENT ON DOMAIN public.relationship_type IS 'discussion, update or creation.';
COMMENT ON DOMAIN public.action IS 'insert, update or delete.';
