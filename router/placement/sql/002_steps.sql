-- Steps with an intent: what is expected of a tenant, why and until when it is pinned, which requests were answered already, and who did
-- what. The previous code goes on beside it: it writes none of this and reads `pin` as before.
ALTER TABLE placement.tenant ADD COLUMN demand double precision NOT NULL DEFAULT 1 CHECK (demand >= 0);
ALTER TABLE placement.tenant ADD COLUMN pin_reason text NOT NULL DEFAULT '';
ALTER TABLE placement.tenant ADD COLUMN pin_expires_at bigint; -- microseconds since 1970

CREATE TABLE placement.request (
    zone text NOT NULL REFERENCES placement.zone,
    id text NOT NULL,
    fingerprint bytea NOT NULL,
    at bigint NOT NULL, -- microseconds since 1970
    revision bigint NOT NULL,
    tenant json NOT NULL, -- as it was right after the step
    PRIMARY KEY (zone, id)
);
CREATE INDEX request_at ON placement.request (zone, at);

-- Each entry's hash covers its fields and the hash before it (kernel/chain.py).
CREATE TABLE placement.audit (
    zone text NOT NULL REFERENCES placement.zone,
    seq bigint NOT NULL,
    at bigint NOT NULL, -- microseconds since 1970
    actor text NOT NULL,
    request_id text NOT NULL,
    action text NOT NULL,
    tenant text NOT NULL,
    revision bigint NOT NULL,
    what text NOT NULL,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (zone, seq)
);
