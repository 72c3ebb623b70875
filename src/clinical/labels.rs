//! Blood tests, elastography and pathology in a CSV table: the columns of a
//! cohort's `cohort.csv`, and dates.
//!
//! | column | holds |
//! |---|---|
//! | `patient_id` | required |
//! | `date` | when all of the row was found, YYYY-MM-DD; without one, any value with a date goes before |
//! | `age_years`, `ast_u_l`, `alt_u_l`, `platelets_10e9_l` | a blood test: all four or none |
//! | `ast_upper_limit_u_l` | the laboratory's upper limit of normal of AST, if not 40 |
//! | `swe_kpa`, `swe_method`, `swe_date` | elastography; the method is `super_sonic` (default), `mindray_ste`, `mindray_stq` or `transient` |
//! | `stage`, `stage_date` | what pathology found: F0 to F4, or S0 to S4 of Scheuer's scale |

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{BloodTest, Dated, Day, Elastography, ElastographyMethod, Fact, Milli, RowProblem};
use crate::domain::{PatientId, Stage};

/// Columns that a table may have.
const COLUMNS: [&str; 13] = [
    "patient_id",
    "sex",
    "age_years",
    "ast_u_l",
    "alt_u_l",
    "platelets_10e9_l",
    "ast_upper_limit_u_l",
    "swe_kpa",
    "swe_method",
    "swe_date",
    "stage",
    "stage_date",
    "date",
];

/// A table, understood.
#[derive(Debug)]
pub struct Labels {
    /// Rows that say something.
    pub rows: Vec<LabelRow>,
    /// Rows that are left out.
    pub bad: Vec<BadRow>,
    /// Columns that nobody reads.
    pub unread: Vec<String>,
}

/// The facts of one row.
#[derive(Debug)]
pub struct LabelRow {
    /// Its line in the file, the first being 1.
    pub line: u64,
    /// At least one.
    pub facts: Vec<Fact>,
}

/// A row that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// Its line in the file.
    pub line: u64,
    /// What is wrong, and what would be right.
    #[serde(flatten)]
    pub problem: RowProblem,
}

impl Labels {
    /// Whom the rows are about.
    pub fn patients(&self) -> BTreeSet<&PatientId> {
        let facts = self.rows.iter().flat_map(|row| &row.facts);
        facts.filter_map(|fact| fact.patient()).collect()
    }

    /// The same under other names of its patients.
    #[must_use]
    pub fn renamed(mut self, name: impl Fn(&PatientId) -> PatientId) -> Self {
        for row in &mut self.rows {
            let facts = std::mem::take(&mut row.facts).into_iter();
            row.facts = facts.map(|fact| fact.renamed(&name)).collect();
        }
        self
    }
}

/// A table that is none.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// It cannot be read.
    #[error("the table cannot be read: {0}")]
    Read(#[from] csv::Error),
    /// It has no column that says whose a row is.
    #[error("the table has no column patient_id; columns it may have: {}", COLUMNS.join(", "))]
    NoPatient,
}

/// The day that is written as YYYY-MM-DD; none before 1970.
pub fn parse_day(text: &str) -> Option<Day> {
    if text.len() != 10 {
        return None;
    }
    let midnight = humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).ok()?;
    let since = midnight.duration_since(UNIX_EPOCH).ok()?;
    Day::try_from(since.as_secs() / 86_400).ok()
}

/// A day as YYYY-MM-DD; nothing for one that nobody wrote down.
pub fn show_day(day: Day) -> Option<String> {
    let days = u64::try_from(day).ok().filter(|&days| days > 0)?;
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(days * 86_400))?;
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.get(..10).map(str::to_owned)
}

/// The last day that may have begun somewhere at `now`.
pub(crate) fn latest_day(now: SystemTime) -> Day {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Where the day begins first it is 14 hours later than in UTC.
    Day::try_from((now.as_secs() + 14 * 3600) / 86_400).unwrap_or(Day::MAX)
}

