"""Requests in numbers: many at once, or a steady stream of them in the background."""

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Answer:
    """``at`` is when it came, ``seconds`` how long it took; ``code`` is that of a problem."""

    status: int
    code: str | None
    retry_after: str | None
    body: Any
    seconds: float
    at: float


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request; without a token, it is nobody's."""

    method: str
    path: str
    token: str | None = None
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    def encode(self) -> bytes:
        body = b"" if self.body is None else json.dumps(self.body).encode()
        headers = {"Host": "test", "Content-Length": str(len(body)), **self.headers}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body:
            headers["Content-Type"] = "application/json"
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Client:
    """One connection. Much leaner than httpx, whose own work would hide how long the service takes."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://").split(":")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, ask: Ask) -> Answer:
        started = time.monotonic()
        async with asyncio.timeout(20):
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._address[0], int(self._address[1]))
            reader, writer = self._streams
            writer.write(ask.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            content = await reader.readexactly(int(headers.get("content-length", "0")))
        now = time.monotonic()
        if headers.get("connection") == "close":
            await self.close()
        body = json.loads(content) if content else None
        code = body.get("code") if isinstance(body, dict) else None
        return Answer(int(lines[0].split()[1]), code, headers.get("retry-after"), body, now - started, now)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None


def at_once(url: str, asks: Sequence[Ask], *, clients: int | None = None) -> list[Answer]:
    """The answers, in the requests' order. All are sent at once, or by so many clients one after another."""
    answers: list[Answer | None] = [None] * len(asks)
    remaining = iter(enumerate(asks))

    async def work() -> None:
        client = _Client(url)
        try:
            for place, ask in remaining:
                answers[place] = await client.send(ask)
        finally:
            await client.close()

    async def run() -> None:
        await asyncio.gather(*(work() for _ in range(clients or len(asks))))

    asyncio.run(run())
    return [answer for answer in answers if answer is not None]


def in_parallel(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What the calls return; each has a thread of its own (and, with httpx, a connection), and all start at once."""
    barrier = threading.Barrier(count)

    def start(number: int) -> Any:
        barrier.wait(20)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


class Stream:
    """Clients in the background, each sending its request again and again with a pause between, until the end."""

    def __init__(self, url: str, asks: Sequence[Ask], pause: float) -> None:
        self.answers: list[tuple[Ask, Answer]] = []
        self.error: BaseException | None = None
        self._url = url
        self._asks = asks
        self._pause = pause
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for _, answer in list(self.answers))

    def _run(self) -> None:
        try:
            asyncio.run(self._stream())
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
            self.error = error

    async def _stream(self) -> None:
        await asyncio.gather(*(self._repeat(ask) for ask in self._asks))

    async def _repeat(self, ask: Ask) -> None:
        client = _Client(self._url)
        try:
            while not self._end.is_set():
                self.answers.append((ask, await client.send(ask)))
                await asyncio.sleep(self._pause)
        finally:
            await client.close()


@contextlib.contextmanager
def lateness() -> Generator[Callable[[], float]]:
    """Meanwhile, measure how busy the machine is with other things; call what is given for the seconds to allow for it.

    They are how late a sleeping thread was woken at worst, for each of those who have to do with an answer: the client,
    the service and the database. On an idle machine they are a few milliseconds.
    """
    worst, pause, end = 0.0, 0.02, threading.Event()

    def measure() -> None:
        nonlocal worst
        while not end.is_set():
            slept = time.monotonic()
            time.sleep(pause)
            worst = max(worst, time.monotonic() - slept - pause)

    thread = threading.Thread(target=measure, name="lateness")
    thread.start()
    try:
        yield lambda: 3 * worst
    finally:
        end.set()
        thread.join()


def wait_for(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """Ask until the answer is true, for at most so long; the answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.01)
    return answer
