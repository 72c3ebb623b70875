-- Version 8. How a patient's answer came to be what it is, without reading everybody's.
CREATE INDEX answer_log_by_patient ON answer_log (patient, number);
