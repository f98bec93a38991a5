"""The service as a process that writes down how long its event loop stands still: ``python -m tests.support.watched``.

A file gets a line for each time that was longer than some milliseconds: how many. What counts is the processor's time
of the whole process, or the clock's where that is less: on a busy machine a process stands still and does nothing.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.main import main
from service.serving import server

if TYPE_CHECKING:
    from tests.conftest import Server

MODULE = "tests.support.watched"
INTERVAL = 0.001
"""Seconds between two looks."""
WORTH = 0.005
"""Seconds; less is not written down."""


class Watched:
    """A running service that is watched; ``start`` starts a server."""

    def __init__(self, start: "Callable[..., Server]", folder: Path) -> None:
        self._file = folder / "stalls"
        self._file.touch()
        self.server = start(module=MODULE, WATCH_FILE=str(self._file))

    def stalls(self, work: Callable[[], object]) -> list[float]:
        """How long the event loop stood still during the work, in seconds, each time that it did."""
        seen = len(self._file.read_text())
        work()
        time.sleep(0.05)
        return [float(line) / 1000 for line in self._file.read_text()[seen:].split()]


async def _watch(path: Path) -> None:
    loop = asyncio.get_running_loop()
    with path.open("a", buffering=1) as file:
        while True:
            clock, cpu = loop.time(), time.process_time()
            await asyncio.sleep(INTERVAL)
            stood = min(loop.time() - clock, time.process_time() - cpu) - INTERVAL
            if stood > WORTH:
                file.write(f"{stood * 1000:.1f}\n")


class _WatchedServer(server.Server):
    """Its start-up is not watched."""

    async def main_loop(self) -> None:
        watching = asyncio.create_task(_watch(Path(os.environ["WATCH_FILE"])))
        await super().main_loop()
        watching.cancel()


if __name__ == "__main__":
    server.Server = _WatchedServer
    main()