/// Reads a table with a header line. `now` tells which dates lie in the future.
///
/// # Errors
/// If it is no CSV table, or has no `patient_id`. A bad row is no error: it is
/// listed, and the others stand.
pub fn read_labels(table: impl Read, now: SystemTime) -> Result<Labels, LabelsError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .flexible(true)
        .from_reader(table);
    let header: Vec<String> = reader
        .headers()?
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').to_ascii_lowercase())
        .collect();
    if !header.iter().any(|name| name == "patient_id") {
        return Err(LabelsError::NoPatient);
    }
    let unread = header
        .iter()
        .filter(|name| !COLUMNS.contains(&name.as_str()))
        .cloned()
        .collect();
    let mut labels = Labels {
        rows: Vec::new(),
        bad: Vec::new(),
        unread,
    };
    let mut seen: HashMap<String, (u64, Fact)> = HashMap::new();
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        let read = match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let line = record.position().map_or(line, csv::Position::line);
                let row = Row {
                    header: &header,
                    record: &record,
                    latest: latest_day(now),
                };
                row.facts()
                    .and_then(|facts| agree(&facts, line, &mut seen).map(|()| facts))
                    .map(|facts| LabelRow { line, facts })
                    .map_err(|problem| BadRow { line, problem })
            }
            Err(error) if error.is_io_error() => return Err(error.into()),
            // Its text would show the row.
            Err(_) => Err(BadRow {
                line,
                problem: RowProblem::NotUtf8,
            }),
        };
        match read {
            Ok(row) => labels.rows.push(row),
            Err(bad) => labels.bad.push(bad),
        }
    }
    Ok(labels)
}

/// Refuses what says otherwise than an earlier row about the same thing.
fn agree(
    facts: &[Fact],
    line: u64,
    seen: &mut HashMap<String, (u64, Fact)>,
) -> Result<(), RowProblem> {
    for fact in facts {
        if let Some((first, other)) = seen.get(&fact.slot())
            && other != fact
        {
            return Err(RowProblem::Contradicts {
                kind: fact.kind(),
                line: *first,
            });
        }
    }
    for fact in facts {
        seen.entry(fact.slot())
            .or_insert_with(|| (line, fact.clone()));
    }
    Ok(())
}

struct Row<'a> {
    header: &'a [String],
    record: &'a csv::StringRecord,
    latest: Day,
}

