"""Modules that are imported when they are first used: every process that runs tests collects all of them."""

import importlib
from typing import Any


class Lazily:
    """Stands for a module that takes a second or more to import."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):  # pytest asks every object of a test module whether it is a test
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
