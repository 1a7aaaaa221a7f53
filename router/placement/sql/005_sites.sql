-- A directory that is kept at several sites: which entry the zone is at, what a site must not forget, and the entries that another site asks
-- for. The previous code goes on beside it as long as the zone's directory is one process: it numbers no entry, and nobody asks for any.
ALTER TABLE placement.zone ADD COLUMN number bigint NOT NULL DEFAULT 0;
ALTER TABLE placement.zone ADD COLUMN term bigint NOT NULL DEFAULT 0;

-- `held` are entries that are not settled, up to the last place. Nothing refers to the zone's row, which a change locks while sites agree.
CREATE TABLE placement.ballot (
    zone text PRIMARY KEY,
    term bigint NOT NULL DEFAULT 0,
    voted_for text NOT NULL DEFAULT '',
    last_term bigint NOT NULL DEFAULT 0,
    last_number bigint NOT NULL DEFAULT 0,
    held json
);

CREATE TABLE placement.entry (
    zone text NOT NULL REFERENCES placement.zone,
    number bigint NOT NULL,
    term bigint NOT NULL,
    body json NOT NULL,
    PRIMARY KEY (zone, number)
);
