"""Loads the queries of sql/queries/*.sql and checks, without a database, that header and text agree.

A query in a file is the text the driver gets, below a header::

    -- name: get_todo
    -- One sentence of purpose, where the name doesn't say it.
    -- param user_id: uuid
    -- param id: uuid
    -- returns: maybe Todo
    -- index: todos_pkey

``returns`` is one, maybe, many, some, count or none, with the struct (or scalar) of a row; those of ``some`` end with
two more columns, see `queries.Some`. ``writes: yes`` marks a SELECT that changes something, ``users: all`` a query of
the operator's that is about everybody.

What several queries share is a slot, which stands for its text, and for the parameters that this needs::

    -- slot: todo_columns
    id, number, title;

    SELECT {todo_columns} FROM todos

One text for several orders has a table, of which each row makes a query when the file is loaded: nothing that a client
sends ever becomes SQL. `todochat queries` shows them filled in::

    -- name: list_todos_by_{order}
    -- fill: order | by
    -- with: number | number
    -- with: number_desc | number DESC

Several tables make a query of each combination of their rows; a cell may name those of the tables below it.
"""

import itertools
import re
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.adapt import PyFormat

from service.db.statements import Prepared
from service.settings import OperatorError

USER_TABLES = frozenset(
    {
        "users",
        "identities",
        "todos",
        "todo_counters",
        "conversations",
        "messages",
        "todo_conversation_links",
        "audit_log",
        "idempotency_keys",
        "api_keys",
    }
)
"""Tables of which every row is some user's: a query that names one carries ``user_id``."""


_timestamptz: Any = psycopg.adapters.get_dumper(datetime, PyFormat.BINARY)(datetime).dump


def _array(element_oid: int, encode: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], bytes]:
    def array(values: Sequence[Any]) -> bytes:
        items = [encode(value) for value in values]
        head = struct.pack("!iiI", 1 if items else 0, 0, element_oid)
        if items:
            head += struct.pack("!ii", len(items), 1)
        return head + b"".join(struct.pack("!i", len(item)) + item for item in items)

    return array


TYPES: dict[str, tuple[int, Callable[[Any], bytes]]] = {
    "uuid": (2950, lambda value: value.bytes),
    "text": (25, str.encode),
    "text[]": (1009, _array(25, str.encode)),
    "uuid[]": (2951, _array(2950, lambda value: value.bytes)),
    "bigint[]": (1016, _array(20, struct.Struct("!q").pack)),
    "smallint": (21, struct.Struct("!h").pack),
    "integer": (23, struct.Struct("!i").pack),
    "bigint": (20, struct.Struct("!q").pack),
    "boolean": (16, struct.Struct("!?").pack),
    "bytea": (17, bytes),
    "bytea[]": (1001, _array(17, bytes)),
    "timestamptz": (1184, _timestamptz),
    "json": (114, bytes),
    "jsonb": (3802, lambda value: b"\x01" + bytes(value)),
}
"""PostgreSQL's name of a type → its oid and what makes its binary form, as its ``…recv`` function reads it."""


class QueryError(OperatorError):
    """A query file or a declaration in Python is wrong; the message points at file and line."""


class QueryText(msgspec.Struct, frozen=True):
    """A query as its file says it."""

    name: str
    parameters: dict[str, str]
    cardinality: str
    row: str
    index: str
    text: str
    prepared: Prepared
    where: str


_FIELD = re.compile(r"--\s?(name|slot|returns|index|writes|users|param)\b\s*(\w*)\s*:\s*(.+)")
_SLOT = re.compile(r"\{([a-z_]+)\}")
_FILL = re.compile(r"-- (fill|with): ?(.*)")
_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%|%")
_FIRST_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TABLE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?(?:\w+\.)?(\w+)")
_CARDINALITIES = ("one", "maybe", "many", "some", "count", "none")


class _Block(msgspec.Struct, frozen=True):
    """A query or a slot as it stands in its file, or as one row of its table fills it in."""

    where: str
    header: list[str]
    body: str


