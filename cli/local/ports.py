"""Free TCP ports of the loopback interface."""

from __future__ import annotations

import socket
from typing import Final

from cli.errors import Unable

_FIRST: Final = 20_000
_LAST: Final = 32_000


def free_block(ports: int) -> int:
    """The first of `ports` consecutive free ports, below the kernel's ephemeral range. Raises Unable when there is none."""
    for first in range(_FIRST, _LAST - ports, ports):
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
