"""What doesn't fit into memory, and lasts: exports and imports, so many at a time, and one for each user.

A body goes to a temporary file, which has no name and is gone when it is closed. ``TMPDIR`` says where; a disk is
better for it than memory.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import IO
from uuid import UUID

from service.http.quota import Quota
from service.http.request import Request
from service.problems import Problem

UPLOADS = 8
"""Files that may arrive at the same time; each may fill a temporary file up to the limit of its route."""
UPLOAD_SECONDS = 1800.0
"""How long one may take to arrive: 128 MiB at 75 kB/s."""


class Bulk:
    """``running`` is for an export or import: a third of the connections, and at least one. ``arriving``: an upload."""

    def __init__(self, pool_size: int) -> None:
        refusal = "Too many exports and imports run at the moment, or one of this user still does. Try again later."
        self.running = Quota(max(1, pool_size // 3), 1, refusal=refusal)
        self.arriving = Quota(UPLOADS, 1, refusal=refusal)

    async def export(self, user_id: UUID | None, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The pieces, in a place of their own from the first to the last."""
        async with aclosing(pieces):
            with self.running.hold(user_id):
                async for piece in pieces:
                    yield piece


async def spool_body(request: Request, *media_types: str) -> tuple[IO[bytes], bytes]:
    """The body, up to the handler's limit, as a file to be read from its beginning, and its SHA-256.

    Raises ``unsupported_media_type``, ``payload_too_large``, ``malformed_request`` when the client leaves early, and
    ``overloaded`` when the disk is full.
    """
    request.check_content(*media_types)
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever gets it closes it
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
    return file, digest.digest()


def _no_room() -> Problem:
    return Problem("overloaded", "There is no room for the body at the moment.")
