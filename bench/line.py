"""One HTTP/1.1 connection that asks one thing after the other, as cheaply as Python can."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

_ANSWER_SECONDS: Final = 10.0


def request(key: str) -> bytes:
    """A request with a key, as bytes. It has no body: a refusal that comes before the end of one closes the connection."""
    return f"GET /v1/events HTTP/1.1\r\nhost: edge\r\nx-api-key: {key}\r\n\r\n".encode()


class Line:
    """A connection to a port of 127.0.0.1. `async with Line(port) as line: await line.ask(request(key))`."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.transport.abort()

    async def ask(self, text: bytes) -> int:
        """The status of the answer. Raises TimeoutError, OSError, EOFError."""
        self._writer.write(text)
        async with asyncio.timeout(_ANSWER_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            _, _, rest = head.partition(b"content-length:")
            if length := int(rest.split(b"\r", 1)[0] or 0):
                await self._reader.readexactly(length)
        return int(head[9:12])
