"""Notes what a service says to PostgreSQL, and counts: a Unix socket in front of the server's, for one service.

For one request at a time, of which nothing is timed. The messages' formats are those of "Frontend/Backend Protocol" in
PostgreSQL's manual.
"""

import contextlib
import selectors
import socket
import struct
import threading
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

SOCKET = ".s.PGSQL.5432"


class Traffic(msgspec.Struct):
    """``round_trips`` counts how often the service waits for the server before it says more."""

    statements: int = 0
    round_trips: int = 0
    transactions: int = 0


class Sent(NamedTuple):
    """A statement that was run: its text with ``$1 …``, its parameters' type oids where they were told, its values.

    ``name`` is the one that it is prepared under, empty for one that is parsed each time.
    """

    name: str
    text: str
    types: tuple[int, ...]
    values: tuple[bytes | None, ...]


class _Link:
    """One connection, read as the protocol's messages: a type, a length, a body."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.server_spoke = True
        self.from_client = b""
        self.from_server = b""
        self.is_started = False
        self.prepared: dict[bytes, tuple[str, tuple[int, ...]]] = {}
        self.pipeline: list[Sent] = []


class Wire:
    """Passes everything on, and notes it, since `forget` was called."""

    def __init__(self, folder: Path, server_folder: Path) -> None:
        self.forget()
        self._server_path = str(server_folder / SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def forget(self) -> None:
        """Begin anew, as between two requests."""
        self.traffic = Traffic()
        self.pipelines: list[list[Sent]] = []
        """The statements between one Sync and the next: what goes out at once. A simple query goes out by itself."""
        self.prepared: list[str] = []
        """The names that statements were prepared under."""

    @property
    def sent(self) -> list[Sent]:
        return [sent for pipeline in self.pipelines for sent in pipeline]

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
            self._note(link, data)
            target = link.server
        else:
            link.server_spoke = True
            link.from_server = self._count(link.from_server + data)
            target = link.client
        with contextlib.suppress(OSError):
            target.sendall(data)

    def _note(self, link: _Link, data: bytes) -> None:
        """Keep what is prepared on this connection, and what is run with which values."""
        data = link.from_client + data
        while len(data) >= (start := int(link.is_started)) + 4:
            end = start + struct.unpack_from("!I", data, start)[0]
            if len(data) < end:
                break
            kind, body, data = data[:start], data[start + 4 : end], data[end:]
            link.is_started = True  # the first message has no type
            if kind == b"P":
                name, text, rest = body.split(b"\0", 2)
                count = struct.unpack_from("!H", rest)[0]
                link.prepared[name] = text.decode(), struct.unpack_from(f"!{count}I", rest, 2)
                if name:
                    self.prepared.append(name.decode())
            elif kind == b"B":
                _, name, rest = body.split(b"\0", 2)
                link.pipeline.append(Sent(name.decode(), *link.prepared[name], _values(rest)))
            elif kind == b"S":
                self.pipelines.append(link.pipeline)
                link.pipeline = []
            elif kind == b"Q":
                self.pipelines.append([Sent("", body.partition(b"\0")[0].decode(), (), ())])
        link.from_client = data

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


def _values(data: bytes) -> tuple[bytes | None, ...]:
    """The parameters of a Bind message, behind their formats."""
    at = 2 + 2 * struct.unpack_from("!H", data)[0]
    found: list[bytes | None] = []
    for _ in range(struct.unpack_from("!H", data, at)[0]):
        (length,) = struct.unpack_from("!i", data, at + 2)
        found.append(None if length < 0 else data[at + 6 : at + 6 + length])
        at += 4 + max(length, 0)
    return tuple(found)
