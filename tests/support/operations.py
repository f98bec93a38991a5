"""What operators are told: its commands, units and settings are run by tests as they stand there."""

import re

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "service" / "commands" / "operations.md").read_text(encoding="utf-8")


def section(title: str, page: str = PAGE) -> str:
    """The text below this heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]
