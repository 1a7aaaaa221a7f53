"""Events of the gRPC API as items: the same JSON text that an HTTP client would have sent, so that one path admits both."""

from __future__ import annotations

import msgspec
from google.protobuf.json_format import MessageToDict

from cells.ingest.verdict import Admitted
from dataflow.ingest.v1 import ingest_pb2
from dataflow.types.v1 import event_pb2
from kernel.clock import SECOND, Micros, iso

_TYPES = {
    event_pb2.EVENT_TYPE_TRACK: "track",
    event_pb2.EVENT_TYPE_IDENTIFY: "identify",
    event_pb2.EVENT_TYPE_PAGE: "page",
    event_pb2.EVENT_TYPE_SCREEN: "screen",
    event_pb2.EVENT_TYPE_GROUP: "group",
    event_pb2.EVENT_TYPE_ALIAS: "alias",
}
_BROKEN = b"\x00"
_raw = msgspec.json.Decoder(msgspec.Raw)


def item_of(event: event_pb2.Event) -> bytes:
    """The event's JSON text. What cannot be said in JSON becomes a text that `admit` rejects as malformed."""
    kind = _TYPES.get(event.type, "unspecified")
    parts = ['{"type":"', kind, '"']
    for member, value in (
        (',"messageId":', event.message_id),
        (',"userId":', event.user_id),
        (',"anonymousId":', event.anonymous_id),
        (',"event":' if kind == "track" else ',"name":', event.name),
        (',"groupId":', event.group_id),
        (',"previousId":', event.previous_id),
    ):
        if value:
            parts += member, _text(value)
    try:
        if event.HasField("timestamp"):
            parts += ',"timestamp":"', iso(micros(event.timestamp.seconds, event.timestamp.nanos)), '"'
        if chosen := event.WhichOneof("properties"):
            properties = event.json if chosen == "json" else msgspec.json.encode(MessageToDict(event.struct))
            parts += ',"traits":' if kind in ("identify", "group") else ',"properties":', _verbatim(properties)
        if event.context_json:
            parts += ',"context":', _verbatim(event.context_json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, ValueError):
        return _BROKEN
    parts.append("}")
    return "".join(parts).encode()


def micros(seconds: int, nanos: int) -> Micros:
    """A protobuf Timestamp as microseconds."""
    return Micros(seconds * SECOND + nanos // 1_000)


def response_of(admitted: Admitted, verbose: bool) -> ingest_pb2.IngestResponse:
    """The answer, with verdicts for what was not plainly accepted, or for all."""
    response = ingest_pb2.IngestResponse(accepted=len(admitted.accepted))
    verdicts = [
        *(
            event_pb2.Verdict(
                index=item.index_in_batch,
                message_id=item.message_id,
                outcome=event_pb2.Verdict.OUTCOME_REJECTED,
                code=item.reason.name,
                message=f"{item.reason.spec.client}: {item.detail}" if item.detail else item.reason.spec.client,
            )
            for item in admitted.rejected
        ),
        *(
            event_pb2.Verdict(index=item.index_in_batch, message_id=item.message_id, outcome=event_pb2.Verdict.OUTCOME_DUPLICATE)
            for item in admitted.repeated
        ),
    ]
    if verbose:
        verdicts.extend(
            event_pb2.Verdict(index=index, message_id=envelope.message_id, outcome=event_pb2.Verdict.OUTCOME_ACCEPTED)
            for index, envelope in admitted.accepted
        )
    response.verdicts.extend(sorted(verdicts, key=lambda verdict: verdict.index))
    return response


def _verbatim(text: bytes) -> str:
    """Exactly one JSON value in UTF-8, or an error: unchecked text could smuggle fields in."""
    _raw.decode(text)
    return text.decode()


def _text(value: str) -> str:
    """The text as JSON."""
    return msgspec.json.encode(value).decode()
