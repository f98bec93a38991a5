"""Password hashes: argon2id, off the event loop."""

import os
import sys
import threading
from collections.abc import Hashable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from service.http.threads import Threads

# OWASP's password storage cheat sheet: argon2id with 19 MiB, 2 passes, 1 lane. RFC 9106's larger set would take 64 MiB
# for each sign-in under way.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_UNKNOWN = "$argon2id$v=19$m=19456,t=2,p=1$IY0Fr/qF5d8Wg4gxlAPWRg$q6BatahTpbG2faaRsiqCUW9GVGy6MxN8M9N87inBrbE"
"""What the password is tried against when there is no account, so that both cases take the same time: the hash, by the
same parameters, of a random text that was thrown away. Making one at each start would take as long as a sign-in."""

_NICENESS = 10


class Passwords:
    """Threads for each of what has passwords, so that none takes another's turn.

    The system lets all other work of the process go before theirs.
    """

    def __init__(self) -> None:
        self.sign_ins = Hashing(2)
        self.registrations = Hashing(1)
        self.changes = Hashing(1)

    def close(self) -> None:
        for threads in (self.sign_ins, self.registrations, self.changes):
            threads.close()


class Hashing(Threads):
    """Threads that make and check hashes; who holds none of their ``places`` is to be refused."""

    def __init__(self, count: int) -> None:
        super().__init__(count, "argon2", _give_way)

    async def hash(self, owner: Hashable, password: str) -> str:
        """A new hash."""
        return await self.run(owner, _hasher.hash, password)

    async def verify(self, owner: Hashable, password_hash: str | None, password: str) -> bool:
        """Whether the password is the one; takes as long without a hash as with one."""
        return await self.run(owner, _verify, password_hash, password)


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a niceness of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS))


def make_hash(password: str) -> str:
    """A new hash, made here and now."""
    return _hasher.hash(password)


def _verify(password_hash: str | None, password: str) -> bool:
    try:
        _hasher.verify(password_hash or _UNKNOWN, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None
