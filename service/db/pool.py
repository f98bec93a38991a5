"""Lends psycopg_pool's connections: by its ``getconn`` and ``putconn``, in its queue.

What stands around it here is what it lacks. A request is refused at once when the queue is so long that it would be
served too late. One user has half of the connections at most, so that all others are served meanwhile. A connection
that the server has closed is noticed without asking the server. During an outage requests are refused at once, and
after it the service is back within a second: psycopg_pool's own back-off grows, and a pool that has given up its
connections connects again only when somebody asks it for one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Generator
from itertools import islice
from types import coroutine
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from service.database_url import parse_database_url
from service.db.connection import Connection, ConnectionExpired, ConnectionLost, StepRefused
from service.db.statements import SESSION, Prepared, Step, set_setting
from service.problems import Problem
from service.settings import Settings

CONNECT_SECONDS = 3
"""How long an attempt to connect may take, for each address of the host."""
OUTAGE_SECONDS = 0.3
"""Without a connection for this long, it is an outage: requests are refused at once. Before, they wait for one."""
RETRY_SECONDS = 0.1
"""The pause between two attempts to connect, until it is an outage."""
OUTAGE_RETRY_SECONDS = 0.5
"""The same during an outage: the service is back within a second after it."""
STALLED_SECONDS = 5
"""When the server's machine has confirmed nothing for so long, TCP gives the connection up."""
LIFETIME_SECONDS = 3600.0
"""An older connection is replaced after its next use, because the caches of a server process only ever grow."""
WAITING_PER_CONNECTION = 20
"""Requests that may wait for each connection of the pool; the next one is answered 503 at once.

The last one in such a queue is answered within some 100 ms under full load. Whoever waits longer has often given up,
and then the work is in vain.
"""
WAITING_PER_BORROWER = 100
"""Requests of one user, or network, that may wait until it has fewer connections; they take no place in the queue."""

log = logging.getLogger(__name__)

_settings = [set_setting(setting, value, "SESSION") for setting, value in SESSION.items()]
_nothing: Step = (Prepared(b"", b"SELECT", (), reads_only=True), ())


class _Idle(deque[Connection]):
    """The connections that nobody has: the one that came back last is lent next, as by asyncpg and node-postgres.

    psycopg_pool lends them in turns. But the last one's server process has its memory still in the processor's caches,
    which takes 8 % off PostgreSQL's CPU for a request (8 and 64 clients, 10 connections, 2 cores), and statements are
    planned on no more connections than are needed.
    """

    append = deque[Connection].appendleft


_Loans = dict["Loan", asyncio.Future[None] | None]
"""One borrower's, in the order in which they came: the first ones, as many as its share, may have a connection."""


