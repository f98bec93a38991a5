"""A connection of psycopg's: one write with all that a transaction needs, one read with all its results.

This is libpq's pipeline mode through psycopg's own binding of it: a get costs 101 µs of CPU, where psycopg's cursors
take 177 to 222 for one statement that carries context and query, and 351 for four awaits. Every wait ends at its
deadline, and whatever ends one early (deadline, cancellation, a broken connection) closes the connection: nobody can
read half an answer of somebody else's.
"""

import asyncio
import os
import select
from collections.abc import Sequence
from typing import Any, ClassVar

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from service.db.statements import Prepared, Row, Step

_SYNC = pq.ExecStatus.PIPELINE_SYNC
_REFUSED = pq.ExecStatus.FATAL_ERROR
_COMMAND_OK = pq.ExecStatus.COMMAND_OK
_BROKEN = pq.ConnStatus.BAD
_BINARY = pq.Format.BINARY
_HUNG_UP = select.POLLERR | select.POLLHUP

_DEALLOCATE_ALL: Step = (Prepared(b"", b"DEALLOCATE ALL", (), reads_only=True), ())
_ADMIN_SHUTDOWN = b"57P01"


class ConnectionLost(Exception):
    """The connection broke before the answer was complete.

    ``nothing_ran`` when the server itself said so: it refused the very first statement because it was told to close.
    """

    was_ending = True
    """Whether a COMMIT was sent, unless nobody looked: without one, nothing is kept for certain."""

    def __init__(self, nothing_ran: bool = False) -> None:
        super().__init__()
        self.nothing_ran = nothing_ran


class ConnectionExpired(Exception):
    """The answer was not complete at the deadline; the connection is closed."""

    was_ending = True


class StepRefused(Exception):
    """The server refused the step number ``index``, and ran none of those behind it."""

    def __init__(self, index: int, error: psycopg.Error) -> None:
        super().__init__(index, error)
        self.index = index
        self.error = error


