"""The load: a process of its own that sends prepared requests over some connections and times every answer.

Started by `measure` with one argument, the order as JSON (see Order). It prints a line when the warm-up is over, one
when the time is up, and the result (see Outcome) when the last answer has come. It imports little and does little for
each request (about 15 µs of one core), so that it takes as little as it can from what is measured.

Without a rate, each connection sends its next request when it has the answer to the one before. With a rate, requests
come at even intervals whether or not answers do, and a request's time counts from when it was due: a service that
stalls is charged with everything that had to wait (no coordinated omission).
"""

import array
import collections
import gc
import os
import select
import socket
import sys
import time
from pathlib import Path

import msgspec

CHUNK = 1 << 18
GIVE_UP_SECONDS = 15.0
"""How long no answer may come at all."""
ADDRESS_CONNECTIONS = 1500
"""How many connections come from one address: the service takes 1,600 of them, and 2,000 in all."""


class Order(msgspec.Struct):
    """What to do. ``requests`` names a file of msgpack, a list of whole HTTP requests."""

    requests: str
    ports: list[int]
    connections: int
    seconds: float
    warmup: float
    status: int
    """Of the answers that are wanted; 0: any of 2xx, where the requests are of several kinds."""
    rate: float = 0
    refusals: bool = False
    """Whether a 503 with Retry-After is an answer too, counted and timed by itself; otherwise it ends the run."""
    cpu: int | None = None


class Outcome(msgspec.Struct):
    """What happened in the timed part. Times are milliseconds; ``error`` is why it ended early."""

    answers: int = 0
    refused: int = 0
    refused_p50: float = 0
    """From when a refused request was sent, not from when it was due: before that it waits in the load itself."""
    sent: int = 0
    """All requests of the run that were answered as wanted, the warm-up's included."""
    seconds: float = 0
    mean: float = 0
    p50: float = 0
    p99: float = 0
    longest: float = 0
    load_cpu: float = 0
    """The share of one core that this process took."""
    error: str = ""


class LoadError(Exception):
    """An answer was wrong, or none came."""


class _Connection:
    __slots__ = ("buffer", "due", "sent", "socket")

    def __init__(self, port: int, address: int) -> None:
        # The first address isn't bound: a bound port can't be had again for a minute after its connection.
        source = (f"127.0.0.{address}", 0) if address > 1 else None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=source)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = b""
        self.due = 0.0
        self.sent = 0.0


