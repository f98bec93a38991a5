"""The README says what is: its walk-through runs as it stands there, and its tables are those of the code."""

import os
import re
import subprocess

import msgspec
import pytest

from service.problems import CODES
from service.settings import IssuerSettings, Settings
from tests.conftest import REPOSITORY, Server

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text of the section with this heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


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


def test_every_local_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (REPOSITORY / target).exists(), target


def test_the_settings_table_names_every_setting_with_its_default() -> None:
    table = section("In production")
    for field in msgspec.structs.fields(Settings):
        if field.name == "issuers":
            continue
        row = re.search(rf"^\| .*`{field.encode_name.upper()}`.*\|$", table, re.MULTILINE)
        assert row, field.encode_name
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"{field.default:g}" in row[0].replace("2592000", f"{2592000:g}"), row[0]


def test_the_issuers_table_names_every_setting_of_an_issuer() -> None:
    table = section("Users from outside")
    for field in IssuerSettings.__struct_fields__:
        variable = "ISSUER" if field == "name" else f"ISSUER_{field.upper()}"
        assert re.search(rf"^\| .*`{variable}`.*\|$", table, re.MULTILINE), variable


def test_the_error_table_is_the_table_of_the_code() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.+) \|$", section("Errors"), re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert told == {code: known.status for code, known in CODES.items()}
