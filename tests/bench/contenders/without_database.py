"""todochat without its database: `todochat serve` as it is, but that what the database answers is asked for once.

The first transaction of each sequence of statements is the database's. All others with the same statements, whosever
they are and whatever their values, get its rows again and make no round trip. So what is left is the work of server,
framework and service: the check of the token, the request's reading, the statements' values, the rows' way into an
answer, its headers, the log line and the metrics.
"""

from collections.abc import Callable, Sequence
from typing import Any

import service.app
from service.commands.main import main
from service.db.database import Database
from service.db.results import Result
from service.db.statements import Context, Step


class RememberedDatabase(Database):
    """A database of which every answer is remembered."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._answers: dict[tuple[bytes, ...], list[Result]] = {}

    async def transact(
        self,
        context: Context,
        steps: Sequence[Step],
        accept: Callable[[list[Result]], None] | None = None,
        **limits: float,
    ) -> list[Result]:
        """The results of the first transaction of these statements."""
        names = tuple(prepared.name for prepared, _ in steps)
        results = self._answers.get(names)
        if results is None:
            results = self._answers[names] = await super().transact(context, steps, accept, **limits)
            return results
        self._observe((*context.ahead, *steps), 0.0, "")
        if accept is not None:
            accept(results)
        return results


if __name__ == "__main__":
    service.app.Database = RememberedDatabase
    main(["serve"], prog_name="todochat")
