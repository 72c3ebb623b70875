-- Version 2. Results on their way out: a row for every change of an answer and
-- every sink, written with the change, deleted when the sink has taken it.
CREATE TABLE outbox (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT, -- order of delivery
    sink       TEXT NOT NULL,
    event      TEXT NOT NULL,      -- names the change, the same for every sink
    patient    TEXT NOT NULL,
    model      TEXT NOT NULL,
    change     TEXT NOT NULL,      -- JSON
    changed_ns INTEGER NOT NULL    -- nanoseconds since 1970
) STRICT;

CREATE INDEX outbox_by_sink ON outbox (sink, sequence);
CREATE INDEX outbox_by_patient ON outbox (sink, patient, model);
