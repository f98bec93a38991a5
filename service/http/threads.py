"""Work that would hold the event loop, in threads beside it."""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

from service.http.quota import Quota

Found = TypeVar("Found")

PLACES = 128
"""Requests that may have work in one set of threads, or wait for it."""


class Threads:
    """Some threads whose owners take turns: of each, so many pieces of work at a time are done, or come next.

    An owner is a user or, where none is proven, a network; or a file that is read.
    """

    def __init__(self, count: int, name: str, initializer: Callable[[], None] | None = None) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=initializer)
        self._count = count
        self.places = Quota(PLACES)
        """For requests that have work for the threads, where these are to be refused when there are too many."""
        self._turns: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, owner: Hashable, work: Callable[..., Found], *arguments: object) -> Found:
        """What ``work`` makes of the arguments."""
        turn = self._turns.get(owner)
        if turn is None:
            turn = self._turns[owner] = asyncio.Semaphore(self._count)
        await turn.acquire()
        try:
            done = asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        except RuntimeError:  # closed, or there can't be one more thread
            turn.release()
            raise
        # A thread works on when nobody waits for it any more, and so long it is the owner's turn.
        done.add_done_callback(lambda _: turn.release())
        return await asyncio.shield(done)

    def close(self) -> None:
        """Leave out what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
