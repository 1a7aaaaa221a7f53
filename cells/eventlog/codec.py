"""A record's body as bytes: one byte of format, then MessagePack, zstd-compressed when that pays.

Formats: 0 = envelopes, plain; 1 = envelopes, zstd; 2 = columns, plain; 3 = columns, zstd; 255 = what somebody else wrote, kept whole.
Columns are written; all are read, since a log and a store keep what earlier code wrote. A reader that meets another format raises
Undecodable; it never guesses: in a rollout readers come before writers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import zstandard

from cells.eventlog.envelope import Body, Columns, body_of, columns_of
from kernel.limits import RECORD_BYTES_MAX

_FORMATS: Final = 4
_FOREIGN: Final = 255
_COLUMNS: Final = 2
_ZSTD: Final = 1
_COMPRESS_FROM_BYTES: Final = 1_024
# What a compressed body may become: several times what a record holds.
_TEXT_BYTES_MAX: Final = 4 * RECORD_BYTES_MAX
# What a store can keep of a number.
_INT64_MAX: Final = 2**63 - 1

_encoder = msgspec.msgpack.Encoder()
_columns = msgspec.msgpack.Decoder(Columns)
_envelopes = msgspec.msgpack.Decoder(Body)
_foreign_decoder = msgspec.msgpack.Decoder(tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]])
_compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
_decompressor = zstandard.ZstdDecompressor()


class Undecodable(Exception):
    """The body is damaged or of a newer format."""


def encode(body: Body) -> bytes:
    """Small bodies stay plain: compressing them costs more than it saves."""
    data = _encoder.encode(columns_of(body))
    if len(data) < _COMPRESS_FROM_BYTES:
        return bytes((_COLUMNS,)) + data
    return bytes((_COLUMNS | _ZSTD,)) + _compressor.compress(data)


def encode_envelopes(body: Body) -> bytes:
    """As the previous version wrote it, whose readers know no columns: for ingest that is rolled out before them, or rolled back."""
    data = _encoder.encode(body)
    return b"\x00" + data if len(data) < _COMPRESS_FROM_BYTES else bytes((_ZSTD,)) + _compressor.compress(data)


def foreign(why: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """The body of a record that is not ours: `decode` refuses it and says `why`; nothing of it is lost."""
    return bytes((_FOREIGN,)) + _encoder.encode((why, key, value, list(headers)))


def decode(data: bytes) -> Body:
    """The inverse of `encode`. Raises Undecodable."""
    found = _read(data)
    return found if isinstance(found, Body) else body_of(found)


def decode_columns(data: bytes) -> Columns:
    """The inverse of `encode`, field by field. Raises Undecodable."""
    found = _read(data)
    return columns_of(found) if isinstance(found, Body) else found


def _read(data: bytes) -> Body | Columns:
    if not data or _FORMATS <= data[0] < _FOREIGN:
        raise Undecodable(f"unknown format {data[:1].hex() or 'of an empty body'}")
    try:
        if data[0] == _FOREIGN:
            raise Undecodable(_foreign_decoder.decode(data[1:])[0])
        text = _inflated(data[1:]) if data[0] & _ZSTD else data[1:]
        body = (_columns if data[0] & _COLUMNS else _envelopes).decode(text)
    except (msgspec.MsgspecError, zstandard.ZstdError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise Undecodable(str(error) or type(error).__name__) from error
    columns = columns_of(body) if isinstance(body, Body) else body
    if len({len(getattr(columns, name)) for name in Columns.__struct_fields__[1:]}) != 1:
        raise Undecodable("columns of different lengths")
    hashes = columns.content_hashes
    if hashes and not 0 <= min(hashes) <= max(hashes) <= _INT64_MAX:
        raise Undecodable("a content hash that no store could keep")
    # MessagePack knows nothing below the least of 64 bits.
    if max(filter(None, columns.original_ats), default=0) > _INT64_MAX or (columns.sent_at or 0) > _INT64_MAX:
        raise Undecodable("a time beyond all numbers")
    return body


def _inflated(data: bytes) -> bytes:
    """The bound is for frames that do not say how large they are; one that says so is given all that it asks for."""
    if (size := zstandard.frame_content_size(data)) > _TEXT_BYTES_MAX:
        raise Undecodable(f"a body of {size} bytes, at most {_TEXT_BYTES_MAX}")
    return _decompressor.decompress(data, max_output_size=_TEXT_BYTES_MAX)
