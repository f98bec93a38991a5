"""What metrics and traces are told of the database."""

import time
from collections.abc import Callable, Sequence

from service.db.statements import Step
from service.problems import Problem

Observe = Callable[[Sequence[Step], float, str], None]
"""Is told of each round trip: its steps, its seconds, and the code or type of its error, or ""."""


class Observed:
    """Tells ``observe`` of the steps, when they have run or failed."""

    __slots__ = ("_observe", "_started", "_steps")

    def __init__(self, observe: Observe, steps: Sequence[Step]) -> None:
        self._observe = observe
        self._steps = steps
        self._started = time.perf_counter()

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        failed = "" if error is None else error.code if isinstance(error, Problem) else type(error).__name__
        self._observe(self._steps, time.perf_counter() - self._started, failed)