class Pool:
    """Connections to the database.

    Borrowers are users, by the integers of their ids, which are quicker to look up, and networks.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise ValueError("a database URL is needed")
        self.size = settings.database_pool_size
        self.waiting: set[Loan] = set()
        """Those that wait for a connection."""
        self.share = max(1, self.size // 2)
        """How many connections a borrower may have at a time."""
        self.loans: dict[int | str, _Loans] = {}
        self.unreachable = False
        self.loop: asyncio.AbstractEventLoop
        """The one it was opened in: to ask asyncio for it takes a system call each time."""
        self._open: list[Connection] = []
        self._recovery: asyncio.Task[None] | None = None
        self._named = settings.database_prepared_statements
        self._tasks: set[asyncio.Task[Any]] = set()
        parameters = {
            "application_name": "todochat",
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 30,
            "tcp_user_timeout": STALLED_SECONDS * 1000,
            **parse_database_url(settings.database_url.value),
            "client_encoding": "UTF8",
        }
        self._parameters = {**parameters, "autocommit": True, "prepare_threshold": None}
        self.lender = self._make_lender()

    def _make_lender(self) -> "AsyncConnectionPool[Connection]":
        lender = AsyncConnectionPool[Connection](
            kwargs=self._parameters,
            connection_class=Connection,
            configure=self._configure,
            min_size=self.size,
            max_size=self.size,
            max_lifetime=LIFETIME_SECONDS,
            open=False,
            name="todochat",
            # Give up after two attempts and call _on_failure: its pauses between attempts double, up to minutes.
            reconnect_timeout=0,
            reconnect_failed=self._on_failure,
        )
        # It has no option for this.
        self._idle = lender._pool = _Idle()  # pyright: ignore[reportPrivateUsage]
        return lender

    @property
    def connected(self) -> int:
        """Connections that are open, in use or not."""
        self._open = [connection for connection in self._open if not connection.closed]
        return len(self._open)

    @property
    def in_use(self) -> int:
        """Connections that are lent."""
        return max(0, self.connected - sum(not connection.closed for connection in self._idle))

    @property
    def waiting_apart(self) -> int:
        """How many requests wait for their borrower's share."""
        return sum(max(0, len(loans) - self.share) for loans in self.loans.values())

    def is_full(self, coming: int = 0) -> bool:
        """Whether the next request that needs a connection would be refused, when ``coming`` others are before it."""
        return len(self.waiting) + coming >= self.size * WAITING_PER_CONNECTION

    async def open(self) -> None:
        """Start to connect in the background."""
        self.loop = asyncio.get_running_loop()
        # It would warn at every attempt to connect; _declare_outage says it once.
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
        await self.lender.open()

    async def close(self) -> None:
        """Close all connections; whoever waits for one is refused."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lender.close(timeout=1)
        for connection in self._open:
            connection.hang_up()  # those that are lent, too

    def give_back(self, lender: "AsyncConnectionPool[Connection]", connection: Connection) -> None:
        """Return a connection, in whatever state it is; nothing is awaited, so no cancellation can prevent it.

        Usually psycopg_pool takes it back without waiting for anything. Otherwise the rest is done by a task of its
        own: a task for every connection would cost 15 µs, a tenth of a request.
        """
        if connection.worn or connection.pgconn.transaction_status != TransactionStatus.IDLE:
            connection.hang_up()
        returning = lender.putconn(connection)
        try:
            awaited = returning.send(None)
        except StopIteration:
            return
        self._run(_finish(returning, awaited))

    def distrust(self) -> None:
        """Replace the idle connections: one has just stalled, so these may be as dead without anybody knowing."""
        self._run(self.lender.drain())

    def _run(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _configure(self, connection: Connection) -> None:
        """Make a new connection ready. psycopg_pool calls this, and gives up the connection if it raises."""
        connection.start(self._named)
        try:
            # A transaction pooler gives our sessions to other clients, too: there, each transaction has the settings.
            steps = _settings if self._named else [_nothing]
            await connection.exchange(steps, asyncio.get_running_loop().time() + CONNECT_SECONDS)
        except (ConnectionLost, ConnectionExpired, StepRefused) as error:
            connection.hang_up()
            raise psycopg.OperationalError(f"a new connection did not answer ({type(error).__name__})") from error
        self._open = [*(other for other in self._open if not other.closed), connection]
        self._declare_reachable()

    def _on_failure(self, _: Any) -> None:
        """An attempt to connect failed, and psycopg_pool has given it up."""
        if (self._recovery is None or self._recovery.done()) and not self.lender.closed:
            self._recovery = self._run(self._recover())

    async def _recover(self) -> None:
        """Ask for a connection until there is one: that is what makes psycopg_pool try again."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not self.lender.closed:
            await asyncio.sleep(OUTAGE_RETRY_SECONDS if self.unreachable else RETRY_SECONDS)
            try:
                self.give_back(self.lender, await self.lender.getconn(RETRY_SECONDS))
            except (PoolTimeout, PoolClosed):
                if loop.time() - since > OUTAGE_SECONDS and not self.unreachable:
                    await self._declare_outage()
            else:
                self._declare_reachable()  # perhaps by a connection that was there all the time
                return

    def _declare_reachable(self) -> None:
        if self.unreachable:
            self.unreachable = False
            log.info("database_reachable")

    async def _declare_outage(self) -> None:
        self.unreachable = True
        log.error("database_unreachable", extra={"reason": Connection.failure, "connections": self.connected})
        if not self.connected:
            # Closing a pool refuses those who wait in its queue, so that they need not wait for their deadlines.
            given_up, self.lender = self.lender, self._make_lender()
            await self.lender.open()
            await given_up.close(timeout=0)


