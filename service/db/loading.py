"""Loads the queries of sql/queries/*.sql and checks, without a database, that header and text agree.

A query in a file is the text the driver gets, below a header::

    -- name: get_todo
    -- One sentence of purpose, where the name doesn't say it.
    -- param user_id: uuid
    -- param id: uuid
    -- returns: maybe Todo
    -- index: todos_pkey

``returns`` is one, maybe, many, count or none, with the struct (or scalar) of a row; ``writes: yes`` marks a SELECT
that changes something.
"""

import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

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
        "audit_prunes",
        "idempotency_keys",
        "api_keys",
    }
)
"""Tables of which every row is some user's: a query that names one carries ``user_id``."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _timestamptz(value: datetime) -> bytes:
    return struct.pack("!q", (value - _EPOCH) // _MICROSECOND)


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
    purpose: str
    parameters: dict[str, str]
    cardinality: str
    row: str
    index: str
    text: str
    prepared: Prepared
    where: str


_HEADER = re.compile(r"--\s?(.*)")
_FIELD = re.compile(r"(name|returns|index|writes|param)\b\s*(\w*)\s*:\s*(.+)")
_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%|%")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TABLE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?(?:\w+\.)?(\w+)")
_CARDINALITIES = ("one", "maybe", "many", "count", "none")


def _parse_file(path: Path) -> list[QueryText]:
    """The queries of one file; raises QueryError where a header and its text don't agree."""
    blocks: list[tuple[int, list[str], list[str]]] = []
    ended = True
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("-- name:"):
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
    return [_parse_query(f"{path.name}:{number}", header, body) for number, header, body in blocks]


def _parse_header(where: str, header: list[str]) -> tuple[dict[str, str], dict[str, str], str]:
    """Its fields, the parameters' types, and the sentences of purpose; raises QueryError for what can't be read."""
    fields: dict[str, str] = {}
    parameters: dict[str, str] = {}
    purpose: list[str] = []
    for line in header:
        content = cast("re.Match[str]", _HEADER.match(line))[1]
        if not (found := _FIELD.fullmatch(content)):
            purpose.append(content)
        elif found[2] in parameters or found[1] in fields:
            raise QueryError(f"{where}: {found[2] or found[1]} is said twice in the header")
        elif found[1] == "param":
            if found[3] not in TYPES:
                raise QueryError(f"{where}: {found[2]} has the unknown type {found[3]!r}")
            parameters[found[2]] = found[3]
        else:
            fields[found[1]] = found[3].strip()
    return fields, parameters, " ".join(purpose)


def _parse_query(where: str, header: list[str], body: list[str]) -> QueryText:
    fields, parameters, purpose = _parse_header(where, header)
    name = fields["name"]
    if not _NAME.fullmatch(name):
        raise QueryError(f"{where}: {name!r} is no name: lower-case letters, digits and _")
    if missing := {"returns", "index"} - fields.keys():
        raise QueryError(f"{where}: {name} lacks {', '.join(sorted(missing))} in its header")
    cardinality, _, row = fields["returns"].partition(" ")
    if cardinality not in _CARDINALITIES or (row == "") != (cardinality in ("count", "none")):
        raise QueryError(
            f"{where}: {name} returns {fields['returns']!r}: say one, maybe or many and the row, or count or none"
        )
    text = "\n".join(body).strip().removesuffix(";")
    if ";" in text:
        raise QueryError(f"{where}: {name} has a semicolon inside: one statement, and none in its comments")
    used = {match[1] for match in _PLACEHOLDER.finditer(text) if match[1]}
    if used != parameters.keys():
        raise QueryError(f"{where}: {name} declares {sorted(parameters)} and uses {sorted(used)}")
    if USER_TABLES & set(_TABLE.findall(text)) and "user_id" not in parameters:
        raise QueryError(f"{where}: {name} reads or writes a user's table without %(user_id)s")
    numbers = {parameter: b"$%d" % number for number, parameter in enumerate(parameters, 1)}

    def place(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if not match[1]:
            raise QueryError(f"{where}: {name} has a bare %: write %%")
        return numbers[match[1]].decode()

    reads_only = bool(re.match(r"[\s(]*SELECT\b", text)) and "writes" not in fields
    return QueryText(
        name=name,
        purpose=purpose,
        parameters=parameters,
        cardinality=cardinality,
        row=row,
        index=fields["index"],
        text=text,
        prepared=Prepared(
            name.encode(),
            _PLACEHOLDER.sub(place, text).encode(),
            tuple(TYPES[kind][0] for kind in parameters.values()),
            reads_only,
        ),
        where=where,
    )


def _load(directory: Path) -> dict[str, QueryText]:
    """Every query of the folder by name; raises QueryError when two share a name."""
    texts: dict[str, QueryText] = {}
    for path in sorted(directory.glob("*.sql")):
        for text in _parse_file(path):
            if text.name in texts:
                raise QueryError(f"{text.where}: {text.name} stands in {texts[text.name].where} already")
            texts[text.name] = text
    return texts


def _directory() -> Path:
    packaged = Path(__file__).parents[1] / "sql" / "queries"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "sql" / "queries"


QUERIES = _directory()
TEXTS = _load(QUERIES)
"""Every query of the files, by name."""
