-- Every statement of the directory's store, by name. Loaded by router/placement/postgres.py.

-- name: one_at_a_time
-- Migrations of one database wait for each other.
SELECT pg_advisory_xact_lock($1)

-- name: make_schema
-- Where everything is, the record of migrations included.
CREATE SCHEMA IF NOT EXISTS placement

-- name: make_migrations
-- The record of migrations.
CREATE TABLE IF NOT EXISTS placement.migration (name text PRIMARY KEY, applied_at timestamptz)

-- name: migrations
-- The files that this database has seen.
SELECT name FROM placement.migration

-- name: migrated
-- Records a file.
INSERT INTO placement.migration VALUES ($1, now())

-- name: make_zone
-- The zone's row, which every mutation locks.
INSERT INTO placement.zone (name) VALUES ($1) ON CONFLICT DO NOTHING

-- name: make_ballot
-- What the zone's site must not forget: nothing yet.
INSERT INTO placement.ballot (zone) VALUES ($1) ON CONFLICT DO NOTHING

-- name: zone
-- Where the zone is, and its topology.
SELECT revision, number, term, topology FROM placement.zone WHERE name = $1

-- name: lock_zone
-- The same, held still: no other mutation of the zone comes between.
SELECT revision, number, term, topology FROM placement.zone WHERE name = $1 FOR UPDATE

-- name: revision
-- The zone's revision.
SELECT revision FROM placement.zone WHERE name = $1

-- name: step
-- Where the zone is from now on: (zone, revision, number, term). Its row is locked already.
UPDATE placement.zone SET revision = $2, number = $3, term = $4 WHERE name = $1

-- name: homeless
-- A tenant whose home or standby is none of these cells, or that is on its way from or to one that is not: (zone, cells).
SELECT min(name) FROM placement.tenant WHERE zone = $1 AND (cell <> ALL ($2) OR standby <> ALL ($2) OR (
    move ->> 'state' NOT IN ('settled', 'aborted')
    AND (move ->> 'source' <> ALL ($2) OR move ->> 'target' <> ALL ($2) OR move ->> 'standby' <> ALL ($2))))

-- name: set_topology
-- The zone's cells, and every zone's endpoint.
UPDATE placement.zone SET topology = $2 WHERE name = $1

-- name: tenants
-- All tenants of the zone, or one.
SELECT name, cell, epoch, suspended, plan, dedicated_schema, demand, pin, pin_reason, pin_expires_at, revision, fenced, move,
    standby
FROM placement.tenant WHERE zone = $1 AND ($2::text IS NULL OR name = $2) ORDER BY name

-- name: sources
-- The sources of all tenants, or of one, in the order of their making.
SELECT tenant, name, slug FROM placement.source WHERE zone = $1 AND ($2::text IS NULL OR tenant = $2) ORDER BY ordinal

-- name: credentials
-- The keys of all tenants, or of one, in the order of their making.
SELECT tenant, source, hash, revoked FROM placement.credential WHERE zone = $1 AND ($2::text IS NULL OR tenant = $2) ORDER BY ordinal

-- name: put_tenant
-- A tenant without its sources and keys, whether it is new or not.
INSERT INTO placement.tenant
    (zone, name, cell, epoch, suspended, plan, dedicated_schema, demand, pin, pin_reason, pin_expires_at, revision, fenced, move,
    standby)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (zone, name) DO UPDATE SET cell = $3, epoch = $4, suspended = $5, plan = $6, dedicated_schema = $7, demand = $8,
    pin = $9, pin_reason = $10, pin_expires_at = $11, revision = $12, fenced = $13, move = $14,
    standby = $15

-- name: loads
-- What the tenants of each cell, and those on their way to it, are expected to send, one of them left out: (zone, tenant, states).
SELECT cell, sum(demand) AS demand FROM (
    SELECT cell, demand, name FROM placement.tenant WHERE zone = $1
    UNION ALL
    SELECT move ->> 'target', demand, name FROM placement.tenant WHERE zone = $1 AND move ->> 'state' = ANY ($3::text[])
) AS taken WHERE $2::text IS NULL OR name <> $2 GROUP BY cell

-- name: moving
-- The moves that are under way, in the order in which they began. The condition is that of the index.
SELECT name, move FROM placement.tenant WHERE zone = $1 AND move ->> 'state' NOT IN ('settled', 'aborted')
ORDER BY (move ->> 'started_at')::bigint, name

-- name: add_source
-- A source without keys.
INSERT INTO placement.source (zone, tenant, name, slug) VALUES ($1, $2, $3, $4)

