"""How far it is: a bar on a terminal, a plain line for each stage elsewhere. Always on standard error."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

BAR = 16
REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 10.0
"""Without a terminal a stage that takes long says so this often."""


class Stage:
    """One stage of the work, as a context manager; `update` costs next to nothing when there is nothing to draw."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._pause = REDRAW_SECONDS if self._is_terminal else PLAIN_SECONDS
        self._started = self._drawn = time.monotonic()
        self.rows = 0

    def __enter__(self) -> Self:
        if self._is_terminal:
            self._draw(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._draw(1)
        if self._is_terminal:
            print(file=self._stream)

    def update(self, share: float | None, rows: int) -> None:
        """So many rows more; ``share`` of the stage is done, 0 to 1, or None when nobody knows."""
        self.rows += rows
        if time.monotonic() - self._drawn >= self._pause:
            self._draw(share)

    def _draw(self, share: float | None) -> None:
        self._drawn = time.monotonic()
        seconds = self._drawn - self._started
        percent = "    " if share is None else f"{share:4.0%}"
        text = f"{percent} {self.rows:>13,} rows {seconds:6.1f} s"
        if self._is_terminal:
            full = round((share or 0) * BAR)
            print(f"\r{self._name:24} [{'#' * full}{'.' * (BAR - full)}] {text}", end="", file=self._stream, flush=True)
        else:
            print(f"{self._name:24} {text}", file=self._stream, flush=True)
