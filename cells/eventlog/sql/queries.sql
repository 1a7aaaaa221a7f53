-- name: append
-- One group of records: takes the offsets, stores the records, returns the first offset. One statement, one commit.
WITH head AS (
    UPDATE eventlog.partition SET next_offset = next_offset + $2 WHERE partition = $1 RETURNING next_offset - $2 AS base
), stored AS (
    INSERT INTO eventlog.record (partition, "offset", appended_at, tenant, source, cell, epoch, received_at, events, trace, body)
    SELECT $1, head.base + r.ordinal - 1, $3, r.tenant, r.source, r.cell, r.epoch, r.received_at, r.events, r.trace, r.body
    FROM head, unnest($4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::integer[], $10::text[], $11::bytea[])
         WITH ORDINALITY AS r (tenant, source, cell, epoch, received_at, events, trace, body, ordinal)
)
SELECT base FROM head;

-- name: fetch
-- Records of a partition from an offset on, with the running size, so that the caller's byte bound is kept on the server.
SELECT "offset", appended_at, tenant, source, cell, epoch, received_at, events, trace, body
FROM (
    SELECT *, sum(length(body)) OVER (ORDER BY "offset") - length(body) AS bytes_before
    FROM (SELECT * FROM eventlog.record WHERE partition = $1 AND "offset" >= $2 ORDER BY "offset" LIMIT $3) AS candidates
) AS sized
WHERE bytes_before < $4
ORDER BY "offset";

-- name: offset_at
-- First offset of a partition whose record was appended at a moment or later; the next offset when there is none. Older days are pruned.
SELECT coalesce(
    (SELECT r."offset" FROM eventlog.record r WHERE r.partition = $1 AND r.appended_at >= $2 ORDER BY r."offset" LIMIT 1),
    (SELECT p.next_offset FROM eventlog.partition p WHERE p.partition = $1)
);

-- name: bounds
-- First retained and next offset of every partition.
SELECT p.partition, coalesce((SELECT min(r."offset") FROM eventlog.record r WHERE r.partition = p.partition), p.next_offset) AS first,
       p.next_offset AS next
FROM eventlog.partition p ORDER BY p.partition;

-- name: size
-- Bytes on disk, indexes included.
SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits WHERE inhparent = 'eventlog.record'::regclass;

-- name: segments
-- Names of the day segments.
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'eventlog.record'::regclass;

-- name: seed
-- Makes the partitions' heads.
INSERT INTO eventlog.partition (partition) SELECT generate_series(0, $1::integer - 1) ON CONFLICT DO NOTHING;

-- name: partitions
-- How many partitions the log was made with.
SELECT count(*)::integer FROM eventlog.partition;

-- name: members
-- Living members of a group: each holds a shared advisory lock on (group, -1) for the life of its connection.
SELECT count(*)::integer FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid = $1::bigint::oid AND objid = 4294967295::oid AND objsubid = 2 AND granted;
