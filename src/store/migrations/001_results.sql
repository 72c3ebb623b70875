-- Version 1. Probabilities are JSON arrays of whole numbers in units of 2^-32,
-- one a class in the model's order, so that sums stay exact.
CREATE TABLE models (
    model        TEXT PRIMARY KEY,  -- SHA-256 of the model directory, hex
    architecture TEXT NOT NULL,
    classes      TEXT NOT NULL      -- JSON array such as ["F0-F1", "F2-F4"]
) WITHOUT ROWID, STRICT;

-- The ledger: a window that has a row here is never inferred again.
CREATE TABLE clip_predictions (
    content       TEXT NOT NULL,    -- SHA-256 of the stream's bytes, hex
    first_frame   INTEGER NOT NULL,
    model         TEXT NOT NULL REFERENCES models (model),
    last_frame    INTEGER NOT NULL,
    begin_ns      INTEGER NOT NULL, -- event time, from the start of the stream
    end_ns        INTEGER NOT NULL,
    gaps_before   INTEGER NOT NULL,
    patient       TEXT NOT NULL,
    study         TEXT,
    source        TEXT NOT NULL,
    probabilities TEXT NOT NULL,
    PRIMARY KEY (content, first_frame, model)
) WITHOUT ROWID, STRICT;

CREATE INDEX clip_predictions_by_patient ON clip_predictions (patient, model);

CREATE TABLE patient_results (
    patient       TEXT NOT NULL,
    model         TEXT NOT NULL REFERENCES models (model),
    clips         INTEGER NOT NULL,
    probabilities TEXT NOT NULL,
    PRIMARY KEY (patient, model)
) WITHOUT ROWID, STRICT;
