-- Every statement of the store, by name. `{home}` is the quoted tenant schema. Loaded by cells/storage/sql/__init__.py.

-- name: homes
-- The tenant schemas.
SELECT nspname AS home FROM pg_namespace WHERE nspname = 'tenants' OR starts_with(nspname, 'tenant_') ORDER BY nspname

-- name: convert_lock
-- Until the transaction ends, nobody else converts; false when somebody does.
SELECT pg_try_advisory_xact_lock($1)

-- name: any_old_event
-- Whether the table of events that hold their own text has any left.
SELECT EXISTS (SELECT FROM {home}.event)

-- name: old_days
-- The days that this table has a partition for: (schema).
SELECT $1::text AS home, to_date(right(leaf.relname, 8), 'YYYYMMDD') AS day
FROM pg_inherits JOIN pg_class leaf ON leaf.oid = inhrelid JOIN pg_class parent ON parent.oid = inhparent
WHERE parent.relname = 'event' AND parent.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
ORDER BY day

-- name: old_events
-- Some of a day: (day, behind this place, limit). By place, since what a transaction before this one took away would be walked over
-- again in any index. No order is promised: the farthest place of an answer need not be its last, nor all before it be in it.
SELECT ctid, tenant, message_id, received_day, received_at, event_at, stored_at, epoch, log_offset, content_hash, partition, ordinal,
       type, name, user_id, anonymous_id, group_id, source, cell, payload
FROM {home}.event WHERE received_day = $1 AND ctid > $2 LIMIT $3

-- name: drop_old_events
-- Takes these away: (day, their places).
DELETE FROM {home}.event WHERE received_day = $1 AND ctid = ANY ($2::tid[])

-- name: taken_places
-- Which of these records exist: (day, partitions, offsets).
SELECT r.partition, r.log_offset
FROM unnest($2::int[], $3::bigint[]) AS asked (partition, log_offset) JOIN {home}.record r USING (partition, log_offset)
WHERE r.received_day = $1

-- name: taken_by
-- Which of these places are taken by anything: (partitions, offsets, tenant).
SELECT asked.partition, asked.log_offset FROM unnest($1::int[], $2::bigint[]) AS asked (partition, log_offset)
WHERE EXISTS (SELECT FROM {home}.record r WHERE r.partition = asked.partition AND r.log_offset = asked.log_offset)
    OR EXISTS (SELECT FROM {home}.dead_letter d WHERE d.tenant = $3 AND d.partition = asked.partition AND d.log_offset = asked.log_offset)
    OR EXISTS (SELECT FROM {home}.held h WHERE h.tenant = $3 AND h.partition = asked.partition AND h.log_offset = asked.log_offset)

-- name: keep_rows
-- Event rows, in key order as an apply stores them; answers with the keys and days that nobody had stored.
INSERT INTO {home}.event_row (
    tenant, message_key, received_day, event_at, partition, log_offset, ordinal, content_hash, type, name, user_id, anonymous_id, group_id, source
)
SELECT * FROM unnest(
    $1::text[], $2::bytea[], $3::date[], $4::bigint[], $5::int[], $6::bigint[], $7::int[], $8::bigint[], $9::text[], $10::text[], $11::text[],
    $12::text[], $13::text[], $14::text[]
) AS new (
    tenant, message_key, received_day, event_at, partition, log_offset, ordinal, content_hash, type, name, user_id, anonymous_id, group_id, source
)
ORDER BY new.message_key
ON CONFLICT DO NOTHING
RETURNING message_key, received_day