def _read_file(path: Path) -> list[_Block]:
    """The blocks of one file; raises QueryError for what belongs to none."""
    blocks: list[tuple[int, list[str], list[str]]] = []
    ended = True
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith(("-- name:", "-- slot:")):
            if not ended:
                raise QueryError(f"{path.name}:{number}: the query above doesn't end with a semicolon")
            blocks.append((number, [line], []))
            ended = False
        elif ended:
            if line.strip() and not line.startswith("--"):
                raise QueryError(f"{path.name}:{number}: SQL outside a named query")
        elif line.startswith("--") and not blocks[-1][2]:
            blocks[-1][1].append(line)
        else:
            blocks[-1][2].append(line)
            ended = line.endswith(";")
    if not ended:
        raise QueryError(f"{path.name}:{blocks[-1][0]}: the last query doesn't end with a semicolon")
    found: list[_Block] = []
    for number, header, body in blocks:
        where, text = f"{path.name}:{number}", "\n".join(body).strip().removesuffix(";")
        found += _fill_rows(_Block(where, header, text))
    return found


def _fill_rows(block: _Block) -> list[_Block]:
    """The block for each row of its table, or each combination of its tables' rows; itself where it has none."""
    tables: list[list[list[str]]] = []
    for found in filter(None, map(_FILL.fullmatch, block.header)):
        cells = [cell.strip() for cell in found[2].split("|")]
        if found[1] == "fill":
            tables.append([cells])
        elif tables and len(cells) == len(tables[-1][0]):
            tables[-1].append(cells)
        else:
            raise QueryError(f"{block.where}: a table is one fill: and then with:, all of them with as many cells")
    everything = "\n".join([*block.header, block.body])
    filled = [_Block(block.where, [line for line in block.header if not _FILL.fullmatch(line)], block.body)]
    for names, *rows in tables:
        if unused := [name for name in names if f"{{{name}}}" not in everything]:
            raise QueryError(f"{block.where}: nothing is filled with {unused}")
        filled = [_fill_row(each, dict(zip(names, row, strict=True))) for each in filled for row in rows]
    return filled


def _fill_row(block: _Block, cells: dict[str, str]) -> _Block:
    def fill(text: str) -> str:
        return re.sub(r" +$", "", _SLOT.sub(lambda found: cells.get(found[1], found[0]), text), flags=re.MULTILINE)

    return _Block(block.where, [fill(line) for line in block.header], fill(block.body))


def _fill_slots(block: _Block, slots: dict[str, _Block], parameters: dict[str, str], used: set[str]) -> str:
    """The block's text with every slot filled: their parameters are added, and their names to those that are used."""

    def text(found: re.Match[str]) -> str:
        if found[1] not in slots:
            raise QueryError(f"{block.where}: there is no slot {{{found[1]}}}")
        used.add(found[1])
        slot = slots[found[1]]
        for name, kind in _parse_header(slot.where, slot.header)[1].items():
            if parameters.setdefault(name, kind) != kind:
                raise QueryError(f"{block.where}: {name} is {parameters[name]} here and {kind} in {slot.where}")
        return _fill_slots(slot, slots, parameters, used)

    return _SLOT.sub(text, block.body)


