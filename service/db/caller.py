"""Who asks, and their transactions."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar, overload
from uuid import UUID

from service.db.database import ATTEMPTS, TRANSACTION_SECONDS, Database, Held
from service.db.queries import Nothing, Statement
from service.db.results import Result
from service.db.statements import Context, Step
from service.problems import Problem

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")

_AUTHENTICATE = Nothing("authenticate")
_AUTHENTICATE_KEY = Nothing("authenticate_key")
_TOUCH_KEY = Nothing("touch_key")

NOTED_KEYS = 4096
"""Of so many keys a process remembers that this hour's use is noted."""


class ApiKey:
    """The key that a caller asks with: its digest, and the scope that what it asks for needs.

    ``noted`` remembers for the process in which hour (since 1970) a key's use was last noted in the database, so that
    all other requests of that hour that only read need not write. Until the database has proven it, a key is nobody's,
    whosever it says that it is: what it takes is counted on the ``network`` that it comes from.
    """

    __slots__ = ("_hour", "_noted", "digest", "network", "scope")

    def __init__(self, digest: bytes, scope: str, noted: dict[bytes, int], network: str = "") -> None:
        self.digest = digest
        self.scope = scope
        self.network = network
        self._noted = noted
        self._hour: int | None = None

    @property
    def was_proven(self) -> bool:
        """Whether the database has proven it for an earlier request."""
        return self.digest in self._noted

    def check(self, *, reads_only: bool) -> list[Statement[Any]]:
        """What a transaction of the key begins with; ``reads_only``: it could not note the use."""
        checks: list[Statement[Any]] = [_AUTHENTICATE_KEY(digest=self.digest, scope=self.scope)]
        hour = int(time.time()) // 3600
        if not reads_only and self._noted.get(self.digest) != hour:
            self._hour = hour
            checks.append(_TOUCH_KEY(digest=self.digest, hour=datetime.fromtimestamp(hour * 3600, UTC)))
        return checks

    def note(self) -> None:
        """Its transaction was committed."""
        if self._hour is not None:
            if len(self._noted) >= NOTED_KEYS:
                self._noted.clear()
            self._noted[self.digest] = self._hour

    def forget(self) -> None:
        """The database knows no such key, or not any more."""
        self._noted.pop(self.digest, None)


@lru_cache(maxsize=4096)
def _authentication(user: int, token_version: int, issued_at: int | None) -> tuple[Step, ...]:
    """The check that a transaction of a signed-in caller begins with; users by the integers of their ids."""
    user_id = UUID(int=user)
    if token_version:
        return (_AUTHENTICATE(token_version=token_version, issued_at=None).step(user_id),)
    if issued_at is not None:
        return (_AUTHENTICATE(token_version=None, issued_at=issued_at).step(user_id),)
    return ()


class Caller:
    """Who asks. All transactions of a request go through this object.

    Every transaction of a signed-in caller begins with the check that the account is active and the token not revoked,
    in the same round trip; row security shows it that user's rows. Without a user (sign-in, health) it sees no rows.
    """

    def __init__(
        self,
        database: Database,
        request_id: str,
        user_id: UUID | None = None,
        token_version: int = 0,
        issued_at: int | None = None,
        subject: str | None = None,
        key: ApiKey | None = None,
        network: str | None = None,
    ) -> None:
        """What the token is checked by is its version, the time of issue (seconds since 1970), or the key that it is.

        ``subject`` is the user's name at an outside issuer, where the token is of one. Of whom nobody knows yet who it
        is, ``network`` says where the request comes from.
        """
        self.database = database
        self.request_id = request_id
        self.user_id = user_id
        self.token_version = token_version
        self.issued_at = issued_at
        self.subject = subject
        self.key = key
        self.network = network
        self.seconds = TRANSACTION_SECONDS
        """How long a transaction of several round trips may take."""
        self.proven_id = user_id if key is None or key.was_proven else None
        """The user, unless it is only a key that says so, which nothing has proven yet."""
        self._held: Held | None = None

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
        steps = [statement.step(self.user_id) for statement in statements]
        if self._held is not None:
            answers = _read(statements, await self._held.run(steps))
            if accept is not None:
                accept(answers)
            return answers

        def check(results: list[Result]) -> None:
            if accept is not None:
                accept(_read(statements, results))

        results = await self.database.transact(self._context(), steps, check if accept else None, seconds=seconds)
        if self.key is not None:
            self._note(self.key)
        return _read(statements, results)

    @asynccontextmanager
    async def transaction(self, *first: Statement[Any], snapshot: bool = False) -> AsyncGenerator[None]:
        """Run all that follows in one transaction: kept when the block ends well, undone otherwise.

        Inside another one it is that one. ``first`` are statements that leave together with the first ones run inside;
        ``snapshot``: it only reads, and all of it sees what was there at its first statement.
        """
        if self._held is not None:
            if first:
                raise RuntimeError("statements that come first can't be in a transaction that has begun")
            yield
            return
        async with self.database.hold(
            self._context(*first, snapshot=snapshot), seconds=self.seconds, snapshot=snapshot
        ) as held:
            self._held = held
            try:
                yield
                if not held.is_committed:
                    await self.commit()
                if self.key is not None:
                    self._note(self.key)
            finally:
                self._held = None

    async def repeat(self, work: Callable[[], Awaitable[R]]) -> R:
        """Do ``work``, which is one transaction, again where it collided with another one: nothing of it was kept.

        No attempt begins later than TRANSACTION_SECONDS after the first one. Inside another transaction there is none:
        all of that one has to be done again.
        """
        until = time.monotonic() + TRANSACTION_SECONDS
        for _ in range(ATTEMPTS - 1):
            try:
                return await work()
            except Problem as problem:
                if self._held is not None or not problem.collided or time.monotonic() > until:
                    raise
        return await work()

    async def commit(self, *last: Statement[Any]) -> None:
        """Keep what the transaction did; ``last`` are statements that leave together with the COMMIT."""
        if self._held is None:
            raise RuntimeError("there is no transaction")
        await self._held.run([statement.step(self.user_id) for statement in last], commit=True)

    def forget_key(self) -> None:
        """The database has refused the key, if it is one that asks."""
        if self.key is not None:
            self.key.forget()
            self.proven_id = None

    def _note(self, key: ApiKey) -> None:
        key.note()
        self.proven_id = self.user_id

    def _context(self, *first: Statement[Any], snapshot: bool = False) -> Context:
        ahead: tuple[Step, ...] = ()
        if self.key is not None:
            first = (*self.key.check(reads_only=snapshot), *first)
        elif self.user_id is not None:
            ahead = _authentication(self.user_id.int, self.token_version, self.issued_at)
        if first:
            ahead += tuple(statement.step(self.user_id) for statement in first)
        network = self.key.network if self.key is not None and self.proven_id is None else self.network
        return Context(self.user_id, self.request_id, ahead, network)


def _read(statements: Sequence[Statement[Any]], results: Sequence[Result]) -> list[Any]:
    return [statement.query.read(result) for statement, result in zip(statements, results, strict=True)]
