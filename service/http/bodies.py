"""One bound for the bodies that all requests together hold in memory."""

from collections import Counter
from uuid import UUID

from service.problems import Problem

BODIES_BYTES = 64 * 1024 * 1024
"""What long bodies may take in all; one user, or one address without a user, may take half of it."""
SHORT_BODY_BYTES = 64 * 1024
"""Bodies up to this are not counted: connections are bounded, too."""


class Held:
    """What one request's body holds."""

    __slots__ = ("_bodies", "_owner", "_size")

    def __init__(self, bodies: "Bodies", owner: UUID | str) -> None:
        self._bodies = bodies
        self._owner = owner
        self._size = 0

    def add(self, size: int) -> None:
        """Count so many bytes more. Raises ``overloaded`` where there is no room for them."""
        by_owner = self._bodies.by_owner
        if max(by_owner.total() + size, 2 * (by_owner[self._owner] + size)) > BODIES_BYTES:
            raise Problem("overloaded", "Too many long bodies are being read.")
        by_owner[self._owner] += size
        self._size += size

    def release(self) -> None:
        """The request is over."""
        self._bodies.by_owner -= Counter({self._owner: self._size})


class Bodies:
    """The long bodies of one process."""

    def __init__(self) -> None:
        self.by_owner: Counter[UUID | str] = Counter()
