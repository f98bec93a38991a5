"""How many pages of tables and indexes a request touches, triggers and all: what PostgreSQL counts of the service."""

import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.bench.data import BenchDatabase
from tests.bench.scale.base import send
from tests.bench.services import Contender, Running, running

FLUSH_SECONDS = 1.1
"""A session reports what it counted when a transaction ends, but once a second at most."""
_STATE = """
SELECT sum(io.pages)::float8, sum(i.scans + i.indexes * (s.n_tup_ins + s.n_tup_upd - s.n_tup_hot_upd))::float8
FROM pg_stat_user_tables AS s
JOIN (
    SELECT relid, heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)
        + coalesce(toast_blks_hit + toast_blks_read + tidx_blks_hit + tidx_blks_read, 0) AS pages
    FROM pg_statio_user_tables
) AS io ON io.relid = s.relid
JOIN (SELECT relid, count(*) AS indexes, sum(idx_scan) AS scans FROM pg_stat_user_indexes GROUP BY relid) AS i
    ON i.relid = s.relid
"""


class Touched(NamedTuple):
    """What one request touches. ``descents`` is how often it goes down an index, to search or to insert."""

    pages: float
    descents: float

    def allows(self, large: "Touched") -> bool:
        """Whether more data cost no more than 10 %, and one level of each tree that is gone down."""
        return large.pages <= self.pages * 1.1 + max(self.descents, large.descents)


class _OneSession(Contender):
    """todochat with one connection to the database, whose statistics are then reported at known times."""

    def environment(self, database: BenchDatabase, socket_folder: Path, port: int) -> dict[str, str]:
        return {**super().environment(database, socket_folder, port), "DATABASE_POOL_SIZE": "1"}


def touched(database: BenchDatabase, folder: Path, kinds: dict[str, tuple[int, list[bytes]]]) -> dict[str, Touched]:
    """What requests of each kind touch, sent one after another; with each kind's requests goes the wanted status.

    All are sent twice, and counted the second time: rows then have the hints that their first reader leaves in them.
    """
    found: dict[str, Touched] = {}
    with (
        running(_OneSession(folder), database) as service,
        psycopg.connect(database.superuser_url, autocommit=True) as monitor,
    ):

        def state(status: int, request: bytes) -> Touched:
            """So far, with a request more, at whose end the session reports all that it has counted."""
            time.sleep(FLUSH_SECONDS)
            send(service, "pages", request, status)
            row = monitor.execute(_STATE).fetchone()
            return Touched(*row) if row else Touched(0, 0)

        for status, requests in kinds.values():
            _send_all(service, status, requests)
        status, requests = next(iter(kinds.values()))
        before = state(status, requests[0])
        for kind, (status, requests) in kinds.items():
            _send_all(service, status, requests)
            after = state(status, requests[0])
            count = len(requests) + 1
            found[kind] = Touched((after.pages - before.pages) / count, (after.descents - before.descents) / count)
            before = after
    return found


def _send_all(service: Running, status: int, requests: list[bytes]) -> None:
    for request in requests:
        send(service, "pages", request, status)
