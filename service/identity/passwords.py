"""Password hashes: argon2id, off the event loop."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from service.problems import Problem

T = TypeVar("T")

# OWASP's password storage cheat sheet: argon2id with 19 MiB, 2 passes, 1 lane. RFC 9106's larger set would take 64 MiB
# for each sign-in under way.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_UNKNOWN = "$argon2id$v=19$m=19456,t=2,p=1$IY0Fr/qF5d8Wg4gxlAPWRg$q6BatahTpbG2faaRsiqCUW9GVGy6MxN8M9N87inBrbE"
"""What the password is tried against when there is no account, so that both cases take the same time: the hash, by the
same parameters, of a random text that was thrown away. Making one at each start would take as long as a sign-in."""

WAITING = 64
"""Sign-ins under way, and as many new hashes; beyond them a request is answered ``overloaded``."""
_NICENESS = 10


class Passwords:
    """Checks hashes in two threads, and makes new ones in another, so that neither takes the other's turn.

    The system lets all other work of the process go before theirs.
    """

    def __init__(self) -> None:
        self._checking = _Queue(2)
        self._making = _Queue(1)

    async def hash(self, password: str) -> str:
        """A new hash. Raises Problem ``overloaded``."""
        with self._making.place():
            return await self._making.run(_hasher.hash, password)

    @contextmanager
    def checking(self) -> Generator[None]:
        """A place among the sign-ins under way, to be had before an attempt counts. Raises Problem ``overloaded``."""
        with self._checking.place():
            yield

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the one; takes as long without a hash as with one. Call it within ``checking()``."""
        return await self._checking.run(_verify, password_hash, password)

    def close(self) -> None:
        for work in (self._checking, self._making):
            work.threads.shutdown(wait=False, cancel_futures=True)


class _Queue:
    """Some threads, and a bounded number of requests that use them or wait for them."""

    def __init__(self, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2", initializer=_give_way)
        self._taken = 0

    @contextmanager
    def place(self) -> Generator[None]:
        if self._taken >= WAITING:
            raise Problem("overloaded")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a niceness of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS))


def _verify(password_hash: str | None, password: str) -> bool:
    try:
        _hasher.verify(password_hash or _UNKNOWN, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None
