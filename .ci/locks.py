"""Writes the lock files from pyproject.toml (`write`, needs the network), or says whether they are fresh (`check`)."""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

LOCKS = {
    "requirements.lock": ["--extra=embedded", "--group=build"],
    "tests/requirements.lock": ["--extra=telemetry", "--group=test", "--group=lint", "--constraint=requirements.lock"],
}
OPTIONS = """
    --python-version=3.11 --universal --generate-hashes --no-emit-index-url --no-header --no-annotate
    --system-certs --quiet
"""


def digest(text: str) -> str:
    """Short enough for a line, long enough to differ."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def first_line(body: str) -> str:
    """What a lock file begins with: what it was made from, and what it is."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    tables = project["project"]
    wanted = [
        tables["dependencies"],
        tables["optional-dependencies"],
        project["dependency-groups"],
        tables["requires-python"],
    ]
    made_from = digest(json.dumps(wanted, sort_keys=True))
    return f"# `make lock` made this from dependencies {made_from}, content {digest(body)}"


def write(arguments: list[str]) -> None:
    """Resolve and write both files; ``arguments`` are for uv."""
    for name, sources in LOCKS.items():
        command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS.split(), *sources, *arguments]
        command += ["pyproject.toml", f"--output-file={name}"]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"todochat: uv could not resolve {name}: the lines above say why")
        body = "".join(line for line in Path(name).read_text().splitlines(keepends=True) if not line.startswith("#"))
        Path(name).write_text(f"{first_line(body)}\n{body}")


def check() -> None:
    """End with an error unless both files are what `write` made of the present pyproject.toml."""
    for name in LOCKS:
        line, _, body = Path(name).read_text(encoding="utf-8").partition("\n")
        if line != first_line(body):
            sys.exit(f"todochat: {name} is not what pyproject.toml asks for: run `make lock`")
    print("The lock files are fresh.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(sys.argv[2:])
    elif sys.argv[1:] == ["check"]:
        check()
    else:
        sys.exit(__doc__)
