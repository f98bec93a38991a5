"""The parent process of an embedded PostgreSQL: it runs the server exactly as long as somebody uses it.

Run by the module `server` as a script in the data folder, never imported; standard library only, so that it starts in a
few milliseconds. Every user of the server holds a shared lock on one file. The kernel takes a lock away however its
holder ends, `kill -9` included, so the exclusive lock is granted when the last user is gone: then the server is
stopped. Being the server's parent, the keeper can't signal anybody else's process by mistake; and should the keeper
itself be killed, the kernel tells the server (Linux).
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

PR_SET_PDEATHSIG = 1
FAST_SHUTDOWN = signal.SIGINT  # PostgreSQL's "fast": abort transactions, write a checkpoint, leave
IMMEDIATE_SHUTDOWN = signal.SIGQUIT  # leave at once; the next start recovers


def main(order: dict[str, Any]) -> None:
    """Make the cluster if there is none, run the server until its last user is gone, and leave nothing running."""
    if os.fork():
        return  # the keeper is nobody's child: whoever started it neither waits for its end nor takes it along
    os.setsid()  # Ctrl-C is for the service: it drains, then the server goes
    if order["initdb"]:
        if start(order["initdb"], order, stdout=subprocess.DEVNULL).wait():
            return
        os.rename("cluster.new", "cluster")  # noqa: PTH104 - pathlib takes longer to import than all the rest
    server = start(order["postgres"], order)
    threading.Thread(target=stop_after_last_user, args=(server,), daemon=True).start()
    server.wait()
    with contextlib.suppress(OSError):
        os.rmdir(order["socket_dir"])  # noqa: PTH106 - as above


def start(command: list[str], order: dict[str, Any], stdout: int | None = None) -> "subprocess.Popen[bytes]":
    """Start one of PostgreSQL's programs, which holds the server's lock as long as it or a child of it lives."""
    keeper = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def before_exec() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, FAST_SHUTDOWN)
            if os.getppid() != keeper:
                os._exit(1)

    return subprocess.Popen(
        command,
        stdout=stdout,
        env=order["environment"],
        umask=0o077,
        pass_fds=(order["server_lock"],),
        preexec_fn=before_exec,  # noqa: PLW1509 - there is no other thread yet
    )


def stop_after_last_user(server: "subprocess.Popen[bytes]") -> None:
    """Wait until nobody holds the users' lock, then stop the server gently, then less so.

    The lock is kept until the keeper has ended, so that whoever wants to use the server then waits for that.
    """
    fcntl.flock(os.open("users.lock", os.O_RDWR), fcntl.LOCK_EX)
    for number, seconds in ((FAST_SHUTDOWN, 60), (IMMEDIATE_SHUTDOWN, 10), (signal.SIGKILL, None)):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(seconds)
            return


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
