"""Is a process ready? A probe answers None when it is, else the problem in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

Probe = Callable[[], Awaitable[str | None]]


class Silence(str):
    """A problem that is no answer at all: the process hangs, is paused or does not listen. Others are answers of a live process."""

    __slots__ = ()


PROBE_SECONDS: Final = 2.0
_ANSWER_BYTES_MAX: Final = 4_096


def tcp(port: int, host: str = "127.0.0.1") -> Probe:
    """Ready when it accepts a connection."""

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            return Silence(f"port {port}: {error or 'no answer in time'}")
        writer.transport.abort()
        return None

    return probe


def http(port: int, path: str = "/readyz", host: str = "127.0.0.1") -> Probe:
    """Ready when GET `path` answers 200. Otherwise the answer's beginning is the problem: it names what is not ready."""

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                status, body = await _get(host, port, path)
        except (OSError, TimeoutError) as error:
            return Silence(f"port {port}: {error or 'no answer in time'}")
        except ValueError as error:
            return f"port {port}: {error}"
        return None if status == 200 else f"{status} {' '.join(body.split())[:200]}"

    return probe


async def _get(host: str, port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(host, port, limit=_ANSWER_BYTES_MAX)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        answer = b""
        while len(answer) < _ANSWER_BYTES_MAX and (part := await reader.read(_ANSWER_BYTES_MAX)):
            answer += part
    finally:
        writer.transport.abort()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or not words[1].isdigit():
        raise ValueError("it does not speak HTTP")
    return int(words[1]), body.decode(errors="replace")
