"""The README says what is: its walk-through runs as it stands there, and its tables are those of the code."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.problems import CODES
from service.settings import describe_settings
from tests.conftest import REPOSITORY, Server, User
from tests.support.operations import PAGE, section
from tests.support.routes import ROUTES

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def walkthroughs() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_there_is_a_walk_through() -> None:
    assert walkthroughs()


@pytest.mark.parametrize("script", walkthroughs())
def test_the_walk_through_runs_as_it_stands_there(server: Server, script: str) -> None:
    """Every command succeeds, and every line that ends in a comment with a status prints just that status."""
    expected = re.findall(r"  # (\d{3})$", script, re.MULTILINE)
    ran = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert re.findall(r"(?:^|\})(\d{3})$", ran.stdout, re.MULTILINE) == expected, ran.stdout


@pytest.mark.parametrize(
    "script",
    re.findall(r"^```python\n(.*?)^```$", section("Three ways in for agents", README), re.DOTALL | re.MULTILINE),
)
def test_each_way_in_runs_as_it_stands_there(server: Server, new_user: Callable[..., User], script: str) -> None:
    assert len([line for line in script.splitlines() if line]) <= 11
    key = new_user().client.post("/v1/keys", json={"name": "Agent", "scope": "write"}).json()["key"]
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "URL": server.url, "KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout


def test_it_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize(("page", "folder"), [(README, REPOSITORY), (PAGE, REPOSITORY / "service" / "commands")])
def test_every_local_link_leads_somewhere(page: str, folder: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page):
        if "://" not in target:
            assert (folder / target).exists(), target


def rows(title: str) -> list[list[str]]:
    """The cells of the section's table, row by row and without its head."""
    lines = re.findall(r"^\| (.+) \|$", section(title, README), re.MULTILINE)
    return [line.split(" | ") for line in lines[2:]]


def test_the_settings_table_says_each_setting_but_an_issuers_with_its_default_and_meaning() -> None:
    told = [tuple(cell.replace("`", "") for cell in row) for row in rows("Settings")]
    assert told == [setting for setting in describe_settings() if not setting[0].startswith("ISSUER")]


def test_users_from_outside_tells_each_setting_of_an_issuer_and_no_other() -> None:
    told = {
        name for name in re.findall(r"\bISSUER\w*", section("Users from outside", README)) if not re.search(r"\d", name)
    }
    assert told == {name for name, _, _ in describe_settings() if name.startswith("ISSUER")}


def test_the_routes_table_is_what_the_application_serves() -> None:
    told: list[tuple[str, str]] = []
    for cell, _ in rows("Routes and errors"):
        for methods, path in re.findall(r"((?:`[A-Z]+` )+)`(/[^`]*)`", cell):
            told += [(method, path) for method in re.findall(r"\w+", methods)]
    assert sorted(told) == sorted([*((route.method, route.path) for route in ROUTES), ("GET", "/metrics")])


def test_the_error_table_is_the_table_of_the_code() -> None:
    """A row holds one status and all its codes, or several and one code each."""
    told: list[tuple[str, int]] = []
    for statuses, codes in rows("Routes and errors"):
        if statuses[0].isdigit():
            numbers = [int(status) for status in statuses.split(", ")]
            names = re.findall(r"`(\w+)`", codes)
            told += zip(names, numbers * len(names) if len(numbers) == 1 else numbers, strict=True)
    assert sorted(told) == sorted((code, known.status) for code, known in CODES.items())


def test_the_slice_is_shown_as_it_stands_in_its_files() -> None:
    sources = {"python": "service/conversations.py", "sql": "sql/queries/conversations.sql"}
    shown = dict(re.findall(r"^```(\w+)\n(.*?)^```$", section("How a slice reads", README), re.DOTALL | re.MULTILINE))
    assert shown.keys() == sources.keys()
    for language, text in shown.items():
        assert text in (REPOSITORY / sources[language]).read_text(encoding="utf-8")
