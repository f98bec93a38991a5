"""The query module: named SQL from sql/queries/*.sql, checked when it is loaded, bound and run.

A query in a file is the text the driver gets, below a header::

    -- name: get_todo
    -- One sentence of purpose, where the name doesn't say it.
    -- param user_id: uuid
    -- param id: uuid
    -- returns: maybe Todo
    -- index: todos_pkey

``returns`` is one, maybe, many, count or none, with the struct (or scalar) of a row; ``writes: yes`` marks a SELECT
that changes something. Python declares the same at the top of a feature, typed: ``_get = Maybe("get_todo", Todo)``.
"""

import re
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_args, get_origin, overload
from uuid import UUID

import msgspec

from service.db import (
    TRANSACTION_SECONDS,
    Context,
    Database,
    Held,
    Prepared,
    Result,
    Row,
    StatementFailed,
    Step,
    Value,
)
from service.problems import Problem

R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

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


_TYPES: dict[str, tuple[int, Callable[[Any], bytes]]] = {
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


class QueryError(Exception):
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


class Versioned(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """An object whose own fields don't say its version, with the version beside it, for its ETag.

    The query's row ends with ``version``; its header says so: ``-- returns: maybe Message+version``.
    """

    value: T
    version: int


class Statement(Generic[R]):
    """A query with its values: what ``Caller.run`` takes."""

    __slots__ = ("query", "values")

    def __init__(self, query: "Query[R]", values: dict[str, Any]) -> None:
        self.query = query
        self.values = values

    def step(self, user_id: UUID | None) -> Step:
        """The statement as the database takes it: ``user_id`` is the caller's, never a feature's to choose."""
        query = self.query
        values = self.values
        encoded: list[Value] = []
        for name, encode in query.encoders:
            value = user_id if name == "user_id" else values[name]
            encoded.append(None if value is None else encode(value))
        return query.prepared, encoded


class Query(Generic[R]):
    """A query that Python declares. Calling it with the query's parameters, all but ``user_id``, makes a Statement."""

    cardinality = ""

    def __init__(self, name: str, row: type[Any] | None = None) -> None:
        if name not in TEXTS:
            raise QueryError(f"no query {name!r} in {QUERIES}")
        source = TEXTS[name]
        self.is_tagged = get_origin(row) is Versioned
        row = get_args(row)[0] if self.is_tagged else row
        row_name = (row.__name__ if row else "") + ("+version" if self.is_tagged else "")
        if (source.cardinality, source.row) != (self.cardinality, row_name):
            raise QueryError(
                f"{source.where}: {name} returns {source.cardinality} {source.row}, "
                f"Python says {self.cardinality} {row_name}"
            )
        self.source = source
        self.row = row
        self.prepared = source.prepared
        self.encoders = [(parameter, _TYPES[kind][1]) for parameter, kind in source.parameters.items()]
        self.names = frozenset(source.parameters) - {"user_id"}
        self.is_struct = row is not None and issubclass(row, msgspec.Struct)
        self._row: Callable[..., Any] = cast("Any", row)
        DECLARED[name] = self

    def __call__(self, **values: Any) -> Statement[R]:
        if values.keys() != self.names:
            raise TypeError(f"{self.source.name} takes {sorted(self.names)}, not {sorted(values)}")
        return Statement(self, values)

    def read(self, result: Result) -> R:
        """The result as this kind of query promises it."""
        raise NotImplementedError

    def make(self, row: Row) -> Any:
        if self.is_tagged:
            return Versioned(self._row(*row[:-1]), row[-1])
        return self._row(*row) if self.is_struct else row[0]


class One(Query[R]):
    """Exactly one row."""

    cardinality = "one"

    def __init__(self, name: str, row: type[R]) -> None:
        super().__init__(name, row)

    def read(self, result: Result) -> R:
        if not result.rows:
            # The only row that can go missing is the caller's own: deleted behind the check that let them in.
            raise Problem("invalid_token", "The user is gone.")
        return self.make(result.rows[0])


class Maybe(Query[R | None]):
    """One row or None."""

    cardinality = "maybe"

    def __init__(self, name: str, row: type[R]) -> None:
        super().__init__(name, row)

    def read(self, result: Result) -> R | None:
        return self.make(result.rows[0]) if result.rows else None


class Many(Query[list[R]]):
    """Any number of rows, in the query's order."""

    cardinality = "many"

    def __init__(self, name: str, row: type[R]) -> None:
        super().__init__(name, row)

    def read(self, result: Result) -> list[R]:
        if self.is_struct:
            make = self._row
            return [make(*row) for row in result.rows]
        return [row[0] for row in result.rows]


class Count(Query[int]):
    """The number of rows that were changed."""

    cardinality = "count"

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def read(self, result: Result) -> int:
        return result.affected


class Nothing(Query[None]):
    """Run for what it does or refuses."""

    cardinality = "none"

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def read(self, result: Result) -> None:
        del result


class Caller:
    """Who asks: the one way into a transaction.

    Every transaction of a signed-in caller begins with the check that the account is active and the token not revoked,
    in the same round trip; row security shows it that user's rows. Without a user (sign-in, health) it sees no rows.
    """

    __slots__ = (
        "_held",
        "_prelude",
        "database",
        "issued_at",
        "request_id",
        "seconds",
        "subject",
        "token_version",
        "user_id",
    )

    def __init__(
        self,
        database: Database,
        request_id: str,
        user_id: UUID | None = None,
        token_version: int = 0,
        issued_at: int | None = None,
        subject: str | None = None,
    ) -> None:
        """What the token is checked by is its version, or the time of issue (seconds since 1970) without one.

        ``subject`` is the user's name at an outside issuer, where the token is of one.
        """
        self.database = database
        self.request_id = request_id
        self.user_id = user_id
        self.token_version = token_version
        self.issued_at = issued_at
        self.subject = subject
        self.seconds = TRANSACTION_SECONDS
        """How long a transaction of several round trips may take."""
        self._held: Held | None = None
        self._prelude: Sequence[Statement[Any]] = ()

    @overload
    async def run(self, first: Statement[R], /, *, seconds: float = ...) -> R: ...
    @overload
    async def run(self, first: Statement[A], second: Statement[B], /, *, seconds: float = ...) -> tuple[A, B]: ...
    async def run(self, *statements: Statement[Any], seconds: float = TRANSACTION_SECONDS) -> Any:
        """Run one or two statements in one transaction and one round trip, within ``seconds``; raises Problem."""
        results = await self.run_all(statements, seconds=seconds)
        return results[0] if len(statements) == 1 else tuple(results)

    async def run_all(
        self,
        statements: Sequence[Statement[Any]],
        accept: Callable[[list[Any]], None] | None = None,
        *,
        seconds: float = TRANSACTION_SECONDS,
    ) -> list[Any]:
        """Run all statements in one transaction; ``accept`` may look at the results and raise to undo them all.

        Raises the Problem of the statement that failed, with its place in ``statements`` as ``.statement`` (negative
        for what comes ahead of them).
        """
        if self._held is not None:
            return await self._run_held(self._held, statements, accept)
        session = self._session()
        before = len(session)
        steps = [statement.step(self.user_id) for statement in (*session, *statements)]

        def read(results: list[Result]) -> list[Any]:
            return [
                statement.query.read(result) for statement, result in zip(statements, results[before:], strict=True)
            ]

        def check(results: list[Result]) -> None:
            if accept is not None:
                accept(read(results))

        context = Context(self.user_id, self.request_id)
        try:
            return read(await self.database.transact(context, steps, check if accept else None, seconds=seconds))
        except StatementFailed as failure:
            failure.problem.statement = failure.index - before
            raise failure.problem from failure.__cause__

    @asynccontextmanager
    async def holding(self, *prelude: Statement[Any]) -> AsyncGenerator[Callable[[Statement[Any]], Awaitable[None]]]:
        """Run all that follows in one transaction, behind the prelude, which leaves with the first statements.

        It is undone unless the function that this gives is called: that runs one statement more, and commits.
        """
        async with self.database.hold(Context(self.user_id, self.request_id), seconds=self.seconds) as held:
            self._held, self._prelude = held, (*self._session(), *prelude)
            try:
                yield lambda last: held.commit(last.step(self.user_id))
            finally:
                self._held = None

    @asynccontextmanager
    async def together(self, *, snapshot: bool = False) -> AsyncGenerator[None]:
        """Run all that follows in one transaction, kept when the block ends well; inside ``holding``, in that one.

        ``snapshot``: it only reads, and all of it sees what was there at its first statement.
        """
        if self._held is not None:
            yield
            return
        context = Context(self.user_id, self.request_id)
        async with self.database.hold(context, seconds=self.seconds, snapshot=snapshot) as held:
            self._held, self._prelude = held, self._session()
            try:
                yield
                await held.commit()
            except StatementFailed as failure:
                raise failure.problem from failure.__cause__
            finally:
                self._held = None

    def _session(self) -> Sequence[Statement[Any]]:
        """The check that a transaction of a signed-in caller begins with."""
        if self.token_version:
            return (_AUTHENTICATE(token_version=self.token_version),)
        if self.issued_at is not None:
            return (_AUTHENTICATE_ISSUED(issued_at=self.issued_at),)
        return ()

    async def _run_held(
        self, held: Held, statements: Sequence[Statement[Any]], accept: Callable[[list[Any]], None] | None
    ) -> list[Any]:
        ahead = self._prelude
        self._prelude = ()
        try:
            results = await held.run([statement.step(self.user_id) for statement in [*ahead, *statements]])
        except StatementFailed as failure:
            failure.problem.statement = failure.index - len(ahead)
            raise failure.problem from failure.__cause__
        answers = [
            statement.query.read(result) for statement, result in zip(statements, results[len(ahead) :], strict=True)
        ]
        if accept is not None:
            accept(answers)
        return answers


# Loading

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
            if found[3] not in _TYPES:
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
            tuple(_TYPES[kind][0] for kind in parameters.values()),
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
DECLARED: dict[str, Query[Any]] = {}
"""The queries that Python declares, by name: a test holds them against TEXTS."""

_AUTHENTICATE = Nothing("authenticate")
_AUTHENTICATE_ISSUED = Nothing("authenticate_issued")
BEGIN_RESTORING = Nothing("begin_restoring")
"""Ahead of statements that bring rows back as they were: an import, an undo."""

__all__ = [
    "BEGIN_RESTORING",
    "DECLARED",
    "TEXTS",
    "Caller",
    "Count",
    "Many",
    "Maybe",
    "Nothing",
    "One",
    "Problem",
    "Statement",
]
