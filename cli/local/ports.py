"""TCP ports of the loopback interface: which are free, and who holds the others."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

import psutil

from cli.errors import Unable

_FIRST: Final = 20_000
_LAST: Final = 32_000
_PORT_PATIENCE_SECONDS: Final = 3.0


def free_block(ports: int) -> int:
    """The first of `ports` consecutive free ports, below the kernel's ephemeral range. Raises Unable when there is none.

    Each process begins at a place of its own: two that ask at the same time would else be given the same block.
    """
    blocks = range(_FIRST, _LAST - ports, ports)
    begin = os.getpid() % len(blocks)
    candidates: tuple[int, ...] = (*blocks[begin:], *blocks[:begin])
    for first in candidates:
        if all(is_free(port) for port in range(first, first + ports)):
            return first
    raise Unable(f"there are no {ports} consecutive free ports between {_FIRST} and {_LAST}", "stop what listens there")


def is_free(port: int) -> bool:
    """Whether nobody listens on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def check_ports(ports: Mapping[str, int], patience_seconds: float = _PORT_PATIENCE_SECONDS) -> None:
    """Raises Unable naming the first taken port, its purpose and who holds it. Waits a little: a fleet may be just going down."""
    deadline = time.monotonic() + patience_seconds
    while True:
        taken = next(((name, port) for name, port in ports.items() if not is_free(port)), None)
        if taken is None:
            return
        if time.monotonic() > deadline:
            raise Unable(f"port {taken[1]} ({taken[0]}) is taken{_by_whom(taken[1])}", "stop that, or choose others with --port-base")
        await asyncio.sleep(0.1)


def _by_whom(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
