"""Every bound of the system, in one place. Units last. Relations between bounds are asserted at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024

# One request (ingest.md; Segment's published limits). A tenant's plan may raise the batch limits up to the hard ones.
EVENT_BYTES_MAX: Final = 32 * KIB
BATCH_BYTES_MAX: Final = 500 * KIB
BATCH_EVENTS_MAX: Final = 2_500
BATCH_BYTES_HARD_MAX: Final = 4 * KIB * KIB
MESSAGE_ID_CHARS_MAX: Final = 100
ID_CHARS_MAX: Final = 512
NAME_CHARS_MAX: Final = 512
NESTING_MAX: Final = 100
TRAITS_PER_EVENT_MAX: Final = 255
TRAIT_NAME_CHARS_MAX: Final = 128
BODY_READ_SECONDS: Final = 15.0
RETRY_AFTER_SECONDS_MAX: Final = 300

# Ingest as a process.
INFLIGHT_BYTES_MAX: Final = 64 * KIB * KIB
TENANT_INFLIGHT_SHARE: Final = 0.5
TURN_BYTES: Final = 64 * KIB  # of bodies per turn of the loop: about a hundred events, a few milliseconds
TURN_REQUEST_BYTES: Final = 8 * KIB  # what a request costs beside its body, as bytes of a body would
TURN_BYTES_PER_SECOND: Final = 32 * KIB * KIB  # of a turn that lasted longer: about half of what a core can admit
TURN_WAIT_SECONDS_MAX: Final = 0.2
PACE_BEHIND_SECONDS: Final = 0.2  # from here on one apply runs into the next
PACE_WAITS_SECONDS_MAX: Final = 0.6
PACE_LASTING_SECONDS: Final = 0.4
PACE_AWAY_SECONDS: Final = 1.0  # without an apply: then the store is taken to be away
PACE_CALM_SECONDS: Final = 1.0
PACE_WINDOW_SECONDS: Final = 0.5
PACE_BURST_SECONDS: Final = 0.05
PACE_RATE_SECONDS: Final = 2.0  # an apply is large: from one window to the next their rate differs by half
PACE_SHARE_MIN: Final = 0.5  # of what is applied: a backlog shrinks at least so fast
PACE_SHARE_MAX: Final = 1.25
PACE_MEMORY_SECONDS: Final = 10.0
APPEND_SECONDS_MAX: Final = 5.0
STREAM_WINDOW_BATCHES: Final = 16
STREAM_SECONDS_MAX: Final = 300.0
DRAIN_SECONDS_MAX: Final = 10.0

# Event log.
LOG_PARTITIONS: Final = 4
RECORD_BYTES_MAX: Final = 8 * KIB * KIB
RECORD_EVENTS_MAX: Final = 100_000
APPEND_GROUP_BYTES_MAX: Final = 4 * KIB * KIB
APPEND_GROUP_RECORDS_MAX: Final = 512
APPEND_QUEUE_BYTES_MAX: Final = 32 * KIB * KIB
LOG_BYTES_MAX: Final = 20 * KIB * KIB * KIB
LOG_HIGH_WATER_SHARE: Final = 0.8  # of it: from there on what is applied is kept for fewer days
LOG_RETENTION_DAYS: Final = 7
FETCH_BYTES_MAX: Final = 1 * KIB * KIB
FETCH_RECORDS_MAX: Final = 2_000
FETCH_WAIT_SECONDS: Final = 0.5  # for a record to come

# Replication and handoff.
REPLICATION_SECONDS_MAX: Final = 5.0  # that the other cell takes to answer, beside the wait for a record
VIEW_SECONDS_MAX: Final = 3.0  # that what a site said of a cell counts
FAILOVER_GAP_RECORDS_MAX: Final = 5_000  # known to be missing at a standby; a person decides whether a wider gap is worth it
HANDOFF_EVENTS_PER_SECOND_MAX: Final = 12_500.0  # that a cell takes for homes that cannot be reached: half of what one was tested for

# Processing and storage.
SLICE_EVENTS_MAX: Final = 250
SLICE_BYTES_MAX: Final = 256 * KIB
APPLY_EVENTS_MAX: Final = 4_000
SEEN_WINDOW_DAYS: Final = 2
CLOCK_SKEW_AHEAD_SECONDS: Final = 24 * 3_600
APPLY_SECONDS_MAX: Final = 30.0
APPLY_BYTES_MAX: Final = 256 * KIB * KIB
APPLY_CLAIMS_MAX: Final = 20_000
APPLY_FOLD_BYTES_MAX: Final = 16 * KIB * KIB
FENCE_PATIENCE_SECONDS: Final = 5.0
HELD_RECHECK_SECONDS: Final = 30.0
INDEX_ROW_BYTES_MAX: Final = 2_704
IDENTITY_NODES_MAX: Final = 200

# Query.
PAGE_EVENTS_DEFAULT: Final = 50
PAGE_EVENTS_MAX: Final = 1_000
QUERY_SECONDS_MAX: Final = 5.0
READ_BYTES_MAX: Final = 8 * KIB * KIB  # of record bodies that one page opens, unless its first event's alone is larger
COUNT_BUCKETS_MAX: Final = 2_000
AUDIT_QUEUE_MAX: Final = 1_000


# Placement.
CELL_EVENTS_PER_SECOND_MAX: Final = 25_000.0  # what a cell was tested for (docs/validation.md, P1)
DEMAND_EVENTS_PER_SECOND: Final = 1.0  # events per second of a tenant of which nobody said what it will send
PIN_REASON_CHARS_MAX: Final = 200
REQUEST_ID_CHARS_MAX: Final = 64
REQUESTS_KEPT_SECONDS: Final = 24 * 3_600

# Moves.
ORDER_SECONDS: Final = 60
FENCE_SECONDS_MAX: Final = 5.0  # that a cell waits until it has heard of a fence and everything before it has ended
COPY_BYTES: Final = 128 * KIB  # of a part: one step of a copy reads, hands over and stores it, and holds loops for as long
COPY_BYTES_MAX: Final = 4 * KIB * KIB
COPY_PIECE_BYTES: Final = 1 * KIB * KIB  # of a message
COPY_PART_BYTES_MAX: Final = 64 * KIB * KIB  # what lies at one place is never parted: the largest record, with its rows
DIGEST_SECONDS_MAX: Final = 600.0  # of everything that a cell keeps of a tenant, day by day
COPY_SHARE: Final = 0.5  # of the time in which a copy works; in the rest of it it waits, so that others have the cells
COPY_ROUNDS_MAX: Final = 120  # that a copy tries to catch up with a source that stays behind
MOVES_MAX: Final = 2
JOINS_MAX: Final = 1  # standbys that join at a time; they are among the moves, and leave room for others
MOVE_PAUSE_SECONDS: Final = 0.5  # a copy that takes longer to come to the end of the source's log is not ready for the fence
MOVE_FENCED_SECONDS_MAX: Final = 5.0  # from then on the source takes writes again, and the copy goes on
MOVE_FENCES_MAX: Final = 5
MOVE_KEEP_SECONDS: Final = 3_600
MOVE_KEEP_SECONDS_MAX: Final = 7 * 24 * 3_600
MOVE_REASON_CHARS_MAX: Final = 200
COPY_KEYS_MAX: Final = 2_000  # records, or nodes, or traits of a part
ERASE_ROWS_MAX: Final = 5_000  # of one table in one transaction


@dataclass(frozen=True, slots=True)
class Plan:
    """What a tenant may ask of a cell, and how many requests of an edge. `spread` is the number of log partitions its users are spread over
    (1 for most)."""

    events_per_second: float = 5_000.0
    burst_events: float = 50_000.0
    batch_bytes_max: int = BATCH_BYTES_MAX
    batch_events_max: int = BATCH_EVENTS_MAX
    spread: int = 1
    requests_per_second: float = 1_000.0


assert EVENT_BYTES_MAX <= BATCH_BYTES_MAX <= BATCH_BYTES_HARD_MAX
assert BATCH_BYTES_HARD_MAX < RECORD_BYTES_MAX, "a whole batch fits one record, envelope fields included"
assert RECORD_BYTES_MAX <= APPEND_QUEUE_BYTES_MAX, "the queue takes the largest record"
assert BATCH_EVENTS_MAX <= RECORD_EVENTS_MAX, "a whole batch fits one record"
assert BATCH_EVENTS_MAX <= APPLY_EVENTS_MAX, "one record fits one apply"
assert 2 * APPLY_EVENTS_MAX * EVENT_BYTES_MAX <= APPLY_BYTES_MAX, "one apply fits one message: payloads, and traits taken from them"
assert 63 + 2 + 4 * ID_CHARS_MAX + 4 * TRAIT_NAME_CHARS_MAX + 32 <= INDEX_ROW_BYTES_MAX, "tenant, node and trait name fit an index row"
assert TURN_REQUEST_BYTES < TURN_BYTES, "a turn takes more than one small request"
assert PAGE_EVENTS_DEFAULT <= PAGE_EVENTS_MAX
assert COPY_BYTES <= COPY_BYTES_MAX <= COPY_PART_BYTES_MAX
assert 4 * RECORD_BYTES_MAX <= COPY_PART_BYTES_MAX
assert MOVE_PAUSE_SECONDS < MOVE_FENCED_SECONDS_MAX
assert MOVE_KEEP_SECONDS <= MOVE_KEEP_SECONDS_MAX
assert JOINS_MAX < MOVES_MAX
