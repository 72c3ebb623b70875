-- Version 5. What DICOM reports refer to, and what was filed. Rows are written only for a
-- pipeline with a sink that files reports: they identify persons.
CREATE TABLE instances (
    content  TEXT PRIMARY KEY, -- SHA-256 of the stream's bytes, hex
    instance TEXT NOT NULL     -- JSON
) WITHOUT ROWID, STRICT;

-- A patient's last report: a correction names it as its predecessor.
CREATE TABLE reports (
    sink    TEXT NOT NULL,
    patient TEXT NOT NULL,
    report  TEXT NOT NULL,     -- JSON
    PRIMARY KEY (sink, patient)
) WITHOUT ROWID, STRICT;
