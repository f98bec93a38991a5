"""Handlers called without HTTP: ``await get_me.fn(asking(caller))``, and whatever else needs no more than a caller."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from service.db.caller import Caller
from service.db.database import Database
from service.settings import Secret, Settings


def asking(caller: Any, filters: Any = None, **state: Any) -> Any:
    """``filters`` is the struct of the query string; ``state`` holds what the application keeps, such as ``tokens``."""
    return SimpleNamespace(
        user=caller,
        id="test",
        address="::1",
        owner="::1",
        if_match=None,
        sent={},
        filters=lambda _: filters,
        app=SimpleNamespace(state=SimpleNamespace(**state)),
    )


def in_process(url: str, use: Callable[[Callable[[UUID], Caller]], Awaitable[Any]], *, prepared: bool = True) -> Any:
    """What ``use`` returns, which gets what makes a caller of a user's id; ``url`` is the service's login."""
    settings = Settings(database_url=Secret(url), database_pool_size=2, database_prepared_statements=prepared)

    async def main() -> Any:
        database = Database(settings, lambda *_: None)
        await database.open()
        try:
            return await use(lambda user_id: Caller(database, "test", user_id))
        finally:
            await database.close()

    return asyncio.run(main())
