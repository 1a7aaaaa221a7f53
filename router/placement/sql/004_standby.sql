-- The cell that stands by for a tenant. A directory of the previous version leaves the column as it is, makes tenants without a standby, and
-- tells followers of a changed tenant without its standby, which then passes records over. So it is gone before the first tenant with a
-- standby is created: the previous code may run on this schema, not beside this code.
ALTER TABLE placement.tenant ADD COLUMN standby text;
