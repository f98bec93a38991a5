"""Transactions: how one is put together, what may be tried again, and what its errors mean."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from uuid import UUID

from psycopg import pq

from service.db.connection import Connection, ConnectionExpired, ConnectionLost, StepRefused
from service.db.observed import Observe, Observed
from service.db.pool import Loan, Pool
from service.db.results import Result, read_result
from service.db.statements import SESSION, Context, Prepared, Step, set_setting
from service.problems import Problem, from_database, unknown_outcome
from service.settings import Settings

log = logging.getLogger(__name__)

ACQUIRE_SECONDS = 2.0
"""How long a request waits for a connection before it is answered 503."""
TRANSACTION_SECONDS = 5.0
"""How long a transaction may take in all, waiting for its connection and a second attempt included."""
CLEANUP_SECONDS = 0.5
"""How long a rollback may take, or a commit that begins when the time is up. Then the connection is closed."""
STALL_SECONDS = 1.0
"""A server that left a request unanswered for so long, to its end, may have gone, and all connections to it with it."""
PING_SECONDS = 3.0
ATTEMPTS = 3

_BEGIN: Step = (Prepared(b"begin", b"BEGIN", (), reads_only=False), ())
_BEGIN_SNAPSHOT: Step = (
    Prepared(b"begin_snapshot", b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", (), reads_only=True),
    (),
)
_BEGIN_READ_ONLY: Step = (Prepared(b"begin_read_only", b"BEGIN READ ONLY", (), reads_only=True), ())
_COMMIT: Step = (Prepared(b"commit", b"COMMIT", (), reads_only=True), ())
_ROLLBACK: Step = (Prepared(b"rollback", b"ROLLBACK", (), reads_only=True), ())
_SETTINGS = tuple(set_setting(setting, value) for setting, value in SESSION.items())


@lru_cache(maxsize=4096)
def _set_user(user: int) -> Step:
    return set_setting("app.user_id", str(UUID(int=user)))


_STALE_PLAN = ("0A000", "26000")
"""A prepared statement whose table a migration changed, or that the server doesn't know (any more)."""
_COLLISION = ("40001", "40P01")
"""Another transaction was changing the same rows; this one was rolled back and would succeed now."""
_READ_ONLY_SERVER = "25006"
"""After a failover the connection leads to what is a standby now; a new one may lead to its successor."""
_NAME_TAKEN = "42P05"
"""A statement was prepared by another client of a pooler that knows nothing of prepared statements."""

_LOST = "The connection to the database was lost."
_LATE = "The database did not answer in time."
_POOLER = (
    "DATABASE_URL leads through a pooler that can't carry prepared statements: set DATABASE_PREPARED_STATEMENTS=false"
)


