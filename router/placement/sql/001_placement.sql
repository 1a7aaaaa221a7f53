-- The directory of one residency zone (or of several, in tests): who lives where. No personal data, no event, no key in the clear.
CREATE SCHEMA IF NOT EXISTS placement;

-- One row per zone. Its lock orders all mutations of the zone, so that revisions become visible in order and without gaps.
CREATE TABLE placement.zone (
    name text PRIMARY KEY,
    revision bigint NOT NULL DEFAULT 0,
    topology json
);

CREATE TABLE placement.tenant (
    zone text NOT NULL REFERENCES placement.zone,
    name text NOT NULL,
    cell text NOT NULL,
    epoch bigint NOT NULL CHECK (epoch > 0),
    suspended boolean NOT NULL DEFAULT false,
    plan json NOT NULL,
    dedicated_schema boolean NOT NULL DEFAULT false,
    pin text,
    revision bigint NOT NULL, -- of its last change
    PRIMARY KEY (zone, name)
);

CREATE TABLE placement.source (
    zone text NOT NULL,
    tenant text NOT NULL,
    name text NOT NULL,
    slug text NOT NULL UNIQUE,
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (zone, tenant, name),
    FOREIGN KEY (zone, tenant) REFERENCES placement.tenant
);

-- A write key names its source; a read key has none.
CREATE TABLE placement.credential (
    hash text PRIMARY KEY CHECK (hash ~ '^[0-9a-f]{64}$'),
    zone text NOT NULL,
    tenant text NOT NULL,
    source text,
    revoked boolean NOT NULL DEFAULT false,
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    FOREIGN KEY (zone, tenant) REFERENCES placement.tenant,
    FOREIGN KEY (zone, tenant, source) REFERENCES placement.source
);
CREATE INDEX credential_tenant ON placement.credential (zone, tenant);

-- What followers replay: the tenant as it was right after the step to `revision`; NULL when the topology changed.
CREATE TABLE placement.change (
    zone text NOT NULL REFERENCES placement.zone,
    revision bigint NOT NULL,
    tenant json,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone, revision)
);
