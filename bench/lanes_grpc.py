"""gRPC for the generator: HTTP/2 frames that are rendered as far as they can be before the run, one stream at a time on a connection.

grpcio takes 0.6 to 1.4 ms of CPU for a call with a hundred events, as much as the cell takes for a fifth of them. This takes a fraction.
It knows as much of HTTP/2 and HPACK as Envoy's answers need; an answer that it cannot read counts as refused, with a code that says so.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Final

import grpc

from bench.lanes import Lane, Told
from bench.outcomes import ACKNOWLEDGED, NO_ANSWER
from dataflow.ingest.v1 import ingest_pb2

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE = 1, 2, 4
_HEAD: Final = struct.Struct(">HBBBI")
_HEAD_BYTES: Final = 9
_FRAME_BYTES_MAX: Final = 16_384
_WINDOW: Final = 65_535
_WINDOW_MAX: Final = 2**31 - 1
_UNREADABLE: Final = "unreadable"
_NAMES: Final = {int(code.value[0]): code.name for code in grpc.StatusCode}
# `grpc-status` as it stands in a header block: in HPACK's Huffman code (RFC 7541, appendix B), or plain.
_STATUS_FIELDS: Final = (b"\x88" + bytes.fromhex("9acac8b21234da8f"), b"\x0bgrpc-status")
_DIGITS: Final = ("00000", "00001", "00010", "011001", "011010", "011011", "011100", "011101", "011110", "011111")


def _head(size: int, kind: int, flags: int, stream: int) -> bytes:
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream)


# No dynamic table, so that an answer's headers can be read without those before it; and a window that no run's answers fill.
_PREFACE: Final = b"".join(
    (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _head(12, _SETTINGS, 0, 0) + struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _ENABLE_PUSH, 0),
        _head(4, _WINDOW_UPDATE, 0, 0) + struct.pack(">I", _WINDOW_MAX - _WINDOW),
    )
)


def _texts(number: int) -> tuple[bytes, bytes]:
    """A number as a header value with its length byte: plain, and in the Huffman code, which the top bit tells."""
    plain = str(number).encode()
    bits = "".join(_DIGITS[int(digit)] for digit in str(number))
    coded = int(bits + "1" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big")
    return bytes((len(plain),)) + plain, bytes((128 | len(coded),)) + coded


_STATUSES: Final = {text: number for number in _NAMES for text in _texts(number)}


def grpc_heads(address: str, keys: Sequence[str]) -> list[bytes]:
    """The header block of a request by tenant: literals that no table keeps."""
    fixed = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/dataflow.ingest.v1.IngestService/Ingest",
        ":authority": address,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": "30S",
    }
    return [b"".join(_literal(*field) for field in (fixed | {"authorization": f"Bearer {key}"}).items()) for key in keys]


def _literal(name: str, value: str) -> bytes:
    return b"\x00%c%b%c%b" % (len(name), name.encode(), len(value), value.encode())


def verdict_of(status: int | None, message: bytes) -> str:
    """What a stream's end says: ACKNOWLEDGED, or the code of the refusal of the request, or of its first event."""
    if status is None:
        return _UNREADABLE
    if status:
        return _NAMES[status]
    verdicts = ingest_pb2.IngestResponse.FromString(message[5:]).verdicts
    return verdicts[0].code if verdicts else ACKNOWLEDGED


def status_of(block: bytes) -> int | None:
    """The gRPC status in a header block; None when there is none that can be read."""
    for field in _STATUS_FIELDS:
        at = block.find(field)
        if at >= 0:
            value = at + len(field)
            return _STATUSES.get(block[value : value + 1 + (block[value] & 127)])
    return None


class GrpcLane(Lane):
    """HTTP/2 without TLS. What a stream's or the connection's window does not take waits for the next WINDOW_UPDATE."""

    def __init__(self, told: Told, heads: Sequence[bytes]) -> None:
        super().__init__(told)
        self._heads = heads
        self._data = b""
        self._stream = -1
        self._window = self._initial_window = _WINDOW
        self._connection_window = _WINDOW
        self._rest = memoryview(b"")
        self._message = b""
        self._verdict: str | None = None
        self._leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        self._write((_PREFACE,))

    def send(self, tenant: int, path: bytes, body: bytes) -> None:
        """See Lane."""
        self._stream += 2
        self._window, self._message = self._initial_window, b""
        block = self._heads[tenant]
        self._rest = memoryview(b"\x00" + len(body).to_bytes(4, "big") + body)
        self._write([_head(len(block), _HEADERS, _END_HEADERS, self._stream), block, *self._fitting()])

    def _fitting(self) -> list[bytes | memoryview]:
        """As many DATA frames as the windows take."""
        chunks: list[bytes | memoryview] = []
        while self._rest and (size := min(len(self._rest), _FRAME_BYTES_MAX, self._window, self._connection_window)) > 0:
            part, self._rest = self._rest[:size], self._rest[size:]
            self._window -= size
            self._connection_window -= size
            chunks += (_head(size, _DATA, 0 if self._rest else _END_STREAM, self._stream), part)
        return chunks

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        data = self._data + data if self._data else data
        at = 0
        while len(data) - at >= _HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            end = at + _HEAD_BYTES + (high << 8 | low)
            if end > len(data):
                break
            self._take(kind, flags, stream, data[at + _HEAD_BYTES : end])
            at = end
        self._data = data[at:]
        self._conclude()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One frame."""
        if kind in (_SETTINGS, _WINDOW_UPDATE, _PING, _GOAWAY):
            self._manage(kind, flags, stream, payload)
        elif stream != self._stream or self._verdict is not None:
            return
        elif kind == _DATA:
            self._message += payload
        elif kind == _RST_STREAM:
            self._verdict = NO_ANSWER
        elif kind == _HEADERS and flags & _END_STREAM:
            self._verdict = verdict_of(status_of(payload), self._message)

    def _manage(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """What concerns the connection, and windows."""
        if kind == _GOAWAY:
            self._leaving = True
        elif kind == _PING and not flags & _ACK:
            self._write((_head(len(payload), _PING, _ACK, 0), payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._write((_head(0, _SETTINGS, _ACK, 0),))
            settings = dict(struct.iter_unpack(">HI", payload))
            self._grow(settings.get(_INITIAL_WINDOW_SIZE, self._initial_window) - self._initial_window, 0)
            self._initial_window = settings.get(_INITIAL_WINDOW_SIZE, self._initial_window)
        elif kind == _WINDOW_UPDATE:
            (by,) = struct.unpack(">I", payload)
            self._grow(by if stream == self._stream else 0, by if stream == 0 else 0)

    def _grow(self, stream: int, connection: int) -> None:
        self._window += stream
        self._connection_window += connection
        if self._rest:
            self._write(self._fitting())

    def _write(self, chunks: Sequence[bytes | memoryview]) -> None:
        if self.transport is not None:
            self.transport.writelines(chunks)

    def _conclude(self) -> None:
        """Tells the verdict once all that came with it is known: after a goodbye, or when the request was answered before all of it was
        sent, no other one can follow here."""
        verdict, self._verdict = self._verdict, None
        if (self._leaving and self.request is None) or (verdict is not None and (self._leaving or self._rest)):
            self._rest = memoryview(b"")
            self.retire()
        if verdict is not None:
            self.tell(verdict)
