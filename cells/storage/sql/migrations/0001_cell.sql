-- What a cell knows of itself: consumer positions, ownership of tenants, the audit chain.
-- Runs as df_owner. An instant is a bigint of microseconds since 1970 (kernel.clock.Micros): exact over years 1 to 9999.

REVOKE ALL ON SCHEMA cell FROM PUBLIC;
GRANT USAGE ON SCHEMA cell TO df_apply, df_query, df_audit;

-- The only authoritative position of each log partition, advanced by compare-and-set in the apply transaction.
CREATE TABLE cell.position (
    partition   int    PRIMARY KEY,
    next_offset bigint NOT NULL CHECK (next_offset >= 0)
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON cell.position TO df_apply;

-- Door two: whose applies are taken. `home` is the schema that keeps the tenant's rows; it never changes.
CREATE TABLE cell.ownership (
    tenant text COLLATE "C" PRIMARY KEY,
    epoch  bigint NOT NULL,
    state  text   NOT NULL CHECK (state IN ('owner', 'released')),
    home   text   NOT NULL DEFAULT 'tenants'
);
ALTER TABLE cell.ownership ENABLE ROW LEVEL SECURITY;
ALTER TABLE cell.ownership FORCE ROW LEVEL SECURITY;
CREATE POLICY writer ON cell.ownership TO df_apply USING (true);
CREATE POLICY reader ON cell.ownership FOR SELECT TO df_query USING (tenant = current_setting('dataflow.tenant', true));
GRANT SELECT, INSERT, UPDATE ON cell.ownership TO df_apply;
GRANT SELECT (tenant, home) ON cell.ownership TO df_query;

-- Who read what. One chain per cell process; `hash` covers the entry and the hash before it. Rows are only ever added.
CREATE TABLE cell.audit (
    chain     text   COLLATE "C" NOT NULL,
    seq       bigint NOT NULL,
    at        bigint NOT NULL,
    actor     text   NOT NULL,
    tenant    text   NOT NULL,
    action    text   NOT NULL,
    question  text   NOT NULL,
    prev_hash bytea  NOT NULL,
    hash      bytea  NOT NULL,
    PRIMARY KEY (chain, seq)
);
GRANT SELECT, INSERT ON cell.audit TO df_audit;
