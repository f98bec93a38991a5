"""A believable body for each struct that a client sends, put together from the examples of its fields' types."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

import msgspec


def example_of(kind: Any) -> Any:
    """Of a struct the required fields, and those optional ones whose type has an example; of a list one item."""
    if (own := next(_own_examples(kind), None)) is not None:
        return own
    if hasattr(kind, "__metadata__"):
        return example_of(kind.__origin__)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return {item.encode_name: example_of(item.type) for item in fields if item.required or _is_shown(item.type)}
    if get_origin(kind) is list:
        return [example_of(get_args(kind)[0])]
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if kind is UUID:
        return "018f4fd2-7a3c-7000-8000-5a1d2c3b4e5f"
    if get_args(kind):
        return example_of(get_args(kind)[0])
    return True if kind is bool else 1 if kind is int else "text"


def _own_examples(kind: Any) -> Iterator[Any]:
    """What the type's own metadata gives as examples."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta):
            yield from meta.examples or (meta.extra_json_schema or {}).get("examples", ())


def _is_shown(kind: Any) -> bool:
    """Whether an optional field belongs into an example: lists of objects, and texts with an example, but no times."""
    return any(
        (get_origin(part) is list and isinstance(get_args(part)[0], type))
        or (getattr(part, "__origin__", None) is not datetime and any(True for _ in _own_examples(part)))
        for part in (kind, *get_args(kind))
    )
