"""One bound for the bodies that all requests together hold in memory."""

from collections import Counter
from uuid import UUID

from service.problems import Problem

BODIES_BYTES = 64 * 1024 * 1024
"""What long bodies may take in all; one user, or one address without a user, may take half of it."""
SHORT_BODY_BYTES = 64 * 1024
"""Bodies up to this are not counted: connections are bounded, too."""


class Held:
    """What one request's body holds; ``by_owner`` is what all of the process hold."""

    __slots__ = ("_by_owner", "_owner", "_size")

    def __init__(self, by_owner: Counter[UUID | str], owner: UUID | str) -> None:
        self._by_owner = by_owner
        self._owner = owner
        self._size = 0

    def add(self, size: int) -> None:
        """Count so many bytes more. Raises ``overloaded`` where there is no room for them."""
        if max(self._by_owner.total() + size, 2 * (self._by_owner[self._owner] + size)) > BODIES_BYTES:
            raise Problem("overloaded", "Too many long bodies are being read.")
        self._by_owner[self._owner] += size
        self._size += size

    def release(self) -> None:
        """The request is over."""
        self._by_owner -= Counter({self._owner: self._size})
