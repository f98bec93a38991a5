"""What doesn't fit into memory, and lasts: exports and imports, so many at a time, and one for each user.

A body goes to a temporary file, which has no name and is gone when it is closed. ``TMPDIR`` says where; a disk is
better for it than memory.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager, suppress
from typing import IO, Self
from uuid import UUID

from service.http.request import Request
from service.problems import Problem

UPLOADS = 8
"""Files that may arrive at the same time; each may fill a temporary file up to the limit of its route."""
UPLOAD_SECONDS = 1800.0
"""How long one may take to arrive: 128 MiB at 75 kB/s."""


class _Places:
    """So many at a time in this process, and one for each user."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: set[UUID | None] = set()

    @contextmanager
    def __call__(self, user_id: UUID | None) -> Generator[None]:
        """A place. Raises ``overloaded`` when all are taken, or one by the same user."""
        if user_id in self._taken:
            raise Problem("overloaded", "Another export or import of this user still runs. Try again when it is done.")
        if len(self._taken) >= self._count:
            raise Problem("overloaded", "Too many exports and imports run at the moment. Try again later.")
        self._taken.add(user_id)
        try:
            yield
        finally:
            self._taken.discard(user_id)


class Bulk:
    """``running`` is for an export or import: a third of the connections, and at least one. ``arriving``: an upload."""

    def __init__(self, pool_size: int) -> None:
        self.running = _Places(max(1, pool_size // 3))
        self.arriving = _Places(UPLOADS)

    async def export(self, user_id: UUID | None, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The pieces, in a place of their own from the first to the last."""
        async with aclosing(pieces):
            with self.running(user_id):
                async for piece in pieces:
                    yield piece


class Upload:
    """A body in a file; a context manager that closes it."""

    def __init__(self, file: IO[bytes], digest: bytes) -> None:
        self.file = file
        self.digest = digest
        """SHA-256 of it all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


async def spool_body(request: Request, *media_types: str) -> Upload:
    """The body, up to the handler's limit, as a file to be read from its beginning.

    Raises ``unsupported_media_type``, ``payload_too_large``, ``malformed_request`` when the client leaves early, and
    ``overloaded`` when the disk is full.
    """
    request.check_content(*media_types)
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever gets the Upload closes it
    except OSError:
        raise _no_room() from None
    limit = asyncio.timeout(UPLOAD_SECONDS)
    try:
        digest = hashlib.sha256()
        async with limit:
            async for piece in request.stream():
                digest.update(piece)
                file.write(piece)
        file.seek(0)
    except OSError:  # TimeoutError, too
        with suppress(OSError):  # closing writes what is left
            file.close()
        if limit.expired():
            raise Problem("timeout", "The file took too long to arrive.", status=408) from None
        raise _no_room() from None
    except BaseException:
        file.close()
        raise
    return Upload(file, digest.digest())


def _no_room() -> Problem:
    return Problem("overloaded", "There is no room for the body at the moment.")
