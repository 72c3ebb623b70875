-- Version 6. What became of answers and why: rows are only ever added, and each is bound to
-- the one before it by its hash, as those of the facts are.
CREATE TABLE answer_log (
    number  INTEGER PRIMARY KEY, -- 1, 2, 3, ... without a gap
    time_ns INTEGER NOT NULL,    -- when it was written, nanoseconds since 1970
    actor   TEXT NOT NULL,       -- what wrote it
    reason  TEXT NOT NULL,       -- clips, or which facts
    patient TEXT NOT NULL,
    model   TEXT NOT NULL,
    answer  TEXT NOT NULL,       -- JSON: what stands now; empty where nothing does
    hash    TEXT NOT NULL        -- SHA-256 of the hash before and of this row, hex
) STRICT;

CREATE TABLE answer_log_head (
    id     INTEGER PRIMARY KEY,  -- 1
    number INTEGER NOT NULL,
    hash   TEXT NOT NULL
) STRICT;

INSERT INTO answer_log_head VALUES (1, 0, '');

-- A change that its sink refuses while it takes others does not wait any more.
ALTER TABLE outbox ADD COLUMN parked_ns INTEGER;                   -- when it was put aside
ALTER TABLE outbox ADD COLUMN refusal TEXT;                        -- what the sink said last
ALTER TABLE outbox ADD COLUMN outdated INTEGER NOT NULL DEFAULT 0; -- 1: a later one was taken

-- How far a clip's picture is to be trusted, in 1/256.
ALTER TABLE clip_predictions ADD COLUMN weight INTEGER NOT NULL DEFAULT 256;
