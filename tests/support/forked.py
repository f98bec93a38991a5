"""Programs that begin with the service imported: multiprocessing's fork server makes a process of their own for each.

Imports are half of the processor's time that a service takes to start, and a session of tests starts some 170.
"""

import gc
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
# The plugins are what Litestar imports when it makes an application; one of them imports pydantic.
_imported = [
    "service.app",
    "service.commands.serve",
    "uvloop",
    "litestar.plugins.attrs",
    "litestar.plugins.pydantic",
    __name__,
]
_context.set_forkserver_preload(_imported)


class Forked:
    """A program that runs, and prints into a file, with what the tests use of a `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], log_path: Path) -> None:
        """``arguments`` begin with the program: the name of a module, or the path of a file."""
        log_path.touch()  # who starts it may read before it writes
        self._process = _context.Process(target=_run, args=([*arguments], str(cwd), {**env}, str(log_path)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended. Raises TimeoutExpired after so many seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _run(arguments: Sequence[str], cwd: str, env: Mapping[str, str], log_path: str) -> None:
    gc.freeze()  # so that no search for garbage touches, and so copies, what all of them share
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.close(log)
    sys.argv = [*arguments]
    program = arguments[0]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        logging.shutdown()  # which a program of its own does at its end
