"""Keeps exports and imports, which last, from taking the service over: so many at a time, and one for each user."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from uuid import UUID

from service.problems import Problem

UPLOADS = 8
"""Files that may arrive at the same time; each may fill a temporary file up to the limit of its route."""


class Bulk:
    """What runs at the moment, in this process. A third of the connections, and at least one, may be held by it."""

    def __init__(self, pool_size: int) -> None:
        self._places = max(1, pool_size // 3)
        self._running: set[UUID | None] = set()
        self._arriving: set[UUID | None] = set()

    @contextmanager
    def running(self, user_id: UUID | None) -> Generator[None]:
        """A place for one export or import. Raises ``overloaded`` when all are taken, or one by the same user."""
        with self._one_more(self._running, user_id, self._places):
            yield

    @contextmanager
    def arriving(self, user_id: UUID | None) -> Generator[None]:
        """A place for one upload. Raises ``overloaded`` when all are taken, or one by the same user."""
        with self._one_more(self._arriving, user_id, UPLOADS):
            yield

    async def export(self, user_id: UUID | None, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The pieces, in a place of their own from the first to the last."""
        async with aclosing(pieces):
            with self.running(user_id):
                async for piece in pieces:
                    yield piece

    @contextmanager
    def _one_more(self, taken: set[UUID | None], user_id: UUID | None, places: int) -> Generator[None]:
        if user_id in taken:
            raise Problem("overloaded", "Another export or import of this user still runs. Try again when it is done.")
        if len(taken) >= places:
            raise Problem("overloaded", "Too many exports and imports run at the moment. Try again later.")
        taken.add(user_id)
        try:
            yield
        finally:
            taken.discard(user_id)