@coroutine
def _resume(begun: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, None]:
    """Pass on what a coroutine that has begun waits for, and what comes of that, until it ends."""
    while True:
        try:
            step, value = begun.send, (yield awaited)
        except BaseException as error:  # noqa: BLE001 - the coroutine's to handle
            step, value = begun.throw, error
        try:
            awaited = step(value)
        except StopIteration:
            return


async def _finish(begun: Coroutine[Any, Any, Any], awaited: Any) -> None:
    """The rest of a coroutine whose first step was made outside of a task and led to ``awaited``."""
    await _resume(begun, awaited)


class Loan:
    """A connection for one transaction of a borrower. `end` must be called, whatever happens; it awaits nothing."""

    __slots__ = ("_borrower", "_lender", "_loans", "_pool", "connection")

    def __init__(self, pool: Pool, borrower: int | str | None) -> None:
        self._pool = pool
        self._lender = pool.lender
        self._borrower = borrower
        self._loans: _Loans | None = None
        self.connection: Connection | None = None

    async def take(self, until: float, *, may_be_dead: bool = False) -> Connection:
        """The connection, when it is this request's turn; ``until`` is a time of the event loop.

        ``may_be_dead``: nobody looks whether the server has just hung up, which takes a system call. Raises Problem
        ``overloaded`` or, while there is no connection at all, ``database_unavailable``.
        """
        pool = self._pool
        if pool.is_full():
            raise Problem("overloaded")
        if pool.unreachable and not pool.connected:
            raise Problem("database_unavailable")
        loop = pool.loop
        try:
            if self._borrower is not None and self._is_beyond_share(self._borrower):
                await self._wait_for_share(until)
            while True:
                pool.waiting.add(self)
                self.connection = await self._lender.getconn(until - loop.time())
                pool.waiting.discard(self)
                if may_be_dead or self.connection.is_live():
                    return self.connection
                self.connection.hang_up()
                self._put_down()
        except (PoolTimeout, TimeoutError):
            raise Problem("overloaded" if pool.connected else "database_unavailable") from None
        except PoolClosed:
            raise Problem("database_unavailable") from None

    def _is_beyond_share(self, borrower: int | str) -> bool:
        """Join the borrower's loans; whether their share is taken by those before this one."""
        pool = self._pool
        # An exception, such as a cancellation, may come at any line: in this order `end` can always tidy up.
        loans = self._loans = pool.loans.get(borrower) or {}
        loans[self] = None
        pool.loans[borrower] = loans
        if len(loans) > WAITING_PER_BORROWER + pool.size:
            whose = "of this user" if isinstance(borrower, int) else "of this network, with keys that are new here,"
            raise Problem("overloaded", f"Too many requests {whose} are waiting.")
        return len(loans) > pool.share

    async def _wait_for_share(self, until: float) -> None:
        pool, loans = self._pool, cast("_Loans", self._loans)
        turn = loans[self] = pool.loop.create_future()
        async with asyncio.timeout_at(until):
            await turn

    def hang_up(self) -> None:
        """Close the connection, so that nobody gets it next."""
        if self.connection is not None:
            self.connection.hang_up()

    def _put_down(self) -> None:
        """Give back the connection, and keep the share."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._pool.give_back(self._lender, connection)

    def end(self) -> None:
        """Give back what was taken, and leave the queues."""
        self._pool.waiting.discard(self)
        self._put_down()
        loans, self._loans = self._loans, None
        if loans is None or self._borrower is None:
            return
        loans.pop(self, None)
        if not loans:
            self._pool.loans.pop(self._borrower, None)
        elif (turn := next(islice(loans.values(), self._pool.share - 1, None), None)) and not turn.done():
            turn.set_result(None)