class Database:
    """Transactions on a pool of connections, each of which serves one transaction at a time."""

    def __init__(self, settings: Settings, observe: Observe) -> None:
        self._named = settings.database_prepared_statements
        self._observe = observe
        self._pool = Pool(settings)
        self.is_full = self._pool.is_full

    async def open(self) -> None:
        """Start to connect in the background; use ``ping`` to know that the database answers."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections. Transactions that still run end with ``database_unavailable``."""
        await self._pool.close()

    async def ping(self, seconds: float = PING_SECONDS) -> None:
        """Run an empty transaction. Raises Problem ``database_unavailable`` when that takes longer than ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self.transact(Context(None, ""), [], acquire_seconds=seconds)
        except TimeoutError:
            raise Problem("database_unavailable") from None

    def stats(self) -> dict[str, int]:
        """Connections ``in_use``, requests ``waiting`` for one, and the ``size``: connections that are open."""
        return {
            "in_use": self._pool.in_use,
            "waiting": len(self._pool.waiting) + self._pool.waiting_apart,
            "size": self._pool.connected,
        }

    async def transact(
        self,
        context: Context,
        steps: Sequence[Step],
        accept: Callable[[list[Result]], None] | None = None,
        *,
        acquire_seconds: float = ACQUIRE_SECONDS,
        seconds: float = TRANSACTION_SECONDS,
    ) -> list[Result]:
        """Run the steps in one transaction, all or nothing, and return a result for each.

        One round trip; with ``accept``, which may raise to have everything rolled back, the commit is a second one.
        It may take ``seconds`` in all. Raises Problem: ``overloaded``, ``database_unavailable``, ``timeout``, or what
        the refusal of a step means, whose place in ``steps`` is ``statement`` then (negative for what comes ahead).

        What is certain to have left nothing behind is tried again: reads whose connection is lost, what the server
        refused to begin, what collided with another transaction (so ``accept`` may be called more than once). A write
        whose connection is lost is not: it may have been committed, unless it waited to be accepted.
        """
        loop = self._pool.loop
        started = loop.time()
        deadline = started + seconds
        # What comes ahead may note that a key was used: that changes nothing for whoever asks.
        changes = False in [prepared.reads_only for prepared, _ in steps]
        reads_only = not changes and False not in [prepared.reads_only for prepared, _ in context.ahead]
        request = self._begin(context, seconds, reads_only=reads_only)
        before = len(request)
        request += steps
        if accept is None:
            request.append(_COMMIT)
        asked, attempt = started, 0
        with Observed(self._observe, (*context.ahead, *steps)):
            while True:
                attempt += 1
                is_last = attempt >= ATTEMPTS
                loan = Loan(self._pool, context.borrower)
                try:
                    # A read that meets a dead connection is tried again, and then only on one that is seen to be alive.
                    until = min(loop.time() + acquire_seconds, deadline)
                    connection = await loan.take(until, may_be_dead=attempt == 1 and not changes)
                    asked = loop.time()
                    return await self._attempt(connection, request, before, len(steps), accept, deadline)
                except ConnectionLost as lost:
                    # A server that ends many connections may end one after another under the same request.
                    if not lost.nothing_ran and (is_last or changes):
                        raise _ended("database_unavailable", _LOST, perhaps_kept=changes and lost.was_ending) from None
                except ConnectionExpired as expired:
                    _suspect(self._pool, asked)
                    raise _ended("timeout", _LATE, perhaps_kept=changes and expired.was_ending) from None
                except StepRefused as refused:
                    if is_last or refused.error.sqlstate not in _COLLISION:
                        if refused.error.sqlstate == _READ_ONLY_SERVER and not reads_only:
                            loan.hang_up()
                            self._pool.distrust()
                        raise _problem(refused, [*request, _COMMIT], before, context) from refused.error
                finally:
                    loan.end()

    @asynccontextmanager
    async def hold(
        self, context: Context, *, seconds: float = TRANSACTION_SECONDS, snapshot: bool = False
    ) -> AsyncGenerator["Held"]:
        """A transaction of several round trips, on one connection to the end; what isn't committed by then is undone.

        It may take ``seconds`` in all; ``snapshot``: it only reads, and all of it sees what was there at its first
        statement. Raises what ``transact`` does, and tries nothing again: what ran before can't be run by it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        begin = self._begin(context, seconds, reads_only=False)
        # Sent alone: otherwise the statements that follow would be prepared ahead of it, and after that PostgreSQL lets
        # nobody choose the isolation level.
        alone = [_BEGIN_SNAPSHOT] if snapshot else []
        if snapshot:
            del begin[0]
        loan = Loan(self._pool, context.borrower)
        perhaps_kept = False
        try:
            connection = await loan.take(min(loop.time() + ACQUIRE_SECONDS, deadline))
            held = Held(self._pool, connection, alone, begin, context, deadline, self._observe)
            try:
                yield held
            finally:
                perhaps_kept = held.is_ending and not snapshot
                await _roll_back(connection)
        except ConnectionLost:
            raise _ended("database_unavailable", _LOST, perhaps_kept=perhaps_kept) from None
        except ConnectionExpired:
            raise _ended("timeout", _LATE, perhaps_kept=perhaps_kept) from None
        finally:
            loan.end()

    def _begin(self, context: Context, seconds: float, *, reads_only: bool) -> list[Step]:
        """What goes out ahead of a transaction's own steps."""
        request = [_BEGIN_READ_ONLY if reads_only else _BEGIN]
        if not self._named:
            request += _SETTINGS
        if seconds > TRANSACTION_SECONDS:
            request.append(set_setting("statement_timeout", f"{seconds - 1:.0f}s"))
            # It may wait for a client that sends or reads slowly; the login's own limit would end it in between.
            request.append(set_setting("idle_in_transaction_session_timeout", f"{seconds:.0f}s"))
        if context.user_id is not None:
            request.append(_set_user(context.user_id.int))
        if not reads_only:
            request.append(set_setting("app.request_id", context.request_id))
        request += context.ahead
        return request

    async def _attempt(
        self,
        connection: Connection,
        request: Sequence[Step],
        before: int,
        count: int,
        accept: Callable[[list[Result]], None] | None,
        deadline: float,
    ) -> list[Result]:
        """The transaction once, on a connection that is left without one."""
        try:
            try:
                answers = await _exchange(connection, request, deadline, may_repeat=True)
            except (ConnectionLost, ConnectionExpired) as error:
                error.was_ending = accept is None
                raise
            results = [read_result(answer) for answer in answers[before : before + count]]
            if accept is not None:
                accept(results)
                soon = asyncio.get_running_loop().time() + CLEANUP_SECONDS
                try:
                    await connection.exchange([_COMMIT], max(deadline, soon))
                except StepRefused as refused:
                    raise StepRefused(before + count, refused.error) from None
        except BaseException:
            await _roll_back(connection)
            raise
        return results


