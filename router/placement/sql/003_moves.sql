-- Moves of tenants between cells. The previous code goes on beside it, as long as nothing moves: it writes neither column, and tells no
-- follower that a tenant is fenced. So a directory of the previous version is gone before the first move is started.
ALTER TABLE placement.tenant ADD COLUMN fenced boolean NOT NULL DEFAULT false;
ALTER TABLE placement.tenant ADD COLUMN move json;
CREATE INDEX tenant_moving ON placement.tenant (zone) WHERE move ->> 'state' NOT IN ('settled', 'aborted');
