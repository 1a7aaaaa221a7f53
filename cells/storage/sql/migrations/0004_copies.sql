-- Copies of tenants from and to other cells (cells/storage/copies.py). The previous code goes on beside it: it reads and writes none of this.

-- How far each copy is. A copy that is not gone on with stays as it is.
CREATE TABLE cell.copy (
    tenant      text COLLATE "C" NOT NULL,
    origin      text COLLATE "C" NOT NULL,
    move        text   NOT NULL,
    seq         bigint NOT NULL DEFAULT 0,
    cursor      bytea,
    events      bigint NOT NULL DEFAULT 0,
    events_sum  numeric NOT NULL DEFAULT 0,
    records     bigint NOT NULL DEFAULT 0,
    records_sum numeric NOT NULL DEFAULT 0,
    others      bigint NOT NULL DEFAULT 0,
    others_sum  numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, origin)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON cell.copy TO df_apply;

-- The right side of the ledgers of cells that a tenant lived in before.
CREATE TABLE cell.ledger_before (
    tenant      text COLLATE "C" NOT NULL,
    cell        text COLLATE "C" NOT NULL,
    hour        bigint NOT NULL,
    stored      bigint NOT NULL,
    duplicate   bigint NOT NULL,
    quarantined bigint NOT NULL,
    held        bigint NOT NULL,
    PRIMARY KEY (tenant, cell, hour)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON cell.ledger_before TO df_apply;

-- What makes a tenant schema ready for copies: a tenant's records are found in the order of the log, and what is kept of a tenant may be
-- removed by the apply role, but only while the tenant lives in another cell: that is a policy, not a promise.
CREATE FUNCTION cell.make_copyable(name text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation text;
BEGIN
    IF to_regclass(format('%I.record_tenant', name)) IS NOT NULL THEN
        RETURN;
    END IF;
    -- In the order in which an apply locks, so that the previous code, which goes on applying, waits and nobody is a victim.
    FOREACH relation IN ARRAY ARRAY['event_row', 'record', 'dead_letter', 'held', 'trait', 'node'] LOOP
        EXECUTE format(
            'CREATE POLICY eraser ON %I.%I AS RESTRICTIVE FOR DELETE TO df_apply USING (EXISTS ('
            'SELECT FROM cell.ownership o WHERE o.tenant = %I.tenant AND o.state = ''released''))', name, relation, relation);
        EXECUTE format('GRANT DELETE ON %I.%I TO df_apply', name, relation);
    END LOOP;
    EXECUTE format('CREATE INDEX record_tenant ON %I.record (tenant, partition, log_offset)', name);
END $$;

-- As before, with what this migration adds.
ALTER FUNCTION cell.make_schema(text) RENAME TO make_schema_2;
CREATE FUNCTION cell.make_schema(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM cell.make_schema_2(name);
    PERFORM cell.make_copyable(name);
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cell FROM PUBLIC;

DO $$
DECLARE
    home record;
BEGIN
    FOR home IN SELECT nspname AS name FROM pg_namespace WHERE nspname = 'tenants' OR starts_with(nspname, 'tenant_') LOOP
        PERFORM cell.make_copyable(home.name);
    END LOOP;
END $$;
