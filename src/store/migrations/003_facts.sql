-- Version 3. What is known about patients besides clips, and who said so: rows are only
-- ever added, and each is bound to the one before it by its hash.
CREATE TABLE facts (
    number  INTEGER PRIMARY KEY, -- 1, 2, 3, ... without a gap
    time_ns INTEGER NOT NULL,    -- when it was written, nanoseconds since 1970
    actor   TEXT NOT NULL,       -- who or what wrote it
    reason  TEXT NOT NULL,       -- why
    change  INTEGER NOT NULL,    -- 1: entered, -1: withdrawn
    kind    TEXT NOT NULL,
    slot    TEXT NOT NULL,       -- what it is about: one fact stands in a slot at a time
    fact    TEXT NOT NULL,       -- JSON
    hash    TEXT NOT NULL        -- SHA-256 of the hash before and of this row, hex
) STRICT;

CREATE INDEX facts_by_slot ON facts (slot, number);
CREATE INDEX facts_by_kind ON facts (kind, number);

-- Where the log ends. It is also what writers lock.
CREATE TABLE facts_head (
    id     INTEGER PRIMARY KEY,   -- 1
    number INTEGER NOT NULL,
    hash   TEXT NOT NULL
) STRICT;

INSERT INTO facts_head VALUES (1, 0, '');
