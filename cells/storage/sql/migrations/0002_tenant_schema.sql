-- The layout of a tenant schema, used by the shared one (`tenants`) and by each dedicated one (`tenant_<name>`).
-- The functions run as df_owner, so that the apply role may ask for a schema or a day without owning anything. Nobody is
-- granted a partition: a granted partition bypasses its parent's policies. Partitions deny by themselves as well.

-- Gives `relation` the two policies: the apply role writes any tenant, the query role sees the current tenant only.
CREATE FUNCTION cell.isolate(relation text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', relation);
    EXECUTE format('CREATE POLICY writer ON %s TO df_apply USING (true) WITH CHECK (true)', relation);
    EXECUTE format('CREATE POLICY reader ON %s FOR SELECT TO df_query USING (tenant = current_setting(''dataflow.tenant'', true))', relation);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %s TO df_apply', relation);
    EXECUTE format('GRANT SELECT ON %s TO df_query', relation);
END $$;

-- Makes a tenant schema and everything in it; one that exists already is left alone.
CREATE FUNCTION cell.make_schema(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation text;
BEGIN
    IF name !~ '^(tenants|tenant_[a-z][a-z0-9_]*)$' OR length(name) > 63 THEN
        RAISE EXCEPTION 'not a tenant schema: %', name USING ERRCODE = 'invalid_schema_name';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('dataflow.schema', 0));
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = name) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE SCHEMA %I', name);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO df_apply, df_query', name);
    PERFORM set_config('search_path', format('%I, pg_catalog, pg_temp', name), true);

    -- One row per event. Columns are the promoted fields; payload is the client's JSON text, byte for byte. The primary key's
    -- index answers both rules of dedup: a message id is looked up in the partitions of the days around its own.
    CREATE TABLE event (
        tenant       text COLLATE "C" NOT NULL,
        message_id   text COLLATE "C" NOT NULL,
        received_day date   NOT NULL,
        received_at  bigint NOT NULL,
        event_at     bigint NOT NULL,
        stored_at    bigint NOT NULL,
        epoch        bigint NOT NULL,
        log_offset   bigint NOT NULL,
        content_hash bigint NOT NULL,
        partition    int    NOT NULL,
        ordinal      int    NOT NULL,
        type         text   NOT NULL,
        name         text,
        user_id      text,
        anonymous_id text,
        group_id     text,
        source       text   NOT NULL,
        cell         text   NOT NULL,
        payload      json   NOT NULL,
        PRIMARY KEY (tenant, message_id, received_day)
    ) PARTITION BY RANGE (received_day);
    CREATE INDEX event_time ON event (tenant, event_at, message_id);
    CREATE INDEX event_user ON event (tenant, user_id, event_at) WHERE user_id IS NOT NULL;

    -- The identity graph: `component` is the smallest node that the node is known to be one person with.
    CREATE TABLE node (
        tenant    text COLLATE "C" NOT NULL,
        node      text COLLATE "C" NOT NULL,
        component text COLLATE "C" NOT NULL,
        PRIMARY KEY (tenant, node)
    );
    CREATE INDEX node_component ON node (tenant, component);

    -- The last value of each trait of each node.
    CREATE TABLE trait (
        tenant     text COLLATE "C" NOT NULL,
        node       text COLLATE "C" NOT NULL,
        name       text COLLATE "C" NOT NULL,
        value      text COLLATE "C" NOT NULL,
        at         bigint NOT NULL,
        message_id text COLLATE "C" NOT NULL,
        PRIMARY KEY (tenant, node, name)
    ) WITH (fillfactor = 80);

    -- Events that processing could not take.
    CREATE TABLE dead_letter (
        tenant      text COLLATE "C" NOT NULL,
        partition   int    NOT NULL,
        log_offset  bigint NOT NULL,
        ordinal     int    NOT NULL,
        received_at bigint NOT NULL,
        message_id  text COLLATE "C" NOT NULL,
        reason      text   NOT NULL,
        detail      text   NOT NULL,
        payload     bytea  NOT NULL,
        stored_at   bigint NOT NULL,
        PRIMARY KEY (tenant, partition, log_offset, ordinal)
    );
    CREATE INDEX dead_letter_message ON dead_letter (tenant, message_id);

    -- Whole log records that wait for a claim.
    CREATE TABLE held (
        tenant      text COLLATE "C" NOT NULL,
        partition   int    NOT NULL,
        log_offset  bigint NOT NULL,
        received_at bigint NOT NULL,
        events      int    NOT NULL,
        record      bytea  NOT NULL,
        stored_at   bigint NOT NULL,
        PRIMARY KEY (tenant, partition, log_offset)
    );

    -- The right side of the ledger: events per tenant and received hour.
    CREATE TABLE ledger (
        tenant      text COLLATE "C" NOT NULL,
        hour        bigint NOT NULL,
        stored      bigint NOT NULL,
        duplicate   bigint NOT NULL,
        quarantined bigint NOT NULL,
        held        bigint NOT NULL,
        PRIMARY KEY (tenant, hour)
    ) WITH (fillfactor = 50);

    FOREACH relation IN ARRAY ARRAY['event', 'node', 'trait', 'dead_letter', 'held', 'ledger'] LOOP
        PERFORM cell.isolate(format('%I.%I', name, relation));
    END LOOP;
    EXECUTE format('REVOKE ALL ON %I.ledger FROM df_query', name);
END $$;

-- Makes the partition of a day in the tenant schema `name`. Attaching, unlike CREATE .. PARTITION OF, lets others read and write
-- meanwhile. The caller holds no other lock, since it calls in a transaction of its own: no deadlock.
CREATE FUNCTION cell.make_day(name text, day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaf_name text := 'event_' || to_char(day, 'YYYYMMDD');
    leaf text := format('%I.%I', name, leaf_name);
BEGIN
    IF name !~ '^tenants$|^tenant_' THEN
        RAISE EXCEPTION 'not a tenant schema: %', name USING ERRCODE = 'invalid_schema_name';
    END IF;
    IF to_regclass(leaf) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('dataflow.day.' || name, 0));
    -- Not to_regclass: it may still answer from a cache that knows nothing of what happened during the wait.
    IF EXISTS (SELECT FROM pg_class WHERE relnamespace = name::regnamespace AND relname = leaf_name) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %s (LIKE %I.event INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', leaf, name);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', leaf);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', leaf);
    EXECUTE format('ALTER TABLE %I.event ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', name, leaf, day, day + 1);
END $$;

-- Makes the partitions of today and the two days after it in every tenant schema.
CREATE FUNCTION cell.maintain(today date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    home record;
BEGIN
    FOR home IN SELECT nspname AS name FROM pg_namespace WHERE nspname = 'tenants' OR starts_with(nspname, 'tenant_') ORDER BY nspname LOOP
        FOR ahead IN 0..2 LOOP
            PERFORM cell.make_day(home.name, today + ahead);
        END LOOP;
    END LOOP;
END $$;

-- Makes the schema of its own that the tenant `who` has, and returns its name: unique, since a tenant's name holds no underscore.
CREATE FUNCTION cell.dedicate(who text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := 'tenant_' || replace(who, '-', '_');
BEGIN
    IF length(name) > 63 THEN
        name := left(name, 46) || '_' || left(md5(who), 16);
    END IF;
    PERFORM cell.make_schema(name);
    RETURN name;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cell FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cell.make_day(text, date), cell.maintain(date), cell.dedicate(text) TO df_apply;

SELECT cell.make_schema('tenants');
