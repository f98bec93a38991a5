"""Counts what a service and PostgreSQL say to each other: a Unix socket in front of the server's, for one service.

Used in a pass of its own, with one request at a time: nothing goes through it while something is timed.
"""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

SOCKET = ".s.PGSQL.5432"


class Traffic(msgspec.Struct):
    """``round_trips`` counts how often the service waits for the server before it says more."""

    statements: int = 0
    round_trips: int = 0
    transactions: int = 0


class _Link:
    """One connection, read as the protocol's messages: a type, a length, a body."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.server_spoke = True
        self.from_server = b""


class CountingProxy:
    """Passes everything on, and counts. ``traffic`` may be replaced between requests."""

    def __init__(self, folder: Path, server_folder: Path) -> None:
        self.traffic = Traffic()
        self._server_path = str(server_folder / SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        self._selector.close()

    def _work(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(0.05):
                if key.data is None:
                    self._accept()
                else:
                    self._pass(key.fileobj, key.data)  # pyright: ignore[reportArgumentType]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server_path)
        link = _Link(client, server)
        self._selector.register(client, selectors.EVENT_READ, link)
        self._selector.register(server, selectors.EVENT_READ, link)

    def _pass(self, source: socket.socket, link: _Link) -> None:
        if source.fileno() < 0:  # its other side ended in the same moment
            return
        try:
            data = source.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            for side in (link.client, link.server):
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(side)
                side.close()
            return
        if source is link.client:
            if link.server_spoke:
                self.traffic.round_trips += 1
                link.server_spoke = False
            target = link.server
        else:
            link.server_spoke = True
            link.from_server = self._count(link.from_server + data)
            target = link.client
        with contextlib.suppress(OSError):
            target.sendall(data)

    def _count(self, data: bytes) -> bytes:
        """Count the statements that were completed; what is left is the beginning of a message."""
        while len(data) >= 5:
            (length,) = struct.unpack_from("!i", data, 1)
            if len(data) < length + 1:
                break
            if data[:1] in b"CI":
                self.traffic.statements += 1
                self.traffic.transactions += data[5:11] == b"COMMIT"
            data = data[length + 1 :]
        return data


@contextlib.contextmanager
def counting(folder: Path, server_folder: Path) -> Iterator[CountingProxy]:
    """A proxy whose socket is in ``folder``, in front of the server's in ``server_folder``."""
    with CountingProxy(folder, server_folder) as proxy:
        yield proxy
