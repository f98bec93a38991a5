"""Ports for what a test starts."""

import contextlib
import secrets
import socket


def free_port() -> int:
    """A TCP port that nobody listens on now, below those that systems give to outgoing connections."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
