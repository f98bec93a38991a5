"""Lends connections: fairly, for a bounded wait, and with new ones in the place of those that broke.

psycopg_pool makes the connections and replaces them. All of them are kept on lease here, because its getconn and
putconn cost a tenth of a small request, and because a release that awaits nothing can't be cancelled half-way.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from service.db.link import Link, LinkExpired, LinkLost, StepRefused
from service.db.statements import SESSION, Prepared, Row, Step, set_session
from service.problems import Problem
from service.settings import Settings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3
"""How long an attempt to connect may take, for each address of the host."""
RETRY_SECONDS = 0.1
"""The pause between the first attempts to connect that fail …"""
OUTAGE_SECONDS = 0.3
"""… until they failed for this long: then requests are refused at once, without waiting for a connection …"""
OUTAGE_RETRY_SECONDS = 0.5
"""… and this is the pause, so that after an outage the service is back within a second."""
PATIENCE_PRECISION = 0.02
"""Waiting for a connection may end this many seconds early."""
STALLED_SECONDS = 5
"""After this, what TCP could not deliver breaks the connection."""
LIFETIME_SECONDS = 3600.0
"""A connection that lived this long is replaced after its next use: a backend's caches only ever grow."""
WAITING_PER_CONNECTION = 100
"""Requests that may wait for each connection of the pool; the next one is answered 503 at once.

As many of one user may wait beyond those that hold the user's share.
"""

_settings = [set_session(setting, value) for setting, value in SESSION.items()]
_nothing: Step = (Prepared(b"", b"SELECT", (), reads_only=True), ())


class _Connection(psycopg.AsyncConnection[Row]):
    """A connection as psycopg_pool has it, with the link that is used instead of psycopg's own methods."""

    link: Link | None = None
    on_failure: ClassVar[Callable[[psycopg.Error], None]]

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> "_Connection":  # type: ignore[override]
        try:
            return await super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            cls.on_failure(error)
            raise

    async def close(self) -> None:
        if self.link is not None:
            self.link.close()
        await super().close()


class _Place:
    """A request's place in the queue."""

    __slots__ = ("in_line", "turn", "until", "user")

    def __init__(self, user: int | None, turn: "asyncio.Future[Link]", until: float, in_line: bool) -> None:
        self.user = user
        self.turn = turn
        self.until = until
        self.in_line = in_line
        """Whether it stands, or stood until its turn, in the line of all, and so counts against its user's share."""


