-- The cell that stands by for a tenant. The previous code goes on beside it, and leaves the column as it is: it makes tenants without a
-- standby and tells no follower of one. So a directory of the previous version is gone before a cell is failed over.
ALTER TABLE placement.tenant ADD COLUMN standby text;