-- name: keep_pieces
-- Records that were put together from events, each with the time when these became queryable.
INSERT INTO {home}.record (tenant, received_day, partition, log_offset, received_at, epoch, cell, source, events, body, stored_at)
SELECT * FROM unnest(
    $1::text[], $2::date[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::int[], $10::bytea[], $11::bigint[]
)

-- name: positions
-- The next offset of each partition.
SELECT partition, next_offset FROM cell.position WHERE next_offset > 0

-- name: position
-- The next offset of one partition.
SELECT next_offset FROM cell.position WHERE partition = $1

-- name: start_partition
-- A partition's first row, so that the compare-and-set has something to compare with.
INSERT INTO cell.position (partition, next_offset) VALUES ($1, 0) ON CONFLICT DO NOTHING

-- name: replicated
-- Up to where another cell's log is kept in this cell's: (cell).
SELECT partition, next_offset FROM cell.replica WHERE origin = $1

-- name: replicate
-- The compare-and-set of such a position; the first one starts at 0: (cell, partition, expected, next). Nothing when it is another.
INSERT INTO cell.replica AS r (origin, partition, next_offset) SELECT $1, $2, $4 WHERE $3 = 0 OR EXISTS (
    SELECT FROM cell.replica WHERE origin = $1 AND partition = $2)
ON CONFLICT (origin, partition) DO UPDATE SET next_offset = excluded.next_offset WHERE r.next_offset = $3
RETURNING next_offset

-- name: begin_apply
-- The compare-and-set and door two's facts: (partition, expected, next, tenants, alone). `moved` is false when somebody else was there
-- first. The ownership rows are held still until the transaction ends: beside others that do, or, `alone`, while no other transaction
-- does. One line without a tenant when none is known.
WITH moved AS (
    UPDATE cell.position SET next_offset = $3 WHERE partition = $1 AND next_offset = $2 RETURNING 1
), owned AS MATERIALIZED (
    SELECT tenant, epoch, state, home FROM cell.ownership WHERE NOT $5::bool AND tenant = ANY ($4::text[]) ORDER BY tenant FOR SHARE
), owned_alone AS MATERIALIZED (
    SELECT tenant, epoch, state, home FROM cell.ownership WHERE $5::bool AND tenant = ANY ($4::text[]) ORDER BY tenant FOR NO KEY UPDATE
)
SELECT EXISTS (SELECT FROM moved) AS moved, held.*
FROM (VALUES (1)) AS one LEFT JOIN (SELECT * FROM owned UNION ALL SELECT * FROM owned_alone) AS held ON true

-- name: hold_tenants
-- Until the transaction ends, nobody applies rows of these tenants: a conversion's part of what `alone` is to an apply.
SELECT FROM cell.ownership WHERE tenant = ANY ($1::text[]) ORDER BY tenant FOR NO KEY UPDATE

-- name: ownerships_of
-- Ownership rows of some tenants: (tenants).
SELECT tenant, epoch, state, home FROM cell.ownership WHERE tenant = ANY ($1::text[])

-- name: homes_apart
-- The tenants that do not live in this schema: (schema).
SELECT tenant, home FROM cell.ownership WHERE home <> $1

-- name: own
-- Records what the directory says; an ownership only grows. The condition repeats cells.storage.own, for races.
INSERT INTO cell.ownership AS o (tenant, epoch, state)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) AS new (tenant, epoch, state) ORDER BY new.tenant
ON CONFLICT (tenant) DO UPDATE SET epoch = excluded.epoch, state = excluded.state
WHERE excluded.epoch > o.epoch OR (excluded.epoch = o.epoch AND excluded.state NOT IN ('owner', o.state))

-- name: dedicate
-- Makes a tenant's own schema and returns its name.
SELECT cell.dedicate($1)

-- name: settle
-- Points a tenant to its own schema, unless the shared one keeps rows of it already.
UPDATE cell.ownership o SET home = $2
WHERE tenant = $1 AND home = 'tenants'
  AND NOT EXISTS (SELECT FROM tenants.event_row e WHERE e.tenant = $1)
  AND NOT EXISTS (SELECT FROM tenants.event e WHERE e.tenant = $1)
  AND NOT EXISTS (SELECT FROM tenants.trait t WHERE t.tenant = $1)
  AND NOT EXISTS (SELECT FROM tenants.node n WHERE n.tenant = $1)

-- name: make_day
-- Makes the partition of (schema, day).
SELECT cell.make_day($1, $2)

-- name: maintain
-- Makes partitions ahead of today.
SELECT cell.maintain($1)

-- name: find_rows
-- What is stored under some message keys: (keys, first day, last day).
SELECT message_key, received_day, content_hash FROM {home}.event_row
WHERE message_key = ANY ($1::bytea[]) AND received_day BETWEEN $2::date AND $3::date