class Pool:
    """The connections to the database. Users are known by the integers of their ids, which are quicker to look up.

    One user has at most half of them at a time, waiting or not: who floods the service, or waits for a locked row many
    times over, stands in a queue of their own. All others are served in the order in which they came.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise ValueError("a database URL is needed")
        size = settings.database_pool_size
        self.size = size
        self.waiting = 0
        """Requests that wait for a connection."""
        self._named = settings.database_prepared_statements
        self._share = max(1, size // 2)
        self._idle: list[Link] = []
        self._leased: dict[Link, _Connection] = {}
        self._lost: deque[_Connection] = deque()
        self._changed = asyncio.Event()
        self._line: OrderedDict[_Place, None] = OrderedDict()
        self._apart: dict[int, OrderedDict[_Place, None]] = {}
        self._held: dict[int, int] = {}
        self._failing_since: float | None = None
        self._unreachable = False
        self._closed = False
        self._reason = ""
        self._timer: asyncio.TimerHandle | None = None
        self._maintenance: asyncio.Task[None] | None = None
        parameters = {
            "application_name": "todochat",
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 30,
            "tcp_user_timeout": STALLED_SECONDS * 1000,
            **conninfo_to_dict(settings.database_url.value),
            "client_encoding": "UTF8",
        }
        connection_class = type("Connection", (_Connection,), {"on_failure": staticmethod(self._note_failure)})
        self._pool = AsyncConnectionPool[_Connection](
            kwargs={**parameters, "autocommit": True, "prepare_threshold": None},
            connection_class=connection_class,
            configure=self._configure,
            min_size=size,
            max_size=size,
            open=False,
            name="todochat",
            # A connection that can't be made is given up after a second attempt; whoever next asks psycopg_pool for
            # one makes it try again. With a longer patience its back-off would outlast the outage.
            reconnect_timeout=0,
            reconnect_failed=self._give_up,
        )

    @property
    def in_use(self) -> int:
        return len(self._leased) - len(self._idle)

    @property
    def connected(self) -> int:
        return len(self._leased)

    async def open(self) -> None:
        """Start to connect in the background."""
        # What it says at every attempt of an outage is said once, by _give_up.
        self._loop = asyncio.get_running_loop()
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        await self._pool.open()
        self._maintenance = asyncio.create_task(self._maintain())

    async def close(self) -> None:
        """Close all connections; whoever waits for one is refused."""
        self._closed = True
        if self._maintenance is not None:
            self._maintenance.cancel()
            with suppress(asyncio.CancelledError):
                await self._maintenance
        if self._timer is not None:
            self._timer.cancel()
        self._refuse_waiting()
        for link in list(self._leased):
            link.close()
        while self._lost:
            await self._pool.putconn(self._lost.popleft())
        await self._pool.close(timeout=1)

    # Lending

    def take(self, user: int | None) -> Link | None:
        """An idle connection, if there is one for this user. The one used last: its backend's caches are warm."""
        if self._idle and (user is None or self._hold(user)):
            return self._idle.pop()
        return None

    async def wait(self, user: int | None, until: float) -> Link:
        """A connection, when it is this request's turn; ``until`` is a time of the event loop.

        Raises Problem ``overloaded`` or, while there is no connection at all, ``database_unavailable``.
        """
        if self._closed or (self._unreachable and not self._leased):
            raise Problem("database_unavailable")
        if self.waiting >= self.size * WAITING_PER_CONNECTION:
            raise Problem("overloaded")
        if user is None or self._hold(user):
            place = _Place(user, self._loop.create_future(), until, in_line=True)
            self._line[place] = None
        else:
            apart = self._apart.setdefault(user, OrderedDict())
            if len(apart) >= WAITING_PER_CONNECTION:
                raise Problem("overloaded", "Too many requests of this user are waiting.")
            place = _Place(user, self._loop.create_future(), until, in_line=False)
            apart[place] = None
        if self._timer is None or until < self._timer.when() - PATIENCE_PRECISION:
            self._set_timer(until)
        self.waiting += 1
        try:
            return await place.turn
        except BaseException:
            if place.turn.done() and not place.turn.cancelled() and place.turn.exception() is None:
                self.release(user, place.turn.result())  # cancelled in the moment its turn came
            else:
                self._drop(place)
            raise
        finally:
            self.waiting -= 1

    def release(self, user: int | None, link: Link) -> None:
        """Give a connection back, in whatever state it is."""
        if user is not None:
            self._let_go(user)
        if link.closed:
            return
        if (
            link.worn
            or link.pgconn.transaction_status != TransactionStatus.IDLE
            or link.expires_at < self._loop.time()
            or self._closed
        ):
            link.close()
        else:
            self._hand_on(link)

    def distrust(self) -> None:
        """Close the idle connections: one has just stalled, so these may hang as well. New ones will show."""
        while self._idle:
            self._idle[-1].close()

    def _hand_on(self, link: Link) -> None:
        while self._line:
            place, _ = self._line.popitem(last=False)
            if not place.turn.done():
                place.turn.set_result(link)
                return
        self._idle.append(link)

    def _hold(self, user: int) -> bool:
        """Count one connection more for the user, unless they have their share."""
        held = self._held.get(user, 0)
        if held >= self._share:
            return False
        self._held[user] = held + 1
        return True

    def _let_go(self, user: int) -> None:
        """Count one connection less for the user, or let their next request that stands apart join the line for it."""
        if user in self._apart:
            place = self._pop_apart(user)
            place.in_line = True
            self._line[place] = None
            if self._idle:
                self._hand_on(self._idle.pop())
            return
        held = self._held[user] - 1
        if held:
            self._held[user] = held
        else:
            del self._held[user]

    def _pop_apart(self, user: int, place: _Place | None = None) -> _Place:
        apart = self._apart[user]
        if place is None:
            place, _ = apart.popitem(last=False)
        else:
            del apart[place]
        if not apart:
            del self._apart[user]
        return place

    def _drop(self, place: _Place) -> None:
        """Forget a place that was given up before its turn."""
        if place.in_line:
            self._line.pop(place, None)
            if place.user is not None:
                self._let_go(place.user)
        else:
            self._pop_apart(cast(int, place.user), place)

    def _end_patience(self) -> None:
        """Refuse those who waited long enough; one timer for all."""
        self._timer = None
        now = self._loop.time()
        problem = "overloaded" if self._leased else "database_unavailable"
        following: list[float] = []
        for queue in (self._line, *self._apart.values()):
            for place in queue:
                if place.turn.done():
                    continue
                if place.until - now < PATIENCE_PRECISION:
                    place.turn.set_exception(Problem(problem))
                else:
                    following.append(place.until)
        if following:
            self._set_timer(min(following))

    def _set_timer(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._end_patience)

    def _refuse_waiting(self) -> None:
        for queue in (self._line, *self._apart.values()):
            for place in queue:
                if not place.turn.done():
                    place.turn.set_exception(Problem("database_unavailable"))

    # Connections

    async def _configure(self, connection: _Connection) -> None:
        """Part of psycopg_pool's connecting: only what passes this is a connection."""
        link = connection.link = Link(connection.pgconn, self._named)
        try:
            # Behind a transaction pooler a session's settings would be somebody else's: there each transaction makes
            # its own.
            steps = _settings if self._named else [_nothing]
            await link.exchange(steps, self._loop.time() + CONNECT_SECONDS)
        except (LinkLost, LinkExpired, StepRefused) as error:
            link.close()
            self._reason = f"a new connection did not answer ({type(error).__name__})"
            raise

    def _note_failure(self, error: psycopg.Error) -> None:
        self._reason = str(error)

    def _give_up(self, pool: AsyncConnectionPool[_Connection]) -> None:
        """An attempt to connect failed twice. One broken moment is no outage: whoever waits may still be served."""
        del pool
        now = self._loop.time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since < OUTAGE_SECONDS:
            return
        if not self._unreachable:
            self._unreachable = True
            fields = {"reason": self._reason, "connections": len(self._leased)}
            log.error("database_unreachable", extra=fields)
        if not self._leased:
            self._refuse_waiting()

    async def _maintain(self) -> None:
        """Keep all of psycopg_pool's connections on lease, and give back those that broke for it to replace them."""
        while not self._closed:  # its cancellation can get lost: asyncio.wait_for, before Python 3.12, swallows some
            while self._lost:
                await self._pool.putconn(self._lost.popleft())
            if len(self._leased) == self.size:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                connection = await self._pool.getconn(OUTAGE_RETRY_SECONDS if self._unreachable else RETRY_SECONDS)
            except PoolTimeout:
                continue
            link = connection.link
            if link is None or link.closed or self._closed:
                self._lost.append(connection)
                continue
            link.on_close = self._forget
            link.expires_at = self._loop.time() + LIFETIME_SECONDS * (0.8 + 0.02 * (len(self._leased) % 10))
            self._leased[link] = connection
            self._failing_since = None
            if self._unreachable:
                self._unreachable = False
                log.info("database_reachable")
            self._hand_on(link)

    def _forget(self, link: Link) -> None:
        """A link was closed."""
        self._lost.append(self._leased.pop(link))
        if link in self._idle:
            self._idle.remove(link)
        self._changed.set()
