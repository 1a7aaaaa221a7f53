-- A cell folds what its peer accepts, in standby. The previous code goes on beside it: to it a standby is not the owner.

ALTER TABLE cell.ownership DROP CONSTRAINT ownership_state_check;
ALTER TABLE cell.ownership ADD CONSTRAINT ownership_state_check CHECK (state IN ('owner', 'standby', 'released'));

-- Up to where another cell's log is kept in this cell's.
CREATE TABLE cell.replica (
    origin      text COLLATE "C" NOT NULL,
    partition   int    NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (origin, partition)
);
GRANT SELECT, INSERT, UPDATE ON cell.replica TO df_apply;
