"""Which entries of a dump `todochat restore` makes: what is todochat's and needs nothing that isn't.

A DBA's trigger on a table of todochat's is in the dump with that table, and its function, which somebody else owns, is
not restored. Then the trigger can't be, either: a backup leaves it out and says so, since the rows must come back.
"""

import re
from collections.abc import Collection, Iterable

import psycopg

from service.commands import history
from service.commands.connection import OWNER_ROLE
from service.commands.dump_tools import Tool, read_tool
from service.settings import OperatorError

_NEEDS = """
WITH relations AS (
    SELECT oid, relkind FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
        AND (relowner = to_regrole(%(owner)s) OR relname = ANY (%(bookkeeping)s))
),
-- What pg_dump writes, and the object with which it does so: a default is written with its table.
written (class, id, with_class, with_id) AS (
    SELECT 'pg_class'::regclass, r.oid, CASE WHEN c.oid IS NULL THEN 'pg_class' ELSE 'pg_constraint' END::regclass,
        coalesce(c.oid, r.oid)
    FROM relations AS r LEFT JOIN pg_constraint AS c ON c.conindid = r.oid AND c.contype IN ('p', 'u', 'x')
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, 'pg_proc'::regclass, oid FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND proowner = to_regrole(%(owner)s)
    UNION ALL
    SELECT 'pg_type'::regclass, oid, 'pg_type'::regclass, oid FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typowner = to_regrole(%(owner)s)
    UNION ALL
    SELECT 'pg_trigger'::regclass, t.oid, 'pg_trigger'::regclass, t.oid
    FROM pg_trigger AS t JOIN relations AS r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, 'pg_policy'::regclass, p.oid
    FROM pg_policy AS p JOIN relations AS r ON r.oid = p.polrelid
    UNION ALL
    SELECT 'pg_statistic_ext'::regclass, s.oid, 'pg_statistic_ext'::regclass, s.oid
    FROM pg_statistic_ext AS s JOIN relations AS r ON r.oid = s.stxrelid
    UNION ALL
    SELECT 'pg_rewrite'::regclass, w.oid,
        CASE WHEN r.relkind IN ('v', 'm') THEN 'pg_class' ELSE 'pg_rewrite' END::regclass,
        CASE WHEN r.relkind IN ('v', 'm') THEN r.oid ELSE w.oid END
    FROM pg_rewrite AS w JOIN relations AS r ON r.oid = w.ev_class
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid, 'pg_class'::regclass, r.oid
    FROM pg_attrdef AS d JOIN relations AS r ON r.oid = d.adrelid
    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid,
        CASE WHEN c.contype IN ('c', 'n') THEN 'pg_class' ELSE 'pg_constraint' END::regclass,
        CASE WHEN c.contype IN ('c', 'n') THEN r.oid ELSE c.oid END
    FROM pg_constraint AS c JOIN relations AS r ON r.oid = c.conrelid
    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid, 'pg_type'::regclass, t.oid
    FROM pg_constraint AS c JOIN pg_type AS t ON t.oid = c.contypid
    WHERE t.typnamespace = 'public'::regnamespace AND t.typowner = to_regrole(%(owner)s)
)
SELECT w.with_class::oid, w.with_id, pg_describe_object(d.refclassid, d.refobjid, 0)
FROM written AS w JOIN pg_depend AS d ON d.classid = w.class AND d.objid = w.id
WHERE d.refobjid >= 16384  -- the first that initdb doesn't make in every cluster
    AND (d.refclassid, d.refobjid) NOT IN (
        SELECT class, id FROM written
        UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname = 'public'
        UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language WHERE lanname = 'plpgsql'
    )
"""
"""What is to be restored and needs what will not be, and what that is: by the ids that pg_restore lists."""
_ENTRY = re.compile(r"(?P<id>\d+); (?P<object>\d+ \d+) (?P<kind>[A-Z ]+) \S+ (?P<name>.*) \S*\n")
_DEPENDS = ";\tdepends on:"


def find_needs(connection: psycopg.Connection) -> dict[str, str]:
    """What is to be restored and would need what is not, by the ids that pg_restore lists, and what it needs."""
    parameters = {"owner": OWNER_ROLE, "bookkeeping": [*history.BOOKKEEPING]}
    return {f"{kind} {number}": needed for kind, number, needed in connection.execute(_NEEDS, parameters)}


def find_left_out(reader: Tool, file: str, needs: dict[str, str]) -> dict[int, str]:
    """The entries of the file that need what isn't restored, or depend on one; raises OperatorError for a table.

    A comment on one has no name. An entry comes after those it depends on.
    """
    left_out: dict[int, str] = {}
    if not needs:
        return left_out
    entry = None
    with read_tool(reader, "--list", "--verbose", file) as lines:
        for line in (line.decode(errors="replace") for line in lines):
            is_needy = False
            if match := _ENTRY.fullmatch(line):
                entry = match
                is_needy = entry["object"] in needs
            elif entry and line.startswith(_DEPENDS):
                is_needy = not left_out.keys().isdisjoint(map(int, line.removeprefix(_DEPENDS).split()))
            if entry and is_needy:
                name = f"{entry['kind'].lower()} {entry['name']}"
                if entry["kind"] in {"TABLE", "TABLE DATA"}:
                    needed = needs.get(entry["object"]) or ", ".join(left_out.values())
                    raise OperatorError(
                        f"{name} needs {needed}, which isn't {OWNER_ROLE}'s and would not be restored: make it so, or "
                        "drop what needs it"
                    )
                left_out[int(entry["id"])] = "" if entry["kind"] in {"COMMENT", "ACL", "SECURITY LABEL"} else name
    return left_out


def list_restored(lines: Iterable[bytes], left_out: Collection[int]) -> list[bytes]:
    """The lines of pg_restore's list that are to be restored."""
    return [
        line
        for line in lines
        if (entry := _ENTRY.fullmatch(line.decode(errors="replace")))
        and int(entry["id"]) not in left_out
        and _is_ours(entry[0].split())
    ]


def _is_ours(entry: list[str]) -> bool:
    """Whether todochat made what an entry of a dump's list is about: its last word is the owner."""
    return entry[-1] == OWNER_ROLE or any(word.partition(".")[0] in history.BOOKKEEPING for word in entry)
