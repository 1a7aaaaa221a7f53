"""A request's body, read under a deadline and a byte bound, plain or gzip-compressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from kernel.errors import Failure, Reason

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_JSON = ("application/json", "text/plain")


def check_media_type(content_type: str | None) -> None:
    """JSON, also as the text/plain of `navigator.sendBeacon`; nothing said is taken as JSON."""
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    if kind not in _JSON:
        raise Failure(Reason.UNSUPPORTED_MEDIA_TYPE, kind[:80])


async def read_body(chunks: AsyncIterator[bytes], encoding: str | None, bytes_max: int, seconds_max: float) -> bytes:
    """The body after decompression. It never holds more than `bytes_max` and one chunk, whatever a gzip bomb promises."""
    kind = (encoding or "identity").strip().lower()
    if kind not in ("identity", "gzip"):
        raise Failure(Reason.UNSUPPORTED_CONTENT_ENCODING, kind[:80])
    try:
        async with asyncio.timeout(seconds_max):
            return await (_read_gzip(chunks, bytes_max) if kind == "gzip" else _read_plain(chunks, bytes_max))
    except TimeoutError:
        raise Failure(Reason.REQUEST_TIMEOUT) from None


async def _read_plain(chunks: AsyncIterator[bytes], bytes_max: int) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        _bound(len(data), bytes_max)
    return bytes(data)


async def _read_gzip(chunks: AsyncIterator[bytes], bytes_max: int) -> bytes:
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    data = bytearray()
    received = 0
    try:
        async for chunk in chunks:
            received += len(chunk)
            _bound(received, bytes_max)
            if chunk and inflater.eof:
                raise Failure(Reason.MALFORMED_BODY, "bytes follow the gzip stream")
            data += inflater.decompress(chunk, bytes_max + 1 - len(data))
            _bound(len(data) + (1 if inflater.unconsumed_tail else 0), bytes_max)
    except zlib.error as error:
        raise Failure(Reason.MALFORMED_BODY, "the gzip stream is damaged") from error
    if inflater.unused_data:
        raise Failure(Reason.MALFORMED_BODY, "bytes follow the gzip stream")
    if not inflater.eof:
        raise Failure(Reason.MALFORMED_BODY, "the gzip stream is cut off")
    return bytes(data)


def _bound(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise Failure(Reason.BODY_TOO_LARGE, f"more than {bytes_max} bytes")
