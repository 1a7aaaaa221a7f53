-- Events are kept in the bodies of their log records; `event_row` is what they are found by. The table `event` stays for the
-- previous code, which may still be applying; what is in it is moved over by cells.storage.postgres_convert.

-- Makes the tables of records and event rows in the tenant schema `name`.
CREATE FUNCTION cell.make_records(name text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('search_path', format('%I, pg_catalog, pg_temp', name), true);

    -- A log record as it was applied: what its events have in common, and its body as the log had it, compressed by the codec.
    CREATE TABLE record (
        tenant       text COLLATE "C" NOT NULL,
        received_day date   NOT NULL,
        partition    int    NOT NULL,
        log_offset   bigint NOT NULL,
        received_at  bigint NOT NULL,
        stored_at    bigint NOT NULL,
        epoch        bigint NOT NULL,
        events       int    NOT NULL,
        cell         text   NOT NULL,
        source       text   NOT NULL,
        body         bytea  NOT NULL,
        PRIMARY KEY (partition, log_offset, received_day)
    ) PARTITION BY RANGE (received_day);
    ALTER TABLE record ALTER COLUMN body SET STORAGE EXTERNAL;

    -- What one event is found by. The message key names tenant and message id in 16 bytes (kernel.ids.message_keys), so that the
    -- index which answers both rules of dedup is narrow; (partition, log_offset) lead to the record, `ordinal` into its body.
    CREATE TABLE event_row (
        tenant       text COLLATE "C" NOT NULL,
        message_key  bytea  NOT NULL,
        received_day date   NOT NULL,
        event_at     bigint NOT NULL,
        partition    int    NOT NULL,
        log_offset   bigint NOT NULL,
        ordinal      int    NOT NULL,
        content_hash bigint NOT NULL,
        type         text   NOT NULL,
        name         text,
        user_id      text,
        anonymous_id text,
        group_id     text,
        source       text   NOT NULL,
        PRIMARY KEY (message_key, received_day)
    ) PARTITION BY RANGE (received_day);
    CREATE INDEX event_row_time ON event_row (tenant, event_at);
    CREATE INDEX event_row_user ON event_row (tenant, user_id, event_at) WHERE user_id IS NOT NULL;

    PERFORM cell.isolate(format('%I.record', name));
    PERFORM cell.isolate(format('%I.event_row', name));
    -- What an event is found by never changes.
    EXECUTE format('REVOKE UPDATE ON %I.event_row FROM df_apply', name);
    -- For moving events away. The right ends with the table; what they are moved to, nobody may remove.
    EXECUTE format('GRANT DELETE ON %I.event TO df_apply', name);
END $$;

-- Makes the partition `relation`_<day> of a relation. One of event rows takes COPY, which row-level security refuses: so it has none, and the
-- apply role may add to it and nothing else. Nobody is granted to read any partition, since that would bypass its parent's policies.
CREATE FUNCTION cell.make_leaf(name text, relation text, day date) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaf_name text := relation || '_' || to_char(day, 'YYYYMMDD');
    leaf text := format('%I.%I', name, leaf_name);
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE relnamespace = name::regnamespace AND relname = leaf_name) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %s (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', leaf, name, relation);
    IF relation = 'event_row' THEN
        EXECUTE format('GRANT INSERT ON %s TO df_apply', leaf);
    ELSE
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', leaf);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', leaf);
    END IF;
    EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', name, relation, leaf, day, day + 1);
END $$;

-- As before, but that a day has a partition of every relation. The caller holds no other lock, since it calls in a transaction of its own.
CREATE OR REPLACE FUNCTION cell.make_day(name text, day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name !~ '^tenants$|^tenant_' THEN
        RAISE EXCEPTION 'not a tenant schema: %', name USING ERRCODE = 'invalid_schema_name';
    END IF;
    IF to_regclass(format('%I.%I', name, 'event_row_' || to_char(day, 'YYYYMMDD'))) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('dataflow.day.' || name, 0));
    PERFORM cell.make_leaf(name, 'event', day);
    PERFORM cell.make_leaf(name, 'record', day);
    PERFORM cell.make_leaf(name, 'event_row', day);
END $$;

-- As before, with the relations of this migration.
ALTER FUNCTION cell.make_schema(text) RENAME TO make_schema_1;
CREATE FUNCTION cell.make_schema(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM cell.make_schema_1(name);
    IF to_regclass(format('%I.event_row', name)) IS NULL THEN
        PERFORM cell.make_records(name);
    END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cell FROM PUBLIC;

DO $$
DECLARE
    home record;
BEGIN
    FOR home IN SELECT nspname AS name FROM pg_namespace WHERE nspname = 'tenants' OR starts_with(nspname, 'tenant_') LOOP
        PERFORM cell.make_records(home.name);
    END LOOP;
END $$;
