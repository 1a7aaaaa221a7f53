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

-- name: keep_rows
-- Event rows, in key order as an apply stores them; answers with the keys that nobody had stored.
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
RETURNING message_key

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

-- name: ownerships
-- All ownership rows.
SELECT tenant, epoch, state, home FROM cell.ownership

-- name: own
-- Records what the directory says; an ownership only grows. The condition repeats cells.storage.own, for races.
INSERT INTO cell.ownership AS o (tenant, epoch, state)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) AS new (tenant, epoch, state) ORDER BY new.tenant
ON CONFLICT (tenant) DO UPDATE SET epoch = excluded.epoch, state = excluded.state
WHERE excluded.epoch > o.epoch OR (excluded.epoch = o.epoch AND excluded.state = 'released')

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
