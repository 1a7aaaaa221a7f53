-- The event log of one cell: records by partition and offset, in day segments that retention drops whole.
CREATE SCHEMA IF NOT EXISTS eventlog;

-- The next offset of each partition. The row is locked for the length of one group append, so offsets become visible in order.
CREATE TABLE IF NOT EXISTS eventlog.partition (
    partition   integer PRIMARY KEY,
    next_offset bigint NOT NULL DEFAULT 0
);

-- appended_at, received_at: microseconds since 1970. body: see cells/eventlog/codec.py.
CREATE TABLE IF NOT EXISTS eventlog.record (
    partition   integer NOT NULL,
    "offset"    bigint  NOT NULL,
    appended_at bigint  NOT NULL,
    tenant      text    NOT NULL,
    source      text    NOT NULL,
    cell        text    NOT NULL,
    epoch       bigint  NOT NULL,
    received_at bigint  NOT NULL,
    events      integer NOT NULL,
    trace       text    NOT NULL,
    body        bytea   NOT NULL,
    PRIMARY KEY (partition, "offset", appended_at)
) PARTITION BY RANGE (appended_at);

-- Bodies are compressed already: pglz over them would only burn time.
ALTER TABLE eventlog.record ALTER COLUMN body SET STORAGE EXTERNAL;
