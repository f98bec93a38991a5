"""Queries as Python declares them, typed, at the top of a feature: ``_get = Maybe("get_todo", Todo)``.

Calling one with its parameters makes a Statement, which a `Caller` runs.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast, get_args, get_origin
from uuid import UUID

import msgspec

from service.db.loading import QUERIES, TEXTS, TYPES, QueryError
from service.db.results import Result
from service.db.statements import Row, Step, Value
from service.problems import Problem

R = TypeVar("R")
T = TypeVar("T")

DECLARED: dict[str, "Query[Any]"] = {}
"""The queries that Python declares, by name: a test holds them against TEXTS."""


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
        self.is_versioned = get_origin(row) is Versioned
        row = get_args(row)[0] if self.is_versioned else row
        row_name = (row.__name__ if row else "") + ("+version" if self.is_versioned else "")
        if (source.cardinality, source.row) != (self.cardinality, row_name):
            raise QueryError(
                f"{source.where}: {name} returns {source.cardinality} {source.row}, "
                f"Python says {self.cardinality} {row_name}"
            )
        self.source = source
        self.row = row
        self.prepared = source.prepared
        self.encoders = [(parameter, TYPES[kind][1]) for parameter, kind in source.parameters.items()]
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
        if self.is_versioned:
            return Versioned(self._row(*row[:-1]), row[-1])
        return self._row(*row) if self.is_struct else row[0]


class One(Query[R]):
    """Exactly one row."""

    cardinality = "one"

    def __init__(self, name: str, row: type[R]) -> None:
        super().__init__(name, row)

    def read(self, result: Result) -> R:
        if not result.rows:
            # Only the caller's own row can be missing: somebody deleted the user just after the token was checked.
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


class Looked(msgspec.Struct, Generic[R], frozen=True, gc=False):
    """What was found among the rows that a query looked at, and the last of these where it might have looked on."""

    rows: list[R]
    last: R | None


class Some(Query[Looked[R]]):
    """Those of a bounded number of rows that match.

    Each row ends with ``matches`` and ``is_last``, and the last one that was looked at comes even if it doesn't match.
    """

    cardinality = "some"

    def __init__(self, name: str, row: type[R]) -> None:
        super().__init__(name, row)

    def read(self, result: Result) -> Looked[R]:
        make = self._row
        found = [make(*row[:-2]) for row in result.rows if row[-2]]
        last = result.rows[-1] if result.rows and result.rows[-1][-1] else None
        return Looked(found, None if last is None else make(*last[:-2]))


class Count(Query[int]):
    """The number of rows that were changed."""

    cardinality = "count"

    def read(self, result: Result) -> int:
        return result.affected


class Nothing(Query[None]):
    """Run for what it does or refuses."""

    cardinality = "none"

    def read(self, result: Result) -> None:
        del result


BEGIN_RESTORING = Nothing("begin_restoring")
"""Runs ahead of statements that bring rows back as they were, in an import or an undo."""
END_RESTORING = Nothing("end_restoring")
"""Runs in such a transaction ahead of statements that all rules hold for, such as a change of a row that was there."""
HOLD_ASSIGNEES = Nothing("hold_assignees")
"""Runs behind statements that change several todos, and ahead of WRITE_ENTRIES where that runs, too."""
WRITE_ENTRIES = Nothing("write_entries")
"""Runs behind statements that change very many rows, so that the time limits hold for their audit entries, too."""
