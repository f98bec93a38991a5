"""Where the service's time goes: flame graphs by py-spy, and which layer's code ran, for each operation.

py-spy stops the process so many times a second and reads its stack, C's frames included, so that calls of the system
and of libpq are seen. What waits isn't counted. A sample belongs to the layer of its innermost frame that is one's:
the interpreter's own work and the C library's to whoever called for it.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.measure import BenchError
from tests.bench.operations import OPERATIONS, Operation
from tests.bench.services import Running

PER_SECOND = 200
LAYERS: dict[str, re.Pattern[str]] = {
    "system calls": re.compile(r"(__)?(send|sendto|writev?|recv|recvfrom|read|poll|epoll_\w+|syscall)(64)? \(lib"),
    "psycopg, libpq": re.compile(r".*\((psycopg|libpq|pq\.c)"),
    "msgspec": re.compile(r".*\(msgspec|.*\(_core\.c"),
    "Litestar": re.compile(r".*\(litestar/"),
    "uvicorn, httptools": re.compile(r".*\((uvicorn|httptools)/|.*\((llhttp|parser)\.c|llhttp"),
    "todochat": re.compile(r".*\(service/"),
    "uvloop, asyncio": re.compile(r".*\((loop\.c|asyncio/|uvloop/|_asynciomodule|linux\.c|core\.c|stream\.c)|uv_"),
}
"""How a frame of each begins, as py-spy writes it: ``function (file:line)``."""
_TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*')


def flame_name(operation: Operation) -> str:
    """The file of its flame graph."""
    return f"flame-{operation}.svg"


def profile(
    bench: Bench, one: Running, py_spy: Path, seconds: float, folder: Path
) -> dict[Operation, dict[str, float]]:
    """Each layer's share of the service's time. The flame graphs are put into the folder. Raises BenchError."""
    found: dict[Operation, dict[str, float]] = {}
    for operation in bench.order:
        stacks = bench.folder / f"{operation}.stacks"
        _record(bench, one, operation, [str(py_spy), "record", "--format=raw", f"--output={stacks}"], seconds)
        found[operation] = shares(stacks.read_text())
        flame = folder / flame_name(operation)
        _record(bench, one, operation, [str(py_spy), "record", "--function", f"--output={flame}"], seconds)
        title = f"todochat: {OPERATIONS[operation]}, {bench.plan.connections} connections"
        flame.write_text(_TITLE.sub(rf"\g<1>{title}", flame.read_text(), count=1))
    return found


def _record(bench: Bench, one: Running, operation: Operation, command: list[str], seconds: float) -> None:
    """Look at the service while it is under load."""
    options = ["--native", f"--pid={one.process.pid}", f"--rate={PER_SECOND}", f"--duration={max(1, round(seconds))}"]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
        bench.load(one, operation, bench.plan.connections, 0, seconds=seconds + 1)
        _, errors = spy.communicate()
    if spy.returncode:
        raise BenchError(f"py-spy, {OPERATIONS[operation]}: {errors.strip()[-500:]}")


def shares(stacks: str) -> dict[str, float]:
    """Each layer's share of the samples: of lines like ``outer (a.py:1);inner (b.py:2) 17``."""
    counted = Counter[str]()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        counted[_layer(frames.split(";"))] += int(count)
    return {layer: counted[layer] / counted.total() for layer in [*LAYERS, "other"]}


def _layer(frames: list[str]) -> str:
    for frame in reversed(frames):
        for layer, begins in LAYERS.items():
            if begins.match(frame):
                return layer
    return "other"
