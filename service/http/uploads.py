"""Bodies too large for memory: they go to a temporary file, which has no name and is gone when it is closed.

``TMPDIR`` says where; a disk is better for it than memory.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Self

from service.http.reading import check_content
from service.problems import Problem


class Upload:
    """A body in a file; a context manager that closes it."""

    def __init__(self, file: IO[bytes], size: int, digest: bytes) -> None:
        self.file = file
        self.size = size
        self.digest = digest
        """SHA-256 of it all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


async def spool_body(headers: Mapping[bytes, bytes], receive: Any, limit: int, media_types: tuple[str, ...]) -> Upload:
    """The body, at most ``limit`` bytes of it, as a file to be read from its beginning.

    Raises ``unsupported_media_type``, ``payload_too_large``, ``malformed_request`` when the client leaves early, and
    ``overloaded`` when the disk is full.
    """
    check_content(headers, limit, media_types)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever gets the Upload closes it
    try:
        return await _fill(file, receive, limit)
    except OSError:
        with suppress(OSError):  # closing writes what is left
            file.close()
        raise Problem("overloaded", "There is no room for the body at the moment.") from None
    except BaseException:
        file.close()
        raise


async def _fill(file: IO[bytes], receive: Any, limit: int) -> Upload:
    size = 0
    digest = hashlib.sha256()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("malformed_request", "The body ended early.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise Problem("payload_too_large", f"The body may have {limit} bytes.")
        digest.update(chunk)
        file.write(chunk)
        if not message.get("more_body"):
            file.seek(0)
            return Upload(file, size, digest.digest())