async def _exchange(
    connection: Connection, request: Sequence[Step], deadline: float, *, may_repeat: bool
) -> Sequence[pq.abc.PGresult]:
    """Run a request that begins a transaction; once more, where a plan was stale."""
    try:
        return await connection.exchange(request, deadline)
    except StepRefused as refused:
        if not may_repeat or not connection.named or refused.error.sqlstate not in _STALE_PLAN:
            raise
        await _roll_back(connection)
        await connection.forget_plans(deadline)
        return await connection.exchange(request, deadline)


async def _roll_back(connection: Connection) -> None:
    if connection.closed or connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        return
    try:
        await connection.exchange([_ROLLBACK], asyncio.get_running_loop().time() + CLEANUP_SECONDS)
    except (ConnectionLost, ConnectionExpired, StepRefused):
        connection.hang_up()


class Held:
    """A transaction of several round trips: see ``Database.hold``."""

    def __init__(
        self,
        pool: Pool,
        connection: Connection,
        alone: Sequence[Step],
        begin: Sequence[Step],
        context: Context,
        deadline: float,
        observe: Observe,
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._alone = alone
        self._begin = begin
        self._context = context
        self._deadline = deadline
        self._observe = observe
        self.is_ending = False
        """Whether a COMMIT was sent: without one, nothing is kept for certain."""
        self.is_committed = False

    async def run(self, steps: Sequence[Step], *, commit: bool = False) -> list[Result]:
        """Run the steps and return a result for each; with ``commit`` that is the end, and what was done is kept.

        Raises the Problem that the refusal of a step means, as ``Database.transact``; then nothing more can run.
        """
        started = asyncio.get_running_loop().time()
        before = len(self._begin)
        request = [*self._begin, *steps, *([_COMMIT] if commit else ())]
        self.is_ending = commit
        with Observed(self._observe, (*self._context.ahead, *steps) if before else steps):
            try:
                if self._alone:
                    await self._connection.exchange(self._alone, self._deadline)
                may_repeat = bool(self._begin) and not self._alone
                answers = await _exchange(self._connection, request, self._deadline, may_repeat=may_repeat)
            except StepRefused as refused:
                if refused.error.sqlstate == _READ_ONLY_SERVER:
                    self._connection.hang_up()
                    self._pool.distrust()
                raise _problem(refused, request, before, self._context) from refused.error
            except ConnectionExpired:
                _suspect(self._pool, started)
                raise
        self.is_committed = commit
        self._alone = self._begin = ()
        return [read_result(answer) for answer in answers[before : before + len(steps)]]


def _suspect(pool: Pool, asked: float) -> None:
    """Replace the connections where one was not answered from then on until its time was up, unless that was short."""
    if asyncio.get_running_loop().time() - asked >= STALL_SECONDS:
        pool.distrust()


def _ended(code: str, reason: str, *, perhaps_kept: bool) -> Problem:
    """What is told of a transaction that got no answer."""
    return unknown_outcome(code, reason) if perhaps_kept else Problem(code, reason)


def _problem(refused: StepRefused, request: Sequence[Step], before: int, context: Context) -> Problem:
    """What the caller is told. An error that nobody expects is logged, without the values in its details."""
    error = refused.error
    problem = from_database(error)
    name, text, _, _ = request[refused.index][0]
    statement = name.decode()
    if error.sqlstate == _NAME_TAKEN:
        log.error(
            "prepared_statement_refused",
            extra={"query": statement, "request_id": context.request_id, "hint": _POOLER},
        )
        problem = Problem("database_unavailable")
    elif problem.code == "user_has_records" and b" erase_user(" not in text:
        # The foreign key's other side: something was added, and the user deleted behind the check that let them in.
        problem = Problem("invalid_token", "The user is gone.")
    elif problem.code == "internal":
        log.error(
            "database_error",
            extra={
                "query": statement,
                "request_id": context.request_id,
                "sqlstate": error.sqlstate,
                "reason": error.diag.message_primary,
                "constraint": error.diag.constraint_name,
            },
        )
    problem.statement = refused.index - before
    problem.collided = refused.error.sqlstate in _COLLISION
    return problem