-- name: add_key
-- A key of a source, or a read key, which has none.
INSERT INTO placement.credential (hash, zone, tenant, source, revoked) VALUES ($1, $2, $3, $4, $5)

-- name: owner
-- Whose key it is.
SELECT tenant FROM placement.credential WHERE zone = $1 AND hash = $2

-- name: revoke
-- Marks a key, for ever.
UPDATE placement.credential SET revoked = true WHERE zone = $1 AND hash = $2

-- name: log_change
-- What the tenant was right after the step; none when the topology changed.
INSERT INTO placement.change (zone, revision, tenant) VALUES ($1, $2, $3)

-- name: trim_changes
-- Followers that are further behind get the whole table.
DELETE FROM placement.change WHERE zone = $1 AND revision <= $2

-- name: changes
-- The next steps after a revision.
SELECT revision, tenant FROM placement.change WHERE zone = $1 AND revision > $2 ORDER BY revision LIMIT $3

-- name: request
-- What was answered to a request.
SELECT fingerprint, at, revision, tenant FROM placement.request WHERE zone = $1 AND id = $2

-- name: add_request
-- Keeps an answer.
INSERT INTO placement.request (zone, id, fingerprint, at, revision, tenant) VALUES ($1, $2, $3, $4, $5, $6)

-- name: trim_requests
-- Answers that are too old to be given again.
DELETE FROM placement.request WHERE zone = $1 AND at < $2

-- name: audit_head
-- The end of the audit chain.
SELECT seq, hash FROM placement.audit WHERE zone = $1 ORDER BY seq DESC LIMIT 1

-- name: add_entry
-- One more deed.
INSERT INTO placement.audit (zone, seq, at, actor, request_id, action, tenant, revision, what, prev_hash, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: audit
-- The next deeds after a number.
SELECT seq, at, actor, request_id, action, tenant, revision, what, prev_hash, hash FROM placement.audit
WHERE zone = $1 AND seq > $2 ORDER BY seq LIMIT $3

-- name: ballot
-- What a site must not forget, and what it holds.
SELECT term, voted_for, last_term, last_number, held FROM placement.ballot WHERE zone = $1

-- name: promise
-- Keeps a ballot, unless there is a newer one: a term, a vote and what is held are never taken back.
UPDATE placement.ballot SET term = $2, voted_for = $3, last_term = $4, last_number = $5
WHERE zone = $1 AND (last_term, last_number) <= ($4, $5) AND (term < $2 OR (term = $2 AND voted_for IN ('', $3)))

-- name: hold
-- Keeps a ballot and the entries up to its last place. Never back, as above.
UPDATE placement.ballot SET term = $2, voted_for = $3, last_term = $4, last_number = $5, held = $6
WHERE zone = $1 AND (last_term, last_number) <= ($4, $5) AND (term < $2 OR (term = $2 AND voted_for IN ('', $3)))

-- name: number
-- Numbers a zone that was changed without numbers.
UPDATE placement.zone SET number = 1 WHERE name = $1 AND number = 0 AND revision > 0

-- name: restate
-- A later leader had the newest settled entry agreed on again: (zone, term, number).
UPDATE placement.zone SET term = $2 WHERE name = $1 AND number = $3 AND term < $2

-- name: log_entry
-- What another site may ask for: (zone, number, term, body).
INSERT INTO placement.entry (zone, number, term, body) VALUES ($1, $2, $3, $4)

-- name: trim_entries
-- Sites that are further behind get a copy.
DELETE FROM placement.entry WHERE zone = $1 AND number <= $2

-- name: entries
-- The next entries after a number.
SELECT number, term, body FROM placement.entry WHERE zone = $1 AND number > $2 ORDER BY number LIMIT $3

-- name: requests
-- All answers that are kept.
SELECT id, fingerprint, at, revision, tenant FROM placement.request WHERE zone = $1 ORDER BY at, id

-- name: forget_keys
-- Makes room for a copy.
DELETE FROM placement.credential WHERE zone = $1

-- name: forget_sources
-- Makes room for a copy.
DELETE FROM placement.source WHERE zone = $1

-- name: forget_tenants
-- Makes room for a copy.
DELETE FROM placement.tenant WHERE zone = $1

-- name: forget_changes
-- Followers get the whole table.
DELETE FROM placement.change WHERE zone = $1

-- name: forget_requests
-- Makes room for a copy.
DELETE FROM placement.request WHERE zone = $1

-- name: forget_audit
-- Makes room for a copy.
DELETE FROM placement.audit WHERE zone = $1

-- name: forget_entries
-- Makes room for a copy.
DELETE FROM placement.entry WHERE zone = $1
