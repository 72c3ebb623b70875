-- Version 7. The elastography that holds, another view that a run maintains: of the latest
-- day the stiffest, of merged records together and of deleted ones none.
CREATE TABLE elastographies (
    patient   TEXT PRIMARY KEY,
    method    TEXT NOT NULL,
    stiffness INTEGER NOT NULL -- Pa
) WITHOUT ROWID, STRICT;
