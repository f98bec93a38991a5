"""What a statement gave back, from PostgreSQL's binary formats."""

from typing import Any, NamedTuple

import msgspec
import psycopg
import psycopg.abc
from psycopg import pq
from psycopg.adapt import AdaptersMap, Loader, Transformer

from service.db.statements import Row


class Result(NamedTuple):
    """What a statement gave back; ``affected`` counts the rows returned or changed."""

    rows: list[Row]
    affected: int


class _JsonLoader(Loader):
    """jsonb stays the text it is: an answer passes it on without parsing it. The first byte is the format's version."""

    format = pq.Format.BINARY

    def load(self, data: Any) -> msgspec.Raw:
        return msgspec.Raw(bytes(data)[1:])


class _JsonTextLoader(Loader):
    """json stays the text it is too: it has no such byte."""

    format = pq.Format.BINARY

    def load(self, data: Any) -> msgspec.Raw:
        return msgspec.Raw(bytes(data))


class _Adapters(NamedTuple):
    """Adaptation that no connection has a say in: so times come in UTC, whatever the session's time zone is."""

    adapters: AdaptersMap
    connection: None = None


_adapters = AdaptersMap(psycopg.adapters)
_adapters.register_loader("json", _JsonTextLoader)
_adapters.register_loader("jsonb", _JsonLoader)
_transformer: psycopg.abc.Transformer = Transformer(_Adapters(_adapters))

_VOID = 2278
"""The type of what a function returns that returns nothing, such as expect_position()."""


def read_result(answer: pq.abc.PGresult) -> Result:
    """The rows as psycopg's adapters make them."""
    if answer.status != pq.ExecStatus.TUPLES_OK:
        return Result([], answer.command_tuples or 0)
    count = answer.ntuples
    if not count or answer.ftype(0) == _VOID:
        return Result([], count)
    _transformer.set_pgresult(answer)
    return Result(_transformer.load_rows(0, count, tuple), count)
