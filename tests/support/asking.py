"""A request as far as a handler looks at it, to call handlers without HTTP: ``await get_me.fn(asking(caller))``."""

from types import SimpleNamespace
from typing import Any


def asking(caller: Any, filters: Any = None, *, address: str = "::1", if_match: int | None = None, **state: Any) -> Any:
    """``filters`` is the struct of the query string; ``state`` holds what the application keeps, such as ``tokens``."""
    return SimpleNamespace(
        user=caller,
        id="test",
        address=address,
        if_match=if_match,
        sent={},
        filters=lambda _: filters,
        app=SimpleNamespace(state=SimpleNamespace(**state)),
    )
