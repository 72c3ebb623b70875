-- Version 4. The views that a run maintains besides the answers. All follow from clips and
-- facts: a run writes them anew where they differ.
ALTER TABLE patient_results ADD COLUMN left_out INTEGER NOT NULL DEFAULT 0; -- clips of weight 0
ALTER TABLE patient_results ADD COLUMN weight INTEGER NOT NULL DEFAULT 0;   -- of the others, in 1/256
ALTER TABLE patient_results ADD COLUMN abstention TEXT;                     -- why nothing is concluded
ALTER TABLE patient_results ADD COLUMN is_current INTEGER NOT NULL DEFAULT 0; -- 1: by the active model

CREATE TABLE indices (
    patient    TEXT PRIMARY KEY,
    fib4       INTEGER NOT NULL, -- thousandths
    fib4_class TEXT NOT NULL,    -- what it says of F3 or more
    apri       INTEGER NOT NULL, -- thousandths
    apri_class TEXT NOT NULL     -- what it says of F2 or more
) WITHOUT ROWID, STRICT;

-- Yes (1) or no (0) to "at least this stage?", by a model and by an index.
CREATE TABLE agreements (
    patient    TEXT NOT NULL,
    model      TEXT NOT NULL,
    rater      TEXT NOT NULL,
    target     TEXT NOT NULL,    -- F2, F3 or F4
    model_says INTEGER NOT NULL,
    rater_says INTEGER NOT NULL,
    PRIMARY KEY (patient, model, rater, target)
) WITHOUT ROWID, STRICT;

-- Every rater against pathology.
CREATE TABLE evaluations (
    rater          TEXT NOT NULL, -- fib4, apri, elastography, or a model's hash
    target         TEXT NOT NULL,
    true_positive  INTEGER NOT NULL,
    false_positive INTEGER NOT NULL,
    true_negative  INTEGER NOT NULL,
    false_negative INTEGER NOT NULL,
    undecided      INTEGER NOT NULL,
    positives      INTEGER NOT NULL, -- patients with the stage
    negatives      INTEGER NOT NULL,
    twice_wins     INTEGER NOT NULL, -- AUC x 2 x positives x negatives
    PRIMARY KEY (rater, target)
) WITHOUT ROWID, STRICT;
