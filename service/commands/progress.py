"""How far a command is, on standard error: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_SECONDS = 10.0
"""Without a terminal a stage that takes long says so this often, and once when it is done."""


class Stage:
    """One stage of the work, as a context manager."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name, self._stream = name, stream or sys.stderr
        columns = (TextColumn(f"{name:24}"), BarColumn(16), TextColumn("{task.description}"), TimeElapsedColumn())
        self._console = Console(file=self._stream)
        self._bar = Progress(*columns, console=self._console, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bar.add_task("", total=None)
        self._started = self._said = time.monotonic()
        self.rows = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._said = 0
            self.update(1, 0)
        if self._console.is_terminal:
            self._bar.stop()

    def update(self, share: float | None, rows: int) -> None:
        """So many rows more; ``share`` of the stage is done, 0 to 1, or None when nobody knows."""
        self.rows += rows
        now = time.monotonic()
        counts = f"{'' if share is None else format(share, '.0%'):>4} {self.rows:>13,} rows"
        if self._console.is_terminal:
            self._bar.update(self._task, total=share and 1, completed=share or 0, description=counts)
        elif now - self._said >= PLAIN_SECONDS:
            self._said = now
            print(f"{self._name:24} {counts} {now - self._started:6.1f} s", file=self._stream, flush=True)
