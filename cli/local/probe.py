"""Is a process ready? A probe answers None when it is, else the problem in words."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Final

Probe = Callable[[], Awaitable[str | None]]


class Silence(str):
    """A problem that is no answer at all: the process hangs, is paused or does not listen. Others are answers of a live process."""

    __slots__ = ()


PROBE_SECONDS: Final = 2.0
_ANSWER_BYTES_MAX: Final = 4_096
# Kafka's Metadata request about no topic: key 3, version 2, correlation 0, no client's name, an empty list.
_METADATA: Final = struct.pack(">hhihi", 3, 2, 0, -1, 0)


def tcp(port: int, host: str = "127.0.0.1") -> Probe:
    """Ready when it accepts a connection."""

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            return Silence(f"port {port}: {str(error) or 'no answer in time'}")
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
            return Silence(f"port {port}: {str(error) or 'no answer in time'}")
        except ValueError as error:
            return f"port {port}: {error}"
        return None if status == 200 else f"{status} {' '.join(body.split())[:200]}"

    return probe


def kafka(port: int, name: str, node: int, host: str = "127.0.0.1") -> Probe:
    """Ready when the Kafka of the id `name` says that its `node` takes part: controllers know and hear it, so that it accepts records."""

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                found, nodes = _members(await _ask_kafka(host, port))
        except (OSError, TimeoutError, EOFError) as error:
            return Silence(f"port {port}: {str(error) or 'no answer in time'}")
        except (ValueError, struct.error) as error:
            return f"port {port}: it does not speak Kafka: {error}"
        if found != name:
            return f"port {port}: another Kafka ({found}) answers"
        return None if node in nodes else f"node {node} is not among the brokers {sorted(nodes)}"

    return probe


async def _ask_kafka(host: str, port: int) -> bytes:
    """The body of a Metadata answer. Raises ValueError for one that is too long."""
    reader, writer = await asyncio.open_connection(host, port, limit=_ANSWER_BYTES_MAX)
    try:
        writer.write(struct.pack(">i", len(_METADATA)) + _METADATA)
        await writer.drain()
        (length,) = struct.unpack(">i", await reader.readexactly(4))
        if not 0 < length <= _ANSWER_BYTES_MAX:
            raise ValueError(f"an answer of {length} bytes")
        return await reader.readexactly(length)
    finally:
        writer.transport.abort()


def _members(answer: bytes) -> tuple[str, set[int]]:
    """Cluster and node ids in a Metadata answer, version 2: correlation, (id, host, port, rack) of each broker, the cluster's id."""
    nodes: set[int] = set()
    (count,), at = struct.unpack_from(">i", answer, 4), 8
    for _ in range(count):
        node, host = struct.unpack_from(">ih", answer, at)
        nodes.add(node)
        at += 6 + host + 4
        (rack,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(rack, 0)
    (length,) = struct.unpack_from(">h", answer, at)
    return answer[at + 2 : at + 2 + max(length, 0)].decode(), nodes


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