class Connection(psycopg.AsyncConnection[Row]):
    """A connection in pipeline mode, for one exchange at a time.

    ``named`` says whether statements are prepared under their names, each once.
    """

    failure: ClassVar[str] = ""
    """Why the last attempt to connect failed."""
    named = True
    worn = False
    """Whether it took more than the socket does at once: libpq never gives back the memory it needed for that."""
    _loop: asyncio.AbstractEventLoop
    _waiter: asyncio.Future[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _timer_at = 0.0
    _deadline = 0.0
    _fd = -1

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> "Connection":  # type: ignore[override]
        try:
            return await super().connect(conninfo, **kwargs)  # type: ignore[return-value]
        except psycopg.Error as error:
            Connection.failure = str(error)
            raise

    def start(self, named: bool) -> None:
        """Enter pipeline mode; from now on psycopg's own methods are not used, but for closing."""
        self.named = named
        self._loop = asyncio.get_running_loop()
        self._named_plans: set[bytes] = set()
        self._results: list[pq.abc.PGresult] = []
        # A descriptor of our own: libpq closes its one in the middle of a call when the connection breaks, and the
        # number could name another connection before the event loop is told to forget it.
        self._fd = os.dup(self.pgconn.socket)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._encrypted = self.pgconn.ssl_in_use
        self.pgconn.enter_pipeline_mode()
        self._loop.add_reader(self._fd, self._read)

    def is_live(self) -> bool:
        """Whether the server has not hung up; to be asked between two exchanges, before anything is sent.

        What a server says unasked is nearly always goodbye. The event loop hears it too, but perhaps only next.
        """
        return not self.closed and not self._poll.poll(0)

    async def exchange(self, steps: Sequence[Step], deadline: float) -> list[pq.abc.PGresult]:
        """Run the steps and return a result for each. ``deadline`` is a time of the event loop.

        Raises StepRefused, after which the connection can be used further, or ConnectionLost or ConnectionExpired.
        """
        if self.closed:
            raise ConnectionLost(nothing_ran=True)
        results: list[pq.abc.PGresult] = []
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._results = results
        self._waiter = waiter
        self._deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            self._set_timer(deadline)
        try:
            new = self._send(steps)
            await waiter
        except BaseException as error:
            self._waiter = None
            self.hang_up()
            if isinstance(error, (psycopg.Error, ConnectionLost)):
                raise ConnectionLost(_nothing_ran(results)) from None
            raise
        self._waiter = None
        if results[-1].status != _COMMAND_OK:
            self._check(steps, results, new)
        return results[len(new) :] if new else results

    async def forget_plans(self, deadline: float) -> None:
        """Have every statement prepared anew at its next use. Raises what ``exchange`` does."""
        self._named_plans.clear()
        await self.exchange([_DEALLOCATE_ALL], deadline)

    def _send(self, steps: Sequence[Step]) -> list[bytes]:
        """Send everything, and return the names of the statements that are to be prepared first."""
        pgconn = self.pgconn
        prepared = self._named_plans
        new: list[bytes] = []
        if self.named:
            for (name, text, types, _), _ in steps:
                if name and name not in prepared:
                    pgconn.send_prepare(name, text, types)
                    prepared.add(name)
                    new.append(name)
        for (name, text, types, _), values in steps:
            formats = (1,) * len(values)
            if name in prepared:
                pgconn.send_query_prepared(name, values, formats, _BINARY)
            else:
                pgconn.send_query_params(text, values, types, formats, _BINARY)
        pgconn.pipeline_sync()
        if pgconn.flush():
            self.worn = True
            self._loop.add_writer(self._fd, self._write)
        return new

    def _check(self, steps: Sequence[Step], results: Sequence[pq.abc.PGresult], new: Sequence[bytes]) -> None:
        """Raise StepRefused for the first result that is one."""
        if new:
            made = zip(new, results, strict=False)
            self._named_plans.difference_update(name for name, result in made if result.status != _COMMAND_OK)
        for place, result in enumerate(results):
            if result.status == _REFUSED:
                if place < len(new):  # then its first use is what failed
                    index = next(index for index, (prepared, _) in enumerate(steps) if prepared.name == new[place])
                else:
                    index = place - len(new)
                raise StepRefused(index, error_from_result(result))

    def _read(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.hang_up()
            return
        try:
            while not self._has_answer(waiter):
                # uvloop reports an error once and then stops watching: what came before it must be read to its end now.
                if not any(events & _HUNG_UP for _, events in self._poll.poll(0)):
                    return
        except psycopg.Error:
            waiter.set_exception(ConnectionLost())

    def _has_answer(self, waiter: "asyncio.Future[None]") -> bool:
        """Read what has come; whether that ends the exchange. Raises psycopg.Error when the connection is broken."""
        pgconn = self.pgconn
        results = self._results
        pgconn.consume_input()
        if self._encrypted:  # the rest of a TLS record that was larger than libpq's buffer wakes nobody
            pgconn.consume_input()
        ended = True
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                if ended:
                    if pgconn.status == _BROKEN:
                        raise psycopg.OperationalError
                    return False
                ended = True
            elif result.status == _SYNC:
                waiter.set_result(None)
                return True
            else:
                results.append(result)
                ended = False
        return False

    def _write(self) -> None:
        try:
            if self.pgconn.flush():
                return
        except psycopg.Error:
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(ConnectionLost())
        self._loop.remove_writer(self._fd)

    # One timer serves many exchanges: when it goes off before the deadline of the one that runs, it is set anew.

    def _set_timer(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = moment
        self._timer = self._loop.call_at(moment, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._deadline - self._loop.time() > 0.001:
            self._set_timer(self._deadline)
        else:
            waiter.set_exception(ConnectionExpired())

    def hang_up(self) -> None:
        """Close; the server then takes back what was not committed. An exchange that runs ends with ConnectionLost."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._closed = True
        self.pgconn.finish()
        if self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionLost())

    async def close(self) -> None:
        """What psycopg_pool calls."""
        self.hang_up()


def _nothing_ran(results: Sequence[pq.abc.PGresult]) -> bool:
    """Whether the first thing the server said was that it closes the connection because it was told to.

    Only a server names the function that says so; what a pooler says itself tells nothing about the server.
    """
    return (
        bool(results)
        and results[0].error_field(pq.DiagnosticField.SQLSTATE) == _ADMIN_SHUTDOWN
        and results[0].error_field(pq.DiagnosticField.SOURCE_FUNCTION) is not None
    )
