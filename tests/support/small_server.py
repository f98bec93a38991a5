"""tests/small_app.py as a process: how to start it, talk to it, and read its log."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.forked import Forked

LARGE = 11 * 1024 * 1024
"""Bytes of the body of `/large`, which is sent in one piece."""

REPOSITORY = Path(__file__).parents[2]


class SmallServer:
    """The process, once it serves."""

    def __init__(self, log_path: Path, process: Forked) -> None:
        self.log_path = log_path
        self.process = process
        self.port = int(self.wait_for("serving")["url"].rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """What it logged up to now."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for_line(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            for line in self.lines():
                if wanted(line):
                    return line
            assert time.monotonic() < deadline, f"no such line in {self.log_path.read_text()}"
            time.sleep(0.005)

    def wait_for(self, event: str) -> dict[str, Any]:
        return self.wait_for_line(lambda line: line["event"] == event)

    def line_of(self, request_id: str) -> dict[str, Any]:
        """The line of the request with that id."""
        return self.wait_for_line(lambda line: line["event"] == "request" and line["request_id"] == request_id)

    def connect(self, address: str = "127.0.0.1") -> socket.socket:
        """A connection from that address of this machine."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(address, 0))


def command(**options: object) -> list[str]:
    given = {"settings": {}, "limits": {}, "edge": {}, **options}
    return [sys.executable, str(REPOSITORY / "tests" / "support" / "small_app.py"), json.dumps(given)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@contextlib.contextmanager
def running(log_path: Path, **options: object) -> Iterator[SmallServer]:
    arguments = command(**options)[1:]
    process = Forked(arguments, cwd=REPOSITORY, env=environment(), log_path=log_path)
    try:
        yield SmallServer(log_path, process)
    finally:
        process.kill()
        process.wait()


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    pieces: list[bytes] = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)
