"""The closed vocabulary of errors: one table from a reason to its number, statuses, retry class and two messages.

`docs/errors.md` is generated from it. API-4xxx are answers to clients, DB-2xxx speak of log and store, DR-3xxx of the directory
and the edge. gRPC status codes are plain integers (grpc/status.h). The retry class tells a client what to do: `NEVER` again as
it is, `LATER` with the same bytes (after Retry-After when given), `ELSEWHERE` at the endpoint that the answer names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, unique


class Grpc(IntEnum):
    """gRPC status codes in use."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Retry(Enum):
    """What a client does about an error."""

    NEVER = "never"
    LATER = "later"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Spec:
    """One row of the vocabulary. `client` is shown to the sender; `operator` says what to look at."""

    number: str
    http: int
    grpc: Grpc
    retry: Retry
    client: str
    operator: str


@unique
class Reason(Enum):
    """Every reason that DataFlow gives. The member's name is the stable `code` of answers; its value is the row."""

    MALFORMED_BODY = Spec(
        "API-4001", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the body is not valid JSON", "a client bug; nothing was accepted"
    )
    INVALID_ENCODING = Spec(
        "API-4002", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the text is not valid UTF-8", "a client bug; nothing was accepted"
    )
    UNSUPPORTED_MEDIA_TYPE = Spec(
        "API-4003", 415, Grpc.INVALID_ARGUMENT, Retry.NEVER, "send application/json or text/plain", "a client bug"
    )
    UNSUPPORTED_CONTENT_ENCODING = Spec(
        "API-4004", 415, Grpc.INVALID_ARGUMENT, Retry.NEVER, "send the body plain or gzip-compressed", "a client bug"
    )
    BODY_TOO_LARGE = Spec(
        "API-4005",
        413,
        Grpc.INVALID_ARGUMENT,
        Retry.NEVER,
        "the request is larger than the plan allows",
        "raise the plan's limit or send smaller batches",
    )
    TOO_MANY_EVENTS = Spec(
        "API-4006",
        413,
        Grpc.INVALID_ARGUMENT,
        Retry.NEVER,
        "the batch holds more events than the plan allows",
        "raise the plan's limit or send smaller batches",
    )
    EVENT_TOO_LARGE = Spec(
        "API-4007",
        400,
        Grpc.INVALID_ARGUMENT,
        Retry.NEVER,
        "the event is larger than 32 KiB",
        "a client bug; the other events of the batch were taken",
    )
    EMPTY_BATCH = Spec("API-4008", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the batch holds no events", "a client bug")
    MISSING_ID = Spec("API-4009", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "userId or anonymousId is required", "a client bug")
    UNKNOWN_TYPE = Spec(
        "API-4010", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "type must be track, identify, page, screen, group or alias", "a client bug"
    )
    MISSING_FIELD = Spec("API-4011", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "a required field is missing", "a client bug")
    INVALID_FIELD = Spec("API-4012", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "a field has the wrong type or length", "a client bug")
    INVALID_TIMESTAMP = Spec(
        "API-4013", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "a time is not an ISO 8601 instant of the years 1 to 9999", "a client bug"
    )
    NESTING_TOO_DEEP = Spec(
        "API-4014", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the JSON is nested too deeply", "a client bug or an attack"
    )
    INVALID_CHARACTER = Spec(
        "API-4015", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "an identifier holds a NUL character or a lone surrogate", "a client bug"
    )
    ALL_REJECTED = Spec(
        "API-4016",
        400,
        Grpc.INVALID_ARGUMENT,
        Retry.NEVER,
        "every event of the batch was rejected",
        "a client bug; `rejected` lists each event's reason",
    )
    INVALID_QUESTION = Spec("API-4017", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the query is not understood", "a client bug")
    KEY_MISMATCH = Spec(
        "API-4018", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the write keys in the header and in the body differ", "a client bug"
    )
    REQUEST_TIMEOUT = Spec(
        "API-4019", 408, Grpc.DEADLINE_EXCEEDED, Retry.LATER, "the body did not arrive in time", "a slow client or an attack"
    )
    NO_ROUTE = Spec("API-4040", 404, Grpc.NOT_FOUND, Retry.NEVER, "there is nothing at this path", "a client bug")
    NOT_FOUND = Spec("API-4041", 404, Grpc.NOT_FOUND, Retry.NEVER, "no such thing in this tenant", "nothing to do")
    METHOD_NOT_ALLOWED = Spec("API-4050", 405, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the path does not take this method", "a client bug")
    NO_CREDENTIAL = Spec("API-4101", 401, Grpc.UNAUTHENTICATED, Retry.NEVER, "no write key was given", "a client bug")
    UNKNOWN_KEY = Spec(
        "API-4102",
        401,
        Grpc.UNAUTHENTICATED,
        Retry.NEVER,
        "the key is not known",
        "look the source up; a key minted moments ago may not have reached this edge yet",
    )
    REVOKED_KEY = Spec("API-4103", 401, Grpc.UNAUTHENTICATED, Retry.NEVER, "the key was revoked", "mint another key for the source")
    KEY_OF_OTHER_SOURCE = Spec(
        "API-4104",
        403,
        Grpc.PERMISSION_DENIED,
        Retry.NEVER,
        "the key does not belong to the source in the path",
        "check the client's endpoint",
    )
    WRONG_KEY_KIND = Spec(
        "API-4105", 403, Grpc.PERMISSION_DENIED, Retry.NEVER, "a write key cannot read and a read key cannot write", "a client bug"
    )
    FOREIGN_ZONE = Spec(
        "API-4106",
        421,
        Grpc.FAILED_PRECONDITION,
        Retry.ELSEWHERE,
        "the tenant lives in another residency zone",
        "point the client at the zone's endpoint",
    )
    TENANT_SUSPENDED = Spec(
        "API-4107", 403, Grpc.PERMISSION_DENIED, Retry.NEVER, "the tenant is suspended", "see the directory's log for who suspended it"
    )
    QUOTA_EXCEEDED = Spec(
        "API-4291",
        429,
        Grpc.RESOURCE_EXHAUSTED,
        Retry.LATER,
        "the tenant's rate of events is above its plan",
        "raise the plan or let the client wait",
    )
    OVERLOADED = Spec(
        "API-4292",
        429,
        Grpc.RESOURCE_EXHAUSTED,
        Retry.LATER,
        "the cell is busy; send the same request again",
        "see lag and memory of the cell",
    )
    LOG_UNAVAILABLE = Spec(
        "API-4293",
        429,
        Grpc.RESOURCE_EXHAUSTED,
        Retry.LATER,
        "the cell cannot store events now; send the same request again",
        "see the cell's log (PostgreSQL or Kafka)",
    )
    INTERNAL = Spec(
        "API-5000",
        500,
        Grpc.INTERNAL,
        Retry.LATER,
        "something went wrong on our side; send the same request again",
        "a defect: see the service's log for the request id",
    )
    DRAINING = Spec(
        "API-5031", 503, Grpc.UNAVAILABLE, Retry.LATER, "the cell is restarting; send the same request again", "nothing: a planned restart"
    )
    MOVED = Spec(
        "API-5032",
        503,
        Grpc.UNAVAILABLE,
        Retry.LATER,
        "the tenant has moved; send the same request again",
        "a move has it fenced for a moment (`dataflow moves list`), or an edge lags behind the directory",
    )
    CELL_UNAVAILABLE = Spec(
        "API-5033",
        503,
        Grpc.UNAVAILABLE,
        Retry.LATER,
        "the tenant's cell cannot be reached; send the same request again",
        "the edge found no healthy endpoint",
    )
    STREAM_ENDED = Spec(
        "API-5034",
        503,
        Grpc.UNAVAILABLE,
        Retry.LATER,
        "the stream is as old as a stream may get; open another one",
        "nothing: streams are ended so that they spread over the cells' processes again",
    )
    STORE_UNAVAILABLE = Spec(
        "DB-2001", 503, Grpc.UNAVAILABLE, Retry.LATER, "the cell's store cannot answer now", "see the cell's PostgreSQL"
    )
    LOG_FULL = Spec(
        "DB-2002",
        429,
        Grpc.RESOURCE_EXHAUSTED,
        Retry.LATER,
        "the cell's log is full; send the same request again",
        "processing is stopped or retention is too long: see lag",
    )
    RECORD_TOO_LARGE = Spec(
        "DB-2003", 400, Grpc.INVALID_ARGUMENT, Retry.NEVER, "the batch is too large for the log", "lower the plan's batch limit"
    )
    OFFSET_OUT_OF_RANGE = Spec(
        "DB-2004",
        400,
        Grpc.INVALID_ARGUMENT,
        Retry.NEVER,
        "the log holds no such offset any more",
        "retention passed the consumer: restore from the archive",
    )
    LOG_REPLACED = Spec(
        "DB-2006",
        503,
        Grpc.UNAVAILABLE,
        Retry.LATER,
        "the cell's store cannot answer now",
        "the log holds another record where the store knows one, or ends before what is applied: it was replaced; give the cell the log of"
        " its store back, or both anew",
    )
    UNDECODABLE_RECORD = Spec(
        "DB-2101",
        500,
        Grpc.INTERNAL,
        Retry.NEVER,
        "a record of the log could not be read",
        "a defect or a damaged disk: the record is kept as a dead letter",
    )
    UNPROCESSABLE_EVENT = Spec(
        "DB-2102", 500, Grpc.INTERNAL, Retry.NEVER, "an event could not be processed", "a defect: the event is kept as a dead letter"
    )
    TENANT_EXISTS = Spec("DR-3001", 409, Grpc.ALREADY_EXISTS, Retry.NEVER, "the name is taken", "choose another name")
    UNKNOWN_TENANT = Spec("DR-3002", 404, Grpc.NOT_FOUND, Retry.NEVER, "no such tenant in this zone", "ask the other zones' directories")
    UNKNOWN_SOURCE = Spec("DR-3003", 404, Grpc.NOT_FOUND, Retry.NEVER, "no such source of the tenant", "list the tenant's sources")
    UNKNOWN_CELL = Spec("DR-3004", 404, Grpc.NOT_FOUND, Retry.NEVER, "no such cell in this zone", "see gitops/fleet")
    INVALID_NAME = Spec(
        "DR-3005",
        400,
        Grpc.INVALID_ARGUMENT,
        Retry.NEVER,
        "a name is 2 to 63 lower-case letters, digits and hyphens",
        "choose another name",
    )
    ZONE_EXHAUSTED = Spec(
        "DR-3006", 503, Grpc.UNAVAILABLE, Retry.LATER, "no cell of the zone can take the tenant", "see the health of the zone's cells"
    )
    STALE_REVISION = Spec("DR-3007", 409, Grpc.ABORTED, Retry.LATER, "somebody changed the directory meanwhile", "read again and repeat")
    BAD_SIGNATURE = Spec(
        "DR-3008",
        500,
        Grpc.INTERNAL,
        Retry.NEVER,
        "a snapshot's signature is wrong",
        "pages: a forged or damaged snapshot was refused, the last good one serves",
    )
    SNAPSHOT_REFUSED = Spec(
        "DR-3009",
        500,
        Grpc.INTERNAL,
        Retry.NEVER,
        "a snapshot was refused",
        "pages: older, empty, sharply shrunk or inconsistent; the last good one serves",
    )
    EDGE_NACK = Spec(
        "DR-3010", 500, Grpc.INTERNAL, Retry.NEVER, "Envoy refused a configuration", "pages: the last good configuration serves"
    )

    SOURCE_EXISTS = Spec("DR-3011", 409, Grpc.ALREADY_EXISTS, Retry.NEVER, "the tenant has a source of that name", "choose another name")
    KEY_EXISTS = Spec("DR-3012", 409, Grpc.ALREADY_EXISTS, Retry.NEVER, "the slug or key is another's", "mint another one")
    CELL_FULL = Spec(
        "DR-3013",
        429,
        Grpc.RESOURCE_EXHAUSTED,
        Retry.LATER,
        "the cell has no room for the tenant",
        "see `dataflow cells list`: choose another cell, or move tenants away first",
    )
    REQUEST_REUSED = Spec(
        "DR-3014", 409, Grpc.ALREADY_EXISTS, Retry.NEVER, "the request id belongs to another request", "an operator's script repeats an id"
    )

    TENANT_MOVING = Spec(
        "DR-3015",
        409,
        Grpc.ALREADY_EXISTS,
        Retry.NEVER,
        "the tenant is being moved already",
        "see `dataflow moves show`: wait for that move to end, or abort it",
    )
    NOT_MOVING = Spec("DR-3016", 404, Grpc.NOT_FOUND, Retry.NEVER, "there is no such move of the tenant", "see `dataflow moves list`")
    MOVE_NOT_NOW = Spec(
        "DR-3017",
        409,
        Grpc.ABORTED,
        Retry.NEVER,
        "the move's state does not allow it",
        "see `dataflow moves show`: before the switch a move is aborted, after it it is rolled back",
    )
    TENANT_PINNED = Spec(
        "DR-3018",
        409,
        Grpc.ABORTED,
        Retry.NEVER,
        "the tenant is pinned",
        "see the pin's reason: unpin it, or pin it to the target",
    )
    ORDER_REFUSED = Spec(
        "DR-3019",
        403,
        Grpc.PERMISSION_DENIED,
        Retry.NEVER,
        "the directory of this zone did not order that",
        "pages: somebody else calls a cell's moves, or clocks differ by more than a minute",
    )
    COPY_DIFFERS = Spec(
        "DR-3020",
        500,
        Grpc.INTERNAL,
        Retry.NEVER,
        "the copy of the tenant is not what its home keeps",
        "a defect: the move stands still before the switch, nothing is lost; abort it and see the log of the directory",
    )

    NOT_AT_HOME = Spec(
        "DR-3021",
        409,
        Grpc.ABORTED,
        Retry.NEVER,
        "the tenant does not live in that cell",
        "see `dataflow tenants show`: somebody was first",
    )
    NO_STANDBY = Spec(
        "DR-3022",
        409,
        Grpc.ABORTED,
        Retry.NEVER,
        "no cell stands by for the tenant",
        "it was moved since it was created, or its cell has no peer: it waits for its cell to come back",
    )
    CELL_ANSWERS = Spec(
        "DR-3023",
        409,
        Grpc.ABORTED,
        Retry.NEVER,
        "the cell is not lost",
        "empty it with `dataflow cells evacuate`, which loses nothing; or fail it over by force",
    )
    PEER_REFUSED = Spec(
        "DR-3024", 403, Grpc.PERMISSION_DENIED, Retry.NEVER, "the peer is not known here", "pages: see DATAFLOW_PEERS and DATAFLOW_SITES"
    )

    @property
    def spec(self) -> Spec:
        """The row."""
        return self.value


class Failure(Exception):
    """A reason on its way to an answer. `detail` is for the sender and never quotes customer data."""

    def __init__(self, reason: Reason, detail: str = "", retry_after_seconds: float | None = None, endpoint: str | None = None) -> None:
        super().__init__(f"{reason.name}: {detail or reason.spec.client}")
        self.reason = reason
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        self.endpoint = endpoint

    @property
    def message(self) -> str:
        """What the sender reads: the reason's text, and the detail when there is one."""
        return f"{self.reason.spec.client}: {self.detail}" if self.detail else self.reason.spec.client
