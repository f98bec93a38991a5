"""Work that would hold the event loop, in threads beside it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

from service.problems import Problem

Found = TypeVar("Found")

PLACES = 128
"""Requests that may have work in one set of threads, or wait for it; those of one owner may be half of them."""


class Threads:
    """Some threads whose owners take turns: of each, one piece of work at a time is done, or waits to be done next.

    An owner is a user or, where none is proven, a network.
    """

    def __init__(self, count: int, name: str, initializer: Callable[[], None] | None = None) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=initializer)
        self._taken: Counter[Hashable] = Counter()
        self._turns: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def place(self, owner: Hashable) -> Generator[None]:
        """A place among the requests that have work for the threads. Raises ``overloaded`` when there is none."""
        if max(self._taken.total(), 2 * self._taken[owner]) >= PLACES:
            raise Problem("overloaded")
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken -= Counter({owner: 1})

    async def run(self, owner: Hashable, work: Callable[..., Found], *arguments: object) -> Found:
        """What ``work`` makes of the arguments."""
        turn = self._turns.get(owner)
        if turn is None:
            turn = self._turns[owner] = asyncio.Lock()
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def close(self) -> None:
        """Leave out what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
