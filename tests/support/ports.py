"""Ports for what a test starts."""

import contextlib
import secrets
import socket

_kept: list[socket.socket] = []
"""UDP's sockets at the ports that were given, which nothing else here uses: they keep other processes of tests away."""


def free_port() -> int:
    """A TCP port that nobody listens on now, below those that systems give to outgoing connections.

    It is this process's until it ends. A port that two of them had, each ahead of listening, was taken by one service,
    and the other's tests ran on that one until it stopped.
    """
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with contextlib.ExitStack() as until_taken, contextlib.suppress(OSError):
            keeper = until_taken.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            keeper.bind(("127.0.0.1", port))
            with socket.socket() as found:
                found.bind(("127.0.0.1", port))
            _kept.append(keeper)
            until_taken.pop_all()
            return port