def _parse_header(where: str, header: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Its fields and the parameters' types, but not its sentences; raises QueryError for what can't be read."""
    fields: dict[str, str] = {}
    parameters: dict[str, str] = {}
    for found in filter(None, map(_FIELD.fullmatch, header)):
        if found[2] in parameters or found[1] in fields:
            raise QueryError(f"{where}: {found[2] or found[1]} is said twice in the header")
        if found[1] == "param":
            if found[3] not in TYPES:
                raise QueryError(f"{where}: {found[2]} has the unknown type {found[3]!r}")
            parameters[found[2]] = found[3]
        else:
            fields[found[1]] = found[3].strip()
    return fields, parameters


def _parse_query(block: _Block, slots: dict[str, _Block], used_slots: set[str]) -> QueryText:
    where = block.where
    fields, parameters = _parse_header(where, block.header)
    text = _fill_slots(block, slots, parameters, used_slots)
    name = fields["name"]
    if not _NAME.fullmatch(name):
        raise QueryError(f"{where}: {name!r} is no name: lower-case letters, digits and _")
    if missing := {"returns", "index"} - fields.keys():
        raise QueryError(f"{where}: {name} lacks {', '.join(sorted(missing))} in its header")
    cardinality, _, row = fields["returns"].partition(" ")
    if cardinality not in _CARDINALITIES or (row == "") != (cardinality in ("count", "none")):
        raise QueryError(
            f"{where}: {name} returns {fields['returns']!r}: say one, maybe, many or some and the row, or count or none"
        )
    if ";" in text:
        raise QueryError(f"{where}: {name} has a semicolon inside: one statement, and none in its comments")
    used = {match[1] for match in _PLACEHOLDER.finditer(text) if match[1]}
    if used != parameters.keys():
        raise QueryError(f"{where}: {name} declares {sorted(parameters)} and uses {sorted(used)}")
    if USER_TABLES & set(_TABLE.findall(text)) and "user_id" not in parameters and "users" not in fields:
        raise QueryError(f"{where}: {name} reads or writes a user's table without %(user_id)s")
    numbers = {parameter: b"$%d" % number for number, parameter in enumerate(parameters, 1)}

    def place(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if not match[1]:
            raise QueryError(f"{where}: {name} has a bare %: write %%")
        return numbers[match[1]].decode()

    reads_only = bool(re.match(r"[\s(]*(SELECT|WITH RECURSIVE)\b", text)) and "writes" not in fields
    return QueryText(
        name=name,
        parameters=parameters,
        cardinality=cardinality,
        row=row,
        index=fields["index"],
        text=text,
        prepared=Prepared(
            name.encode(),
            # By its name a DBA finds it in pg_stat_activity, in pg_stat_statements and in the server's log. Behind the
            # first word it is part of the statement for all of them.
            _FIRST_WORD.sub(lambda word: f"{word[0]} /* {name} */", _PLACEHOLDER.sub(place, text), count=1).encode(),
            tuple(TYPES[kind][0] for kind in parameters.values()),
            reads_only,
        ),
        where=where,
    )


def _load(directory: Path) -> dict[str, QueryText]:
    """Every query of the folder by name; raises QueryError when two share a name."""
    queries: list[_Block] = []
    slots: dict[str, _Block] = {}
    for block in itertools.chain(*map(_read_file, sorted(directory.glob("*.sql")))):
        kind, _, name = block.header[0].partition(": ")
        if kind == "-- name":
            queries.append(block)
        elif slots.setdefault(name, block) is not block:
            raise QueryError(f"{block.where}: the slot {name} stands in {slots[name].where} already")
    used_slots: set[str] = set()
    texts: dict[str, QueryText] = {}
    for block in queries:
        text = _parse_query(block, slots, used_slots)
        if texts.setdefault(text.name, text) is not text:
            raise QueryError(f"{text.where}: {text.name} stands in {texts[text.name].where} already")
    for name, block in slots.items():
        if name not in used_slots:
            raise QueryError(f"{block.where}: nothing uses the slot {name}")
    return texts


def _directory() -> Path:
    packaged = Path(__file__).parents[1] / "sql" / "queries"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "sql" / "queries"


QUERIES = _directory()
TEXTS = _load(QUERIES)
"""Every query of the files, by name."""


def show_queries() -> str:
    """Every query as the database gets it, below what its file says of it: what a reviewer reads."""
    shown: list[str] = []
    for query in TEXTS.values():
        parameters = ", ".join(f"{name} {kind}" for name, kind in query.parameters.items())
        shown.append(f"-- {query.name}({parameters}) -> {query.cardinality} {query.row}".rstrip())
        shown.append(f"-- {query.where.partition(':')[0]}, index {query.index}")
        shown.append(query.prepared.text.decode() + ";\n")
    return "\n".join(shown)
