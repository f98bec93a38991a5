"""A TCP proxy on loopback in front of PostgreSQL's Unix socket that refuses, stalls, cuts, and counts."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.support.ports import free_port

T = TypeVar("T")

CHUNK = 1 << 18


class Proxy:
    """Every method may be called from any thread and returns when what it asks for is done.

    What clients send is counted once their connection is established: ``writes`` (a write and the answer to it, if the
    answer is awaited, is one round trip), ``syncs`` (pipelines), ``statements`` executed and ``prepares``.
    """

    def __init__(self, path: Path) -> None:
        self.port = 0
        self.connections = 0
        self.writes = 0
        self.syncs = 0
        self.statements = 0
        self.prepares = 0
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._flow = asyncio.Event()
        self._flow.set()
        self._lose_answer_to = b""

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, service_url: str) -> str:
        """The same login and database, through the proxy."""
        head, _, _ = service_url.partition("?")
        login, _, database = head.partition("@")
        return f"{login}@127.0.0.1:{self.port}{database[database.index('/') :]}?sslmode=disable&gssencmode=disable"

    def reset_counts(self) -> None:
        self.writes = self.syncs = self.statements = self.prepares = 0

    def accept(self) -> None:
        """Take connections, always at the same port."""

        async def accept() -> None:
            self.port = self.port or free_port()
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=200)

        self._run(accept)

    def refuse(self) -> None:
        """Refuse new connections and cut all there are."""

        async def refuse() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            await self._cut()

        self._run(refuse)

    def cut(self) -> None:
        """Cut all connections; new ones are taken."""
        self._run(self._cut)

    def break_off(self) -> None:
        """Give every client the beginning of an answer, and reset its connection."""

        async def break_off() -> None:
            for client in self._clients:
                client.write(b"T")
                reset_when_closed = struct.pack("ii", 1, 0)
                client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_when_closed)
            await self._cut()

        self._run(break_off)

    def stall(self) -> None:
        """Forward nothing more in either direction: connections are taken and stay open, and nobody answers."""

        async def stall() -> None:
            self._flow.clear()

        self._run(stall)

    def resume(self) -> None:
        async def resume() -> None:
            self._flow.set()

        self._run(resume)

    def lose_answer_to(self, text: bytes) -> None:
        """Once: when a client sends ``text``, forward it, await the answer, keep that back and cut the connection."""
        self._lose_answer_to = text

    def _run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(10)

    async def _cut(self) -> None:
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pumps.add(task)
        self._clients.add(writer)
        self.connections += 1
        other: asyncio.StreamWriter | None = None
        try:
            await self._flow.wait()
            answers, other = await asyncio.open_unix_connection(str(self._path))
            lost = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, other, _Counter(self), lost))
                group.create_task(self._pump(answers, writer, None, lost))
        except (OSError, asyncio.CancelledError, BaseExceptionGroup):
            pass
        finally:
            self._pumps.discard(task)
            self._clients.discard(writer)
            for open_writer in (writer, other):
                if open_writer is not None:
                    open_writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        counter: "_Counter | None",
        lost: asyncio.Event,
    ) -> None:
        while chunk := await reader.read(CHUNK):
            await self._flow.wait()
            if counter is not None:
                counter.feed(chunk)
                if self._lose_answer_to and self._lose_answer_to in chunk:
                    self._lose_answer_to = b""
                    lost.set()
            elif lost.is_set() and chunk.endswith(b"Z\0\0\0\5I"):
                raise ConnectionResetError  # the answer is complete, so the transaction is over
            if counter is not None or not lost.is_set():
                writer.write(chunk)
                await writer.drain()
        raise ConnectionResetError  # the other direction ends with this one


class _Counter:
    """Reads the frontend's messages (PostgreSQL manual, "Message Formats")."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._rest = b""
        self._started = False

    def feed(self, chunk: bytes) -> None:
        proxy = self._proxy
        if self._started:
            proxy.writes += 1
        data = self._rest + chunk
        position = 0
        while True:
            head = 5 if self._started else 4
            if len(data) - position < head:
                break
            length = int.from_bytes(data[position + head - 4 : position + head]) + head - 4
            if len(data) - position < length:
                break
            kind = data[position : position + 1] if self._started else b""
            proxy.syncs += kind == b"S"
            proxy.statements += kind == b"E"
            proxy.prepares += kind == b"P" and data[position + 5] != 0
            self._started = True
            position += length
        self._rest = data[position:]