-- name: store_records
-- Records; the same one again is left as it is, and does not count as missing. One that differs in what no two records share is not
-- returned: the log was replaced.
INSERT INTO {home}.record AS r (tenant, received_day, partition, log_offset, received_at, stored_at, epoch, events, cell, source, body)
SELECT n.tenant, n.received_day, n.partition, n.log_offset, n.received_at, $1::bigint, n.epoch, n.events, n.cell, n.source, n.body
FROM unnest(
    $2::text[], $3::date[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::int[], $11::bytea[]
) AS n (tenant, received_day, partition, log_offset, received_at, epoch, cell, source, events, body)
ON CONFLICT (partition, log_offset, received_day) DO UPDATE SET stored_at = r.stored_at
WHERE r.tenant = excluded.tenant AND r.received_at = excluded.received_at AND r.cell = excluded.cell
RETURNING 1

-- name: store_traits
-- Last writer by (at, message_id), ties by value, so that any order of the same claims ends the same.
INSERT INTO {home}.trait AS t (tenant, node, name, value, at, message_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[])
ON CONFLICT (tenant, node, name) DO UPDATE SET value = excluded.value, at = excluded.at, message_id = excluded.message_id
WHERE (excluded.at, excluded.message_id, excluded.value) > (t.at, t.message_id, t.value)

-- name: store_dead_letters
-- Dead letters; one of the same log position is the same one again.
INSERT INTO {home}.dead_letter (tenant, partition, log_offset, ordinal, received_at, message_id, reason, detail, payload, stored_at)
SELECT d.tenant, $1::int, d.log_offset, d.ordinal, d.received_at, d.message_id, d.reason, d.detail, d.payload, $2::bigint
FROM unnest($3::text[], $4::bigint[], $5::int[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::bytea[])
    AS d (tenant, log_offset, ordinal, received_at, message_id, reason, detail, payload)
ON CONFLICT DO NOTHING

-- name: store_held
-- Held records; one of the same log position is the same one again.
INSERT INTO {home}.held (tenant, partition, log_offset, received_at, events, record, stored_at)
SELECT h.tenant, $1::int, h.log_offset, h.received_at, h.events, h.record, $2::bigint
FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::bytea[]) AS h (tenant, log_offset, received_at, events, record)
ON CONFLICT DO NOTHING

-- name: store_ledger
-- Adds to the right side of the ledger.
INSERT INTO {home}.ledger AS l (tenant, hour, stored, duplicate, quarantined, held)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (tenant, hour) DO UPDATE SET
    stored = l.stored + excluded.stored, duplicate = l.duplicate + excluded.duplicate,
    quarantined = l.quarantined + excluded.quarantined, held = l.held + excluded.held

-- name: ledger
-- Every tenant-hour of one schema.
SELECT tenant, hour, stored, duplicate, quarantined, held FROM {home}.ledger

-- name: known_nodes
-- The components of some nodes: (tenants, nodes).
SELECT n.tenant, n.node, n.component
FROM unnest($1::text[], $2::text[]) AS asked (tenant, node) JOIN {home}.node n USING (tenant, node)

-- name: lock_tenants
-- Until the transaction ends, nobody else changes the identity graphs of these tenants. Locks are taken in the order given.
SELECT pg_advisory_xact_lock(hashtextextended('dataflow.identity.' || who, 0)) FROM unnest($1::text[]) AS who

-- name: touched_components
-- All members of the components of some nodes: (tenants, nodes).
SELECT m.tenant, m.node, m.component
FROM (
    SELECT DISTINCT n.tenant, n.component
    FROM unnest($1::text[], $2::text[]) AS asked (tenant, node) JOIN {home}.node n USING (tenant, node)
) AS touched JOIN {home}.node m USING (tenant, component)

-- name: store_nodes
-- Nodes in their new components.
INSERT INTO {home}.node (tenant, node, component)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (tenant, node) DO UPDATE SET component = excluded.component

-- name: home
-- The schema of the current tenant.
SELECT home FROM cell.ownership WHERE tenant = $1

-- name: list_events
-- A page, newest first: (tenant, since, until, type, name, anonymous, source, cursor's time, key and day, limit).
SELECT * FROM {home}.event_row
WHERE tenant = $1 AND event_at >= $2 AND event_at < $3
  AND ($4::text IS NULL OR type = $4) AND ($5::text IS NULL OR name = $5)
  AND ($6::text IS NULL OR anonymous_id = $6) AND ($7::text IS NULL OR source = $7)
  AND ($8::bigint IS NULL OR (event_at <= $8 AND (event_at, message_key, received_day) < ($8, $9::bytea, $10::date)))
ORDER BY event_at DESC, message_key DESC, received_day DESC LIMIT $11

-- name: list_events_of_user
-- The same for one user, by that user's index; $12 is the user.
SELECT * FROM {home}.event_row
WHERE tenant = $1 AND user_id = $12 AND event_at >= $2 AND event_at < $3
  AND ($4::text IS NULL OR type = $4) AND ($5::text IS NULL OR name = $5)
  AND ($6::text IS NULL OR anonymous_id = $6) AND ($7::text IS NULL OR source = $7)
  AND ($8::bigint IS NULL OR (event_at <= $8 AND (event_at, message_key, received_day) < ($8, $9::bytea, $10::date)))
ORDER BY event_at DESC, message_key DESC, received_day DESC LIMIT $11

-- name: records
-- Records by their keys: (days, partitions, offsets).
SELECT r.* FROM unnest($1::date[], $2::int[], $3::bigint[]) AS asked (received_day, partition, log_offset)
JOIN {home}.record r USING (received_day, partition, log_offset)

-- name: record_sizes
-- The same, of their bodies the size alone, which is told without reading them: (days, partitions, offsets).
SELECT r.received_day, r.partition, r.log_offset, octet_length(r.body) AS bytes
FROM unnest($1::date[], $2::int[], $3::bigint[]) AS asked (received_day, partition, log_offset)
JOIN {home}.record r USING (received_day, partition, log_offset)

-- name: count_events
-- Events per bucket: (tenant, since, until, type, name, anonymous, source, user, bucket in microseconds).
SELECT event_at - mod(mod(event_at, $9::bigint) + $9::bigint, $9::bigint) AS start, count(*) AS events
FROM {home}.event_row
WHERE tenant = $1 AND event_at >= $2 AND event_at < $3
  AND ($4::text IS NULL OR type = $4) AND ($5::text IS NULL OR name = $5)
  AND ($6::text IS NULL OR anonymous_id = $6) AND ($7::text IS NULL OR source = $7)
  AND ($8::text IS NULL OR user_id = $8)
GROUP BY 1 ORDER BY 1

-- name: get_event
-- One event: (tenant, message key). Were it stored twice, far apart, the first one received. All days are named, so that in a
-- partition without statistics the key's index is believed narrower than the tenant's, which would be read from end to end.
SELECT * FROM {home}.event_row
WHERE tenant = $1 AND message_key = $2 AND received_day BETWEEN '-infinity' AND 'infinity'
ORDER BY received_day LIMIT 1

-- name: members
-- The nodes of the component of a node, none when nobody claimed it: (tenant, node).
SELECT node FROM {home}.node
WHERE tenant = $1 AND component = (SELECT component FROM {home}.node WHERE tenant = $1 AND node = $2)

-- name: traits
-- The traits of some nodes: (tenant, nodes).
SELECT tenant, node, name, value, at, message_id FROM {home}.trait WHERE tenant = $1 AND node = ANY ($2::text[])

-- name: get_dead_letter
-- The latest dead letter of a message id: (tenant, message id).
SELECT partition, log_offset, ordinal, reason FROM {home}.dead_letter
WHERE tenant = $1 AND message_id = $2 ORDER BY received_at DESC, log_offset DESC LIMIT 1

-- name: get_held
-- The latest held records of a tenant: (tenant, limit).
SELECT partition, log_offset, record FROM {home}.held WHERE tenant = $1 ORDER BY received_at DESC, log_offset DESC LIMIT $2

-- name: audit_last
-- The last entry of a chain.
SELECT * FROM cell.audit WHERE chain = $1 ORDER BY seq DESC LIMIT 1

-- name: audit_append
-- Entries of one chain; a sequence number that is taken means that another process writes the same chain.
INSERT INTO cell.audit (chain, seq, at, actor, tenant, action, question, prev_hash, hash)
SELECT $1::text, * FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::bytea[])

-- name: audit_read
-- A stretch of a chain: (chain, after, limit).
SELECT * FROM cell.audit WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT $3

-- name: migrate_lock
-- One migration at a time in this database.
SELECT pg_advisory_xact_lock(7305001)

-- name: migrate_begin
-- Where migrations are recorded; the only thing that is there before the first of them.
CREATE SCHEMA IF NOT EXISTS cell;
CREATE TABLE IF NOT EXISTS cell.schema_version (
    version    int PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: migrate_done
-- What was applied.
SELECT version, checksum FROM cell.schema_version ORDER BY version

-- name: migrate_record
-- One more was applied: (version, name, checksum).
INSERT INTO cell.schema_version (version, name, checksum) VALUES ($1, $2, $3)

-- name: copy_ownership
-- Who owns a tenant here, held still beside others that do: (tenant).
SELECT epoch, state, home FROM cell.ownership WHERE tenant = $1 FOR SHARE

-- name: ownership
-- The same, as it is.
SELECT epoch, state, home FROM cell.ownership WHERE tenant = $1

-- name: old_event_of
-- Whether the tenant has events that hold their own text.
SELECT EXISTS (SELECT FROM {home}.event WHERE tenant = $1)

-- name: keys_of
-- Where what is kept of a tenant lies in a partition, and how large it is: (tenant, partition, first offset, offset behind, limit).
SELECT partition, log_offset, bytes FROM (
    (SELECT partition, log_offset, octet_length(body) + 200 * events AS bytes FROM {home}.record
     WHERE tenant = $1 AND partition = $2 AND log_offset >= $3 AND log_offset < $4 ORDER BY log_offset LIMIT $5)
    UNION ALL
    (SELECT partition, log_offset, octet_length(payload) + 200 FROM {home}.dead_letter
     WHERE tenant = $1 AND partition = $2 AND log_offset >= $3 AND log_offset < $4 ORDER BY log_offset LIMIT $5)
    UNION ALL
    (SELECT partition, log_offset, octet_length(record) FROM {home}.held
     WHERE tenant = $1 AND partition = $2 AND log_offset >= $3 AND log_offset < $4 ORDER BY log_offset LIMIT $5)
) AS found ORDER BY log_offset LIMIT $5

-- name: keys_below_zero
-- The same of what lies in no partition: (tenant, behind this partition and offset, limit).
SELECT partition, log_offset, bytes FROM (
    (SELECT partition, log_offset, octet_length(body) + 200 * events AS bytes FROM {home}.record
     WHERE tenant = $1 AND partition < 0 AND (partition, log_offset) > ($2, $3) ORDER BY partition, log_offset LIMIT $4)
    UNION ALL
    (SELECT partition, log_offset, octet_length(payload) + 200 FROM {home}.dead_letter
     WHERE tenant = $1 AND partition < 0 AND (partition, log_offset) > ($2, $3) ORDER BY partition, log_offset LIMIT $4)
    UNION ALL
    (SELECT partition, log_offset, octet_length(record) FROM {home}.held
     WHERE tenant = $1 AND partition < 0 AND (partition, log_offset) > ($2, $3) ORDER BY partition, log_offset LIMIT $4)
) AS found ORDER BY partition, log_offset LIMIT $4

-- name: records_of
-- A tenant's records by their places: (tenant, partitions, offsets).
SELECT r.* FROM unnest($2::int[], $3::bigint[]) AS asked (partition, log_offset)
JOIN {home}.record r ON r.tenant = $1 AND r.partition = asked.partition AND r.log_offset = asked.log_offset
ORDER BY r.partition, r.log_offset, r.received_day

-- name: rows_of
-- Event rows by their keys: (message keys, days).
SELECT * FROM {home}.event_row WHERE message_key = ANY ($1::bytea[]) AND received_day = ANY ($2::date[]) ORDER BY message_key, received_day

-- name: letters_of
-- A tenant's dead letters by their places: (tenant, partitions, offsets).
SELECT d.* FROM unnest($2::int[], $3::bigint[]) AS asked (partition, log_offset)
JOIN {home}.dead_letter d ON d.tenant = $1 AND d.partition = asked.partition AND d.log_offset = asked.log_offset
ORDER BY d.partition, d.log_offset, d.ordinal

-- name: held_of
-- A tenant's held records by their places: (tenant, partitions, offsets).
SELECT h.* FROM unnest($2::int[], $3::bigint[]) AS asked (partition, log_offset)
JOIN {home}.held h ON h.tenant = $1 AND h.partition = asked.partition AND h.log_offset = asked.log_offset
ORDER BY h.partition, h.log_offset

-- name: marker
-- The oldest transaction that this snapshot may not see: whatever changes from now on is changed by it or a later one.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text

-- name: nodes_after
-- A tenant's nodes in order: (tenant, behind this one, limit, changed by this transaction or later). Ages are counted modulo 2^32: a row that was
-- frozen long ago may count as changed, never the other way round.
SELECT node, component FROM {home}.node WHERE tenant = $1 AND node > $2 AND ($4::text IS NULL OR age(xmin) <= age($4::text::xid8::xid))
ORDER BY node LIMIT $3

-- name: traits_after
-- A tenant's traits in order: (tenant, behind this node and name, limit, as of nodes).
SELECT tenant, node, name, value, at, message_id FROM {home}.trait
WHERE tenant = $1 AND (node, name) > ($2, $3) AND ($5::text IS NULL OR age(xmin) <= age($5::text::xid8::xid)) ORDER BY node, name LIMIT $4

-- name: ledger_of
-- A tenant's lines: (tenant).
SELECT hour, stored, duplicate, quarantined, held FROM {home}.ledger WHERE tenant = $1 ORDER BY hour

-- name: ledger_before
-- Those of cells that it lived in before: (tenant).
SELECT cell, hour, stored, duplicate, quarantined, held FROM cell.ledger_before WHERE tenant = $1 ORDER BY cell, hour

-- name: events_kept
-- About how many events are kept of a tenant: (tenant).
SELECT coalesce((SELECT sum(stored) FROM {home}.ledger WHERE tenant = $1), 0)
    + coalesce((SELECT sum(stored) FROM cell.ledger_before WHERE tenant = $1), 0)

-- name: keep_ledger
-- Lines of another cell, as it tells them last: (tenant, cells, hours, counts).
INSERT INTO cell.ledger_before (tenant, cell, hour, stored, duplicate, quarantined, held)
SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
ON CONFLICT (tenant, cell, hour) DO UPDATE SET
    stored = excluded.stored, duplicate = excluded.duplicate, quarantined = excluded.quarantined, held = excluded.held

-- name: begin_copy
-- A copy from a cell, for a move; one for another move begins anew: (tenant, origin, move, cursor).
INSERT INTO cell.copy AS c (tenant, origin, move, cursor) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant, origin) DO UPDATE SET move = excluded.move, seq = 0, cursor = excluded.cursor,
    events = 0, events_sum = 0, records = 0, records_sum = 0, others = 0, others_sum = 0
WHERE c.move <> excluded.move

-- name: copy
-- How far it is: (tenant, origin).
SELECT seq, cursor, events, events_sum, records, records_sum, others, others_sum FROM cell.copy WHERE tenant = $1 AND origin = $2

-- name: lock_copy
-- The same, held still.
SELECT move, seq, cursor, events, events_sum, records, records_sum, others, others_sum FROM cell.copy
WHERE tenant = $1 AND origin = $2 FOR UPDATE

-- name: lock_copy_of
-- Whether a copy was begun for a move, held still: (tenant, move).
SELECT seq FROM cell.copy WHERE tenant = $1 AND move = $2 ORDER BY origin LIMIT 1 FOR UPDATE

-- name: step_copy
-- What a part added: (tenant, origin, cursor, counts and sums).
UPDATE cell.copy SET seq = seq + 1, cursor = $3, events = events + $4, events_sum = events_sum + $5, records = records + $6,
    records_sum = records_sum + $7, others = others + $8, others_sum = others_sum + $9
WHERE tenant = $1 AND origin = $2

-- name: keep_letters
-- Dead letters at the places that they are given: (tenant, and a list of each column).
INSERT INTO {home}.dead_letter (tenant, partition, log_offset, ordinal, received_at, message_id, reason, detail, payload, stored_at)
SELECT $1, * FROM unnest($2::int[], $3::bigint[], $4::int[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::bigint[])
ON CONFLICT DO NOTHING

-- name: keep_held
-- Held records at the places that they are given: (tenant, and a list of each column).
INSERT INTO {home}.held (tenant, partition, log_offset, received_at, events, record, stored_at)
SELECT $1, * FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::int[], $6::bytea[], $7::bigint[])
ON CONFLICT DO NOTHING

-- name: days_of
-- The days of which a tenant has records: (tenant).
SELECT DISTINCT received_day FROM {home}.record WHERE tenant = $1 ORDER BY 1

-- name: digest_day
-- Count and sum of a tenant's events of a day that lie before some offsets, or anywhere below zero; where in which log a record lies is
-- not in it, but its number in it is: (tenant, day, partitions, offsets behind, whether of all).
SELECT count(*) AS counted, coalesce(sum(hash_record_extended(
    (e.message_key, e.received_day, e.event_at, e.log_offset, e.ordinal, e.content_hash, e.type, e.name, e.user_id, e.anonymous_id,
     e.group_id, e.source), 0)), 0) AS summed
FROM {home}.event_row e LEFT JOIN unnest($3::int[], $4::bigint[]) AS until (partition, behind) USING (partition)
WHERE e.tenant = $1 AND e.received_day = $2 AND ($5 OR e.partition < 0 OR e.log_offset < until.behind)

-- name: digest_rows_at
-- The same of the events of some records, which name them, since no index leads to its rows: (tenant, message keys, days, partitions, offsets).
SELECT count(*) AS counted, coalesce(sum(hash_record_extended(
    (e.message_key, e.received_day, e.event_at, e.log_offset, e.ordinal, e.content_hash, e.type, e.name, e.user_id, e.anonymous_id,
     e.group_id, e.source), 0)), 0) AS summed
FROM {home}.event_row e JOIN unnest($4::int[], $5::bigint[]) AS asked (partition, log_offset) USING (partition, log_offset)
WHERE e.tenant = $1 AND e.message_key = ANY ($2::bytea[]) AND e.received_day = ANY ($3::date[])

-- name: digest_records
-- Count and sum of a tenant's records of a day: as of events.
SELECT count(*) AS counted, coalesce(sum(hash_record_extended(
    (r.received_day, r.log_offset, r.received_at, r.stored_at, r.epoch, r.cell, r.source, r.body), 0)), 0) AS summed
FROM {home}.record r LEFT JOIN unnest($3::int[], $4::bigint[]) AS until (partition, behind) USING (partition)
WHERE r.tenant = $1 AND r.received_day = $2 AND ($5 OR r.partition < 0 OR r.log_offset < until.behind)

-- name: digest_records_at
-- The same of those at some places: (tenant, partitions, offsets).
SELECT count(*) AS counted, coalesce(sum(hash_record_extended(
    (r.received_day, r.log_offset, r.received_at, r.stored_at, r.epoch, r.cell, r.source, r.body), 0)), 0) AS summed
FROM unnest($2::int[], $3::bigint[]) AS asked (partition, log_offset)
JOIN {home}.record r ON r.tenant = $1 AND r.partition = asked.partition AND r.log_offset = asked.log_offset

-- name: digest_others
-- Count and sum of a tenant's dead letters and held records: (tenant, partitions, offsets behind, whether of all).
SELECT count(*) AS counted, coalesce(sum(hash), 0) AS summed FROM (
    SELECT d.partition, d.log_offset, hash_record_extended(
        (d.log_offset, d.ordinal, d.received_at, d.message_id, d.reason, d.detail, d.payload, d.stored_at), 1) AS hash
    FROM {home}.dead_letter d WHERE d.tenant = $1
    UNION ALL
    SELECT h.partition, h.log_offset, hash_record_extended((h.log_offset, h.received_at, h.events, h.record, h.stored_at), 2)
    FROM {home}.held h WHERE h.tenant = $1
) AS found LEFT JOIN unnest($2::int[], $3::bigint[]) AS until (partition, behind) USING (partition)
WHERE $4 OR found.partition < 0 OR found.log_offset < until.behind

-- name: digest_others_at
-- The same of those at some places: (tenant, partitions, offsets).
SELECT count(*) AS counted, coalesce(sum(hash), 0) AS summed FROM (
    SELECT hash_record_extended(
        (d.log_offset, d.ordinal, d.received_at, d.message_id, d.reason, d.detail, d.payload, d.stored_at), 1) AS hash
    FROM unnest($2::int[], $3::bigint[]) AS asked (partition, log_offset)
    JOIN {home}.dead_letter d ON d.tenant = $1 AND d.partition = asked.partition AND d.log_offset = asked.log_offset
    UNION ALL
    SELECT hash_record_extended((h.log_offset, h.received_at, h.events, h.record, h.stored_at), 2)
    FROM unnest($2::int[], $3::bigint[]) AS asked (partition, log_offset)
    JOIN {home}.held h ON h.tenant = $1 AND h.partition = asked.partition AND h.log_offset = asked.log_offset
) AS found

-- name: digest_nodes
-- Count and sum of a tenant's identities: (tenant).
SELECT count(*) AS counted, coalesce(sum(hash_record_extended((node, component), 3)), 0) AS summed FROM {home}.node WHERE tenant = $1

-- name: digest_traits
-- Count and sum of a tenant's traits: (tenant).
SELECT count(*) AS counted, coalesce(sum(hash_record_extended((node, name, value, at, message_id), 4)), 0) AS summed
FROM {home}.trait WHERE tenant = $1

-- name: erase_rows
-- Some of a tenant's event rows: (tenant, limit). The policy lets only those of a released tenant go.
DELETE FROM {home}.event_row e USING (
    SELECT message_key, received_day FROM {home}.event_row WHERE tenant = $1 LIMIT $2
) AS few WHERE e.tenant = $1 AND e.message_key = few.message_key AND e.received_day = few.received_day

-- name: erase_records
-- Some of a tenant's records: (tenant, limit).
DELETE FROM {home}.record r USING (
    SELECT partition, log_offset, received_day FROM {home}.record WHERE tenant = $1 LIMIT $2
) AS few WHERE r.tenant = $1 AND r.partition = few.partition AND r.log_offset = few.log_offset AND r.received_day = few.received_day

-- name: erase_nodes
-- Some of a tenant's identities: (tenant, limit).
DELETE FROM {home}.node WHERE tenant = $1 AND node IN (SELECT node FROM {home}.node WHERE tenant = $1 LIMIT $2)

-- name: erase_traits
-- Some of a tenant's traits: (tenant, limit).
DELETE FROM {home}.trait WHERE tenant = $1 AND (node, name) IN (SELECT node, name FROM {home}.trait WHERE tenant = $1 LIMIT $2)

-- name: erase_letters
-- Some of a tenant's dead letters: (tenant, limit).
DELETE FROM {home}.dead_letter WHERE tenant = $1
    AND (partition, log_offset, ordinal) IN (SELECT partition, log_offset, ordinal FROM {home}.dead_letter WHERE tenant = $1 LIMIT $2)

-- name: erase_held
-- Some of a tenant's held records: (tenant, limit).
DELETE FROM {home}.held WHERE tenant = $1
    AND (partition, log_offset) IN (SELECT partition, log_offset FROM {home}.held WHERE tenant = $1 LIMIT $2)

-- name: erase_ledger_before
-- A tenant's ledger of other cells: (tenant).
DELETE FROM cell.ledger_before WHERE tenant = $1

-- name: erase_copies
-- How far its copies are: (tenant).
DELETE FROM cell.copy WHERE tenant = $1

-- name: anything_left
-- Whether any table holds anything of a tenant: (tenant).
SELECT EXISTS (SELECT FROM {home}.event_row WHERE tenant = $1) OR EXISTS (SELECT FROM {home}.record WHERE tenant = $1)
    OR EXISTS (SELECT FROM {home}.node WHERE tenant = $1) OR EXISTS (SELECT FROM {home}.trait WHERE tenant = $1)
    OR EXISTS (SELECT FROM {home}.dead_letter WHERE tenant = $1) OR EXISTS (SELECT FROM {home}.held WHERE tenant = $1)
    OR EXISTS (SELECT FROM {home}.event WHERE tenant = $1)
