//! A CSV table as people write them: columns by name, every mistake with its
//! line and column, all in one go. No value is ever shown, since a shifted
//! column would show an identifier.

use std::collections::HashMap;
use std::fmt;

use csv::StringRecord;
use serde::{Deserialize, Serialize};

use super::Milli;

/// Something that a table lacks or has wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file within the cohort directory.
    pub file: String,
    /// The line in it, from 1; the header is line 1.
    pub line: u64,
    /// The column; empty for the line as a whole.
    pub column: String,
    /// What is the matter.
    pub problem: Problem,
}

/// What is the matter with a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// There is none. The patient goes on as far as possible without it.
    Missing,
    /// It cannot be right; the text says what would be.
    Wrong(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file, self.line)?;
        if !self.column.is_empty() {
            write!(f, ", {}", self.column)?;
        }
        match &self.problem {
            Problem::Missing => f.write_str(": missing"),
            Problem::Wrong(why) => write!(f, ": {why}"),
        }
    }
}

/// The findings of one reading.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn wrong(&mut self, file: &str, line: u64, column: &str, why: impl Into<String>) {
        self.push(file, line, column, Problem::Wrong(why.into()));
    }

    pub(super) fn missing(&mut self, file: &str, line: u64, column: &str) {
        self.push(file, line, column, Problem::Missing);
    }

    fn push(&mut self, file: &str, line: u64, column: &str, problem: Problem) {
        self.0.push(Finding {
            file: file.to_owned(),
            line,
            column: column.to_owned(),
            problem,
        });
    }
}

/// Words that stand for no value.
const NOTHING: [&str; 8] = ["", "na", "n/a", "nan", "null", "none", "-", "."];

/// A table whose columns are found.
pub(super) struct Table {
    file: &'static str,
    columns: HashMap<&'static str, usize>,
    rows: Vec<(u64, StringRecord)>,
}

/// One line of it.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    table: &'a Table,
    pub(super) line: u64,
    record: &'a StringRecord,
}

impl Table {
    /// Reads the table called `file` from `bytes`. Columns that nobody asks for
    /// are left alone, unless they look like one that is `needed` or `optional`.
    pub(super) fn parse(
        file: &'static str,
        bytes: &[u8],
        needed: &[&'static str],
        optional: &[&'static str],
        findings: &mut Findings,
    ) -> Option<Self> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            findings.wrong(file, 1, "", "this is no UTF-8 text: save it as CSV UTF-8");
            return None;
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let header = text.lines().next().unwrap_or_default();
        if header.contains([';', '\t']) && !header.contains(',') {
            findings.wrong(file, 1, "", "columns must be separated by commas");
            return None;
        }
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .flexible(true)
            .from_reader(text.as_bytes());
        let header = match reader.headers() {
            Ok(header) => header.clone(),
            Err(error) => {
                findings.wrong(file, 1, "", error.to_string());
                return None;
            }
        };
        let known: Vec<&'static str> = needed.iter().chain(optional).copied().collect();
        let columns = Self::columns(file, &header, &known, findings);
        for name in needed {
            if !columns.contains_key(name) {
                findings.wrong(file, 1, name, "the header has no such column");
            }
        }
        let mut rows = Vec::new();
        for record in reader.records() {
            match record {
                Ok(record) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    if record.iter().all(str::is_empty) {
                        continue;
                    }
                    if record.len() != header.len() {
                        let why = format!(
                            "{} values, where the header has {}",
                            record.len(),
                            header.len()
                        );
                        findings.wrong(file, line, "", why);
                        continue;
                    }
                    rows.push((line, record));
                }
                Err(error) => {
                    let line = error.position().map_or(0, csv::Position::line);
                    findings.wrong(file, line, "", "this line is no CSV");
                }
            }
        }
        let complete = needed.iter().all(|name| columns.contains_key(name));
        complete.then_some(Self {
            file,
            columns,
            rows,
        })
    }

    fn columns(
        file: &str,
        header: &StringRecord,
        known: &[&'static str],
        findings: &mut Findings,
    ) -> HashMap<&'static str, usize> {
        /// Names this alike are one name misspelt.
        const ALIKE: f64 = 0.9;
        let mut columns = HashMap::new();
        for (position, name) in header.iter().enumerate() {
            if let Some(&column) = known.iter().find(|column| **column == name) {
                if columns.insert(column, position).is_some() {
                    findings.wrong(file, 1, column, "the header has this column twice");
                }
                continue;
            }
            let name = name.to_ascii_lowercase();
            let alike = |column: &&&str| {
                !header.iter().any(|other| other == **column)
                    && strsim::jaro_winkler(column, &name) > ALIKE
            };
            let near = known.iter().filter(alike).max_by(|a, b| {
                strsim::jaro_winkler(a, &name).total_cmp(&strsim::jaro_winkler(b, &name))
            });
            if let Some(near) = near {
                let why = format!("column {} of the header looks misspelt", position + 1);
                findings.wrong(file, 1, near, why);
            }
        }
        columns
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|(line, record)| Row {
            table: self,
            line: *line,
            record,
        })
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }
}

impl<'a> Row<'a> {
    pub(super) fn has(self, column: &str) -> bool {
        self.table.has(column)
    }

    /// The text of `column`; `None` where there is none.
    pub(super) fn text(self, column: &str) -> Option<&'a str> {
        let value = self.record.get(*self.table.columns.get(column)?)?;
        let is_nothing = NOTHING.iter().any(|word| value.eq_ignore_ascii_case(word));
        (!is_nothing).then_some(value)
    }

    /// The text of `column`, noted as missing where the table has the column and
    /// the row no value.
    pub(super) fn expected(self, column: &str, findings: &mut Findings) -> Option<&'a str> {
        let text = self.text(column);
        if text.is_none() && self.table.has(column) {
            findings.missing(self.table.file, self.line, column);
        }
        text
    }

    /// The number in `text`, in thousandths.
    pub(super) fn milli(self, column: &str, text: &str, findings: &mut Findings) -> Option<Milli> {
        /// Past this nothing is measured, and a thousandfold still fits.
        const ABSURD: f64 = 1e12;
        let number = text.parse::<f64>().ok().filter(|n| n.is_finite());
        match number {
            Some(number) if number.abs() < ABSURD => Some((number * 1e3).round() as Milli),
            Some(_) => {
                self.wrong(column, "no such value can be measured", findings);
                None
            }
            None => {
                let hint = if text.contains(',') {
                    "no number: write 7.1, not 7,1"
                } else {
                    "no number: write it plainly, such as 7.1, and leave it empty where unknown"
                };
                self.wrong(column, hint, findings);
                None
            }
        }
    }

    pub(super) fn wrong(self, column: &str, why: impl Into<String>, findings: &mut Findings) {
        findings.wrong(self.table.file, self.line, column, why);
    }
}