impl Row<'_> {
    fn facts(&self) -> Result<Vec<Fact>, RowProblem> {
        if self.record.len() != self.header.len() {
            return Err(RowProblem::Columns {
                found: self.record.len(),
                expected: self.header.len(),
            });
        }
        let patient = self.text("patient_id").ok_or(RowProblem::NoPatient)?;
        if patient.len() > 256 || patient.chars().any(char::is_control) {
            return Err(RowProblem::Patient);
        }
        let patient = PatientId::new(patient);
        let date = self.day("date")?;
        let mut facts = Vec::new();
        if let Some(value) = self.blood()? {
            facts.push(Fact::Blood(Dated {
                patient: patient.clone(),
                day: date.unwrap_or_default(),
                value,
            }));
        }
        if let Some(stiffness) = self.number("swe_kpa")? {
            let method = self.method()?;
            facts.push(Fact::Elastography(Dated {
                patient: patient.clone(),
                day: self.day("swe_date")?.or(date).unwrap_or_default(),
                value: Elastography::from_pascal(method, stiffness)?,
            }));
        }
        if let Some(stage) = self.stage()? {
            facts.push(Fact::Pathology(Dated {
                patient,
                day: self.day("stage_date")?.or(date).unwrap_or_default(),
                value: stage,
            }));
        }
        if facts.is_empty() {
            return Err(RowProblem::Nothing);
        }
        Ok(facts)
    }

    fn text(&self, column: &str) -> Option<&str> {
        let position = self.header.iter().position(|name| name == column)?;
        self.record.get(position).filter(|text| !text.is_empty())
    }

    fn number(&self, column: &'static str) -> Result<Option<Milli>, RowProblem> {
        let Some(text) = self.text(column) else {
            return Ok(None);
        };
        let number = text.parse::<f64>().ok().filter(|n| n.abs() < 1e9);
        let number = number.ok_or(RowProblem::NoNumber(column))?;
        Ok(Some((number * 1e3).round() as Milli))
    }

    fn day(&self, column: &'static str) -> Result<Option<Day>, RowProblem> {
        let Some(text) = self.text(column) else {
            return Ok(None);
        };
        let day = parse_day(text).ok_or(RowProblem::NoDate(column))?;
        if day > self.latest {
            return Err(RowProblem::Future(column));
        }
        Ok(Some(day))
    }

    fn blood(&self) -> Result<Option<BloodTest>, RowProblem> {
        let found = ["ast_u_l", "alt_u_l", "platelets_10e9_l"];
        if found.iter().all(|column| self.text(column).is_none()) {
            return Ok(None);
        }
        let needed = |column| self.number(column)?.ok_or(RowProblem::Missing(column));
        let test = BloodTest {
            age: needed("age_years")?,
            ast: needed("ast_u_l")?,
            alt: needed("alt_u_l")?,
            platelets: needed("platelets_10e9_l")?,
            ast_upper_limit: self
                .number("ast_upper_limit_u_l")?
                .unwrap_or(BloodTest::DEFAULT_AST_UPPER_LIMIT),
        };
        Ok(Some(test.checked()?))
    }

    fn method(&self) -> Result<ElastographyMethod, RowProblem> {
        let Some(text) = self.text("swe_method") else {
            return Ok(ElastographyMethod::SuperSonic);
        };
        Ok(text.parse()?)
    }

    fn stage(&self) -> Result<Option<Stage>, RowProblem> {
        let Some(text) = self.text("stage") else {
            return Ok(None);
        };
        let metavir = text.replacen(['S', 's', 'f'], "F", 1);
        let stage = metavir.parse::<Stage>();
        stage.map(Some).map_err(|_| RowProblem::Stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Labels {
        let now = UNIX_EPOCH + Duration::from_hours(20_000 * 24);
        read_labels(text.as_bytes(), now).unwrap()
    }

    #[test]
    fn a_day_survives_its_text_and_nonsense_is_no_day() {
        for (text, day) in [
            ("1970-01-02", 1),
            ("2000-03-01", 11_017),
            ("2024-02-29", 19_782),
        ] {
            assert_eq!(parse_day(text), Some(day));
            assert_eq!(show_day(day).as_deref(), Some(text));
        }
        for text in [
            "",
            "2023-02-29",
            "1969-12-31",
            "17.05.2024",
            "2024-13-01",
            "2024-5-17",
        ] {
            assert_eq!(parse_day(text), None, "{text}");
        }
        assert_eq!(show_day(0), None);
    }

    #[test]
    fn a_cohort_table_is_read_whole() {
        let labels = read(
            "patient_id,sex,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage,date,ward\n\
             P1,f,50,40,30,200,7.25,F2,2024-05-17,3\n\
             P2,m,,,,,,S4,,\n",
        );
        assert_eq!(labels.bad, []);
        assert_eq!(labels.unread, ["ward"]);
        assert_eq!(labels.rows.len(), 2);
        let [
            Fact::Blood(blood),
            Fact::Elastography(swe),
            Fact::Pathology(stage),
        ] = &labels.rows[0].facts[..]
        else {
            panic!("three facts");
        };
        assert_eq!(blood.value.fib4(), 1_826);
        assert_eq!(swe.value.stiffness, 7_250);
        assert_eq!((stage.value, stage.day), (Stage::F2, 19_860));
        let undated = Fact::Pathology(Dated {
            patient: PatientId::new("P2"),
            day: 0,
            value: Stage::F4,
        });
        assert_eq!(labels.rows[1].facts, [undated]);
    }

    #[test]
    fn bad_rows_are_named_by_line_and_the_rest_stands() {
        let labels = read(
            "patient_id,date,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,swe_method,stage\n\
             P1,2024-05-17,50,40,30,-200,,,\n\
             ,2024-05-17,50,40,30,200,,,\n\
             P2,2024-05-17,50,40,,200,,,\n\
             P3,2999-01-01,,,,,,,F2\n\
             P4,17.05.2024,,,,,,,F2\n\
             P5,2024-05-17,,,,,,,F5\n\
             P6,2024-05-17,,,,,301,,\n\
             P7,2024-05-17,,,,,7,crystal ball,\n\
             P8,2024-05-17,x,40,30,200,,,\n\
             P9,2024-05-17,,,,,,,\n\
             Pa,2024-05-17\n\
             Pb,2024-05-17,50,40,30,200,,,F1\n\
             Pb,2024-05-17,,,,,,,F3\n\
             Pb,2024-05-17,50,40,30,200,,,F1\n",
        );
        let lines: Vec<_> = labels.rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, [13, 15]);
        let expected = [
            (2, "platelets"),
            (3, "patient_id is empty"),
            (4, "alt_u_l is missing"),
            (5, "date lies in the future"),
            (6, "date is not a date"),
            (7, "stage is none of"),
            (8, "stiffness"),
            (9, "swe_method"),
            (10, "age_years is not a number"),
            (11, "no blood test"),
            (12, "2 columns"),
            (14, "stands in line 13"),
        ];
        assert_eq!(labels.bad.len(), expected.len(), "{:?}", labels.bad);
        for (bad, (line, problem)) in labels.bad.iter().zip(expected) {
            assert_eq!(bad.line, line);
            let said = bad.problem.to_string();
            assert!(said.contains(problem) && !said.contains("Pb"), "{said}");
        }
    }

    #[test]
    fn a_table_without_patients_is_refused() {
        let error = read_labels("name,stage\nx,F2\n".as_bytes(), UNIX_EPOCH).unwrap_err();
        assert!(error.to_string().contains("patient_id"));
    }
}
