"""Password hashes: argon2id, off the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from service.problems import Problem

T = TypeVar("T")

# OWASP's password storage cheat sheet: argon2id with 19 MiB, 2 passes, 1 lane. RFC 9106's larger set would take 64 MiB
# for each sign-in under way.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_UNKNOWN = _hasher.hash("of nobody")
"""What the password is tried against when there is no account, so that both cases take the same time."""

WAITING = 64
"""Hashes that may wait for a thread; beyond it a request is answered ``overloaded``."""


class Passwords:
    """Makes and checks hashes in two threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="argon2")
        self._pending = 0

    async def hash(self, password: str) -> str:
        return await self._run(_hasher.hash, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the one; takes as long without a hash as with one."""
        return await self._run(_verify, password_hash, password)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        if self._pending >= WAITING:
            raise Problem("overloaded")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._pending -= 1


def _verify(password_hash: str | None, password: str) -> bool:
    try:
        _hasher.verify(password_hash or _UNKNOWN, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None