def is_whole(data: bytes) -> bool:
    """Whether this is a whole answer: one request is under way on a connection, so that nothing comes behind it."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        return len(data) - end - 4 >= int(head[at + 17 :].split(b"\r\n", 1)[0])
    if b"\r\ntransfer-encoding: chunked" in head:
        return data.endswith(b"0\r\n\r\n")
    if head.startswith(b"http/1.1 204 "):
        return True
    raise LoadError(f"an answer of unknown length: {data[:300]!r}")


class Load:
    """The load of one order, between its connections and its result."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.requests = msgspec.msgpack.decode(Path(order.requests).read_bytes(), type=list[bytes])
        self.number = 0
        self.sent = 0
        self.refusals = array.array("d")
        self.times = array.array("d")
        self.is_timed = False
        ports = order.ports
        self.connections = [
            _Connection(ports[number % len(ports)], 1 + number // ADDRESS_CONNECTIONS)
            for number in range(order.connections)
        ]
        self.by_file = {connection.socket.fileno(): connection for connection in self.connections}
        self.epoll = select.epoll()
        for file in self.by_file:
            self.epoll.register(file, select.EPOLLIN)
        self.wanted = b" %d " % order.status if order.status else b" 2"

    def run(self) -> Outcome:
        """Warm up, go on for the seconds ordered, and wait for what is under way. Raises LoadError and OSError."""
        order = self.order
        work = self._work_by_rate if order.rate else self._work
        work(order.warmup)
        print("timed", flush=True)
        self.is_timed = True
        began, cpu = time.perf_counter(), time.process_time()
        work(order.seconds)
        seconds = time.perf_counter() - began
        self.is_timed = False
        print("ended", flush=True)
        self._drain()
        if not self.times:
            raise LoadError("not one request was answered as wanted")
        ordered = sorted(self.times)
        return Outcome(
            answers=len(ordered),
            refused=len(self.refusals),
            refused_p50=sorted(self.refusals)[len(self.refusals) // 2] * 1000 if self.refusals else 0,
            sent=self.sent,
            seconds=seconds,
            mean=sum(ordered) / len(ordered) * 1000,
            p50=ordered[len(ordered) // 2] * 1000,
            p99=ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000,
            longest=ordered[-1] * 1000,
            load_cpu=(time.process_time() - cpu) / seconds,
        )

    def _work(self, seconds: float) -> None:
        """Each connection sends as soon as it has its answer."""
        clock = time.perf_counter
        now = last = clock()
        until = now + seconds
        for connection in self.connections:
            if not connection.due:
                self._send(connection, now)
        while now < until or self._has_none():
            for file, _ in self.epoll.poll(0.1):
                connection = self.by_file[file]
                if self._receive(connection):
                    last = clock()
                    self._send(connection, last)
            now = clock()
            _give_up_after(now - last)

    def _work_by_rate(self, seconds: float) -> None:
        """Requests go out when they are due, or as soon as a connection is free after that."""
        clock = time.perf_counter
        interval = 1 / self.order.rate
        idle = collections.deque(connection for connection in self.connections if not connection.due)
        now = due = last = clock()
        until = now + seconds
        while now < until or self._has_none():
            while due <= now and idle:
                self._send(idle.popleft(), due)
                due += interval
            for file, _ in self.epoll.poll(max(0.0, min(due - now, 0.1)) if idle else 0.1):
                connection = self.by_file[file]
                if self._receive(connection):
                    last = clock()
                    connection.due = 0.0
                    idle.append(connection)
            now = clock()
            _give_up_after(now - max(last, due - interval))

    def _has_none(self) -> bool:
        """Whether the time is up without an answer: a short run on a busy machine goes on until there is one."""
        return self.is_timed and not self.times and not self.refusals

    def _drain(self) -> None:
        """Wait for the answers that are still to come: nothing is cut off, and every write is known."""
        waiting = sum(connection.due > 0 for connection in self.connections)
        last = time.perf_counter()
        while waiting:
            for file, _ in self.epoll.poll(0.1):
                if self._receive(self.by_file[file]):
                    waiting -= 1
                    last = time.perf_counter()
            _give_up_after(time.perf_counter() - last)

    def _send(self, connection: _Connection, due: float) -> None:
        connection.due = due
        connection.sent = time.perf_counter()
        request = self.requests[self.number % len(self.requests)]
        self.number += 1
        if connection.socket.send(request) != len(request):
            raise LoadError("the service does not read what it is sent")

    def _receive(self, connection: _Connection) -> bool:
        """Read what has come; whether the answer is whole. One that isn't wanted raises LoadError."""
        data = connection.socket.recv(CHUNK)
        if not data:
            raise LoadError("the service closed a connection")
        if connection.buffer:
            data = connection.buffer + data
        if not is_whole(data):
            connection.buffer = data
            return False
        connection.buffer = b""
        if data.find(self.wanted, 8, 14) >= 0:
            self.sent += 1
            if self.is_timed:
                self.times.append(time.perf_counter() - connection.due)
        elif self.order.refusals and data.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: " in data.lower():
            if self.is_timed:
                self.refusals.append(time.perf_counter() - connection.sent)
        else:
            text = data[:800].decode(errors="replace")
            raise LoadError(f"the answer was not {self.order.status} but {text}")
        return True


def _give_up_after(seconds: float) -> None:
    if seconds > GIVE_UP_SECONDS:
        raise LoadError(f"no answer came for {GIVE_UP_SECONDS:.0f} s")


def run(order: Order) -> Outcome:
    """Do what is ordered; an error is part of the outcome."""
    gc.disable()
    try:
        return Load(order).run()
    except (LoadError, OSError) as error:
        return Outcome(error=str(error) or repr(error))


def main() -> None:
    """Read the order, do it, and print the outcome."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    if order.cpu is not None:
        os.sched_setaffinity(0, {order.cpu})
    print(msgspec.json.encode(run(order)).decode(), flush=True)


if __name__ == "__main__":
    main()
