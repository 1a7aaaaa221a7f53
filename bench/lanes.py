"""The lean client of the generator: raw connections over HTTP/1.1. `bench.lanes_grpc` has those of gRPC.

A lane is one connection that carries one request at a time, without a task, a future or a parser of its own: what the generator spends
on a request is not left for the cell beside it.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec

from bench.outcomes import ACKNOWLEDGED, NO_ANSWER

# A request of a hundred events leaves in one call, since the socket takes all of it.
_SEND_BUFFER_BYTES: Final = 512 * 1024
_ENDED: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "

Told = Callable[["Lane", str], None]


class Lane(asyncio.Protocol, ABC):
    """One connection. `told` hears what became of each request: ACKNOWLEDGED, NO_ANSWER or the code of its refusal.

    `transport` is None when the connection takes no further request; `request` is the number of the one that is under way since
    `begun`, a moment of the monotonic clock. Both are the caller's to set.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self.transport: asyncio.WriteTransport | None = None
        self.request: int | None = None
        self.begun = 0.0

    @abstractmethod
    def send(self, tenant: int, path: bytes, body: bytes) -> None:
        """Sends one request for the tenant of an index; `path` is for HTTP."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by inheritance
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self.transport = None
        self.tell(NO_ANSWER)

    def tell(self, verdict: str) -> None:
        """Ends the request that is under way, if there is one; the lane may be given the next one meanwhile."""
        if self.request is not None:
            self._told(self, verdict)

    def close(self) -> None:
        """At once, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def retire(self) -> None:
        """The answer that is told next is the last one here."""
        self.close()
        self.transport = None


class HttpLane(Lane):
    """HTTP/1.1, kept alive, not pipelined. Envoy always states the length of an answer."""

    def __init__(self, told: Told, heads: Sequence[bytes]) -> None:
        super().__init__(told)
        self._heads = heads
        self._data = b""

    def send(self, tenant: int, path: bytes, body: bytes) -> None:
        """See Lane."""
        assert self.transport is not None
        self.transport.writelines((b"POST %b%b%d\r\n\r\n" % (path, self._heads[tenant], len(body)), body))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._data = data = self._data + data if self._data else data
        head = data.find(_ENDED)
        if head < 0:
            return
        at = data.find(_LENGTH, 0, head)
        length = int(data[at + len(_LENGTH) : data.find(b"\r", at)]) if at >= 0 else 0
        if len(data) < head + len(_ENDED) + length:
            return
        self._data = b""
        if data.find(b"connection: close", 0, head) >= 0:
            self.retire()
        self.tell(verdict_of(int(data[9:12]), data[head + len(_ENDED) :]))


def verdict_of(status: int, body: bytes) -> str:
    """What an answer says: ACKNOWLEDGED, or the code of the refusal of the request, or of its first event."""
    if status == 200 and b'"rejected"' not in body:
        return ACKNOWLEDGED
    try:
        said = msgspec.json.decode(body)
        return str(said["rejected"][0]["code"] if status == 200 else said["code"])
    except (msgspec.DecodeError, KeyError, TypeError, IndexError):
        return f"HTTP {status}"


def http_heads(address: str, keys: Sequence[str]) -> list[bytes]:
    """What stands between path and length, by tenant."""
    return [
        b" HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\nauthorization: Basic %b\r\ncontent-length: "
        % (address.encode(), base64.b64encode(f"{key}:".encode()))
        for key in keys
    ]
