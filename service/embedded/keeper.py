"""The parent process of an embedded PostgreSQL: it runs the server exactly as long as somebody uses it.

Run as a script by the module server, never imported; standard library only, so that it starts in a few milliseconds.
Every user of the server holds a shared lock on one file. The kernel takes a lock away however its holder ends,
`kill -9` included, so the exclusive lock is granted when the last user is gone: then the server is stopped. Being the
server's parent, the keeper can't signal anybody else's process by mistake; and should the keeper itself be killed, the
kernel tells the server (Linux).
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
WAKING = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}


def main(order: dict[str, Any]) -> int:
    """Start the server, wait for its end, for the last user's or for a signal, and leave nothing running."""
    # Inherited by the server and its backends: the lock is free exactly when no process can touch the data any more.
    server_lock = os.open(order["server_lock"], os.O_RDWR | os.O_NOFOLLOW)
    fcntl.flock(server_lock, fcntl.LOCK_EX)
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)
    keeper = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def before_exec() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        if libc is not None:  # after setuid, which would clear it
            libc.prctl(PR_SET_PDEATHSIG, FAST_SHUTDOWN)
            if os.getppid() != keeper:
                os._exit(1)

    server = subprocess.Popen(
        order["command"],
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=order["environment"],
        user=order["uid"],
        group=order["gid"],
        extra_groups=None if order["uid"] is None else [],
        umask=0o077,
        pass_fds=(server_lock,),
        preexec_fn=before_exec,  # noqa: PLW1509 - there is no other thread yet
    )
    users_gone = threading.Event()
    threading.Thread(target=wait_for_users, args=(order["users_lock"], users_gone), daemon=True).start()
    while server.poll() is None:
        if signal.sigwait(WAKING) != signal.SIGCHLD:
            stop(server)
    if users_gone.is_set():
        with contextlib.suppress(OSError):
            os.rmdir(order["socket_dir"])  # noqa: PTH106 - pathlib takes longer to import than all the rest
    return 1 if server.returncode else 0


def wait_for_users(path: str, gone: threading.Event) -> None:
    """Wake the main thread when nobody holds the users' lock; the lock is kept, so a newcomer waits for our end."""
    fcntl.flock(os.open(path, os.O_RDWR | os.O_NOFOLLOW), fcntl.LOCK_EX)
    gone.set()
    os.kill(os.getpid(), signal.SIGUSR1)


def stop(server: "subprocess.Popen[bytes]") -> None:
    """Stop the server gently, then less so."""
    for number, seconds in ((FAST_SHUTDOWN, 60), (IMMEDIATE_SHUTDOWN, 10), (signal.SIGKILL, None)):
        server.send_signal(number)
        try:
            server.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    # Not sys.exit: the thread may still wait for its lock.
    os._exit(main(json.loads(sys.argv[1])))
