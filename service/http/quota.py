"""What all requests of the process may hold together, of which nobody gets so much that others get nothing."""

from collections import Counter
from collections.abc import Generator, Hashable
from contextlib import contextmanager

from service.problems import Problem


class Quota:
    """``limit`` for all, and ``each`` for one owner (a user or, where none is proven, a network): half, unless said."""

    def __init__(self, limit: int, each: int | None = None, *, refusal: str = "") -> None:
        self._limit = limit
        self._each = limit // 2 if each is None else each
        self._refusal = refusal
        self._total = 0
        self._held: Counter[Hashable] = Counter()

    @contextmanager
    def hold(self, owner: Hashable, size: int = 1) -> Generator[None]:
        """So much of it. Raises ``overloaded`` when there is none left, for all or for the owner."""
        if self._total + size > self._limit or self._held[owner] + size > self._each:
            raise Problem("overloaded", self._refusal)
        self._total += size
        self._held[owner] += size
        try:
            yield
        finally:
            self._total -= size
            self._held[owner] -= size
            if not self._held[owner]:
                del self._held[owner]
