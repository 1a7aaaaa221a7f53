"""A record's body as bytes: one byte of format, then MessagePack, zstd-compressed when that pays.

Formats: 0 = plain, 1 = zstd, 255 = what somebody else wrote, kept whole. A reader that meets another one raises Undecodable; it never
guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import zstandard

from cells.eventlog.envelope import Body
from kernel.limits import RECORD_BYTES_MAX

PLAIN: Final = b"\x00"
ZSTD: Final = b"\x01"
FOREIGN: Final = b"\xff"
_COMPRESS_FROM_BYTES: Final = 1_024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Body)
_foreign_decoder = msgspec.msgpack.Decoder(tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]])
_compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
_decompressor = zstandard.ZstdDecompressor()


class Undecodable(Exception):
    """The body is damaged or of a newer format."""


def encode(body: Body) -> bytes:
    """Small bodies stay plain: compressing them costs more than it saves."""
    data = _encoder.encode(body)
    return PLAIN + data if len(data) < _COMPRESS_FROM_BYTES else ZSTD + _compressor.compress(data)


def foreign(why: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """The body of a record that is not ours: `decode` refuses it and says `why`; nothing of it is lost."""
    return FOREIGN + _encoder.encode((why, key, value, list(headers)))


def decode(data: bytes) -> Body:
    """The inverse of `encode`. Raises Undecodable."""
    try:
        if data[:1] == ZSTD:
            return _decoder.decode(_decompressor.decompress(data[1:], max_output_size=4 * RECORD_BYTES_MAX))
        if data[:1] == PLAIN:
            return _decoder.decode(data[1:])
        if data[:1] == FOREIGN:
            raise Undecodable(_foreign_decoder.decode(data[1:])[0])
    except (msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise Undecodable(str(error)) from error
    raise Undecodable(f"unknown format {data[:1].hex() or 'of an empty body'}")
