"""Ports for servers of tests."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Below the range of outgoing connections, so that nobody takes it while a server is down between kill and start."""
    while True:
        port = random.SystemRandom().randrange(20000, 30000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
