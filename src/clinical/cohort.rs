//! The tables of a cohort directory: `cohort.csv`, one row a patient, and
//! `videos.csv`, one row a recording.
//!
//! Every value that is missing, impossible or misspelt becomes a [`Finding`];
//! whoever asked decides which of them end the work. Nothing here looks at the
//! recordings themselves.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::index::positive;
use super::sheet::{Findings, Row, Table};
use super::{
    BloodTest, Cutoffs, Elastography, ElastographyMethod, Etiology, Finding, InvalidValue, Milli,
    UnknownMethod, Verdict,
};
use crate::domain::{PatientId, Stage};

/// Sex as a cohort table writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Sex {
    /// `F`.
    #[serde(rename = "F")]
    Female,
    /// `M`.
    #[serde(rename = "M")]
    Male,
}

impl Sex {
    /// The letter that stands for it in a table and in DICOM (0010,0040).
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Female => "F",
            Self::Male => "M",
        }
    }
}

/// A row of `cohort.csv`. What is `None` is missing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatientRecord {
    /// Whose.
    pub patient: PatientId,
    /// The line in the file, for messages.
    pub line: u64,
    /// Sex.
    pub sex: Option<Sex>,
    /// Age, thousandths of a year.
    pub age: Option<Milli>,
    /// AST, thousandths of U/L.
    pub ast: Option<Milli>,
    /// ALT, thousandths of U/L.
    pub alt: Option<Milli>,
    /// Platelets, thousandths of 10^9/L.
    pub platelets: Option<Milli>,
    /// The laboratory's upper limit of normal of AST, thousandths of U/L;
    /// [`BloodTest::DEFAULT_AST_UPPER_LIMIT`] where the table gives none.
    pub ast_upper_limit: Milli,
    /// Why the liver is ill; chronic hepatitis where the table says nothing.
    pub etiology: Etiology,
    /// Stiffness in Pa (thousandths of kPa).
    pub stiffness: Option<Milli>,
    /// How stiffness was measured: no published cut-off holds without it.
    pub swe_method: Option<ElastographyMethod>,
    /// The stage that pathology found: the reference standard.
    pub stage: Option<Stage>,
}

impl PatientRecord {
    /// The blood test, if it is complete.
    pub fn blood(&self) -> Option<BloodTest> {
        Some(BloodTest {
            age: self.age?,
            ast: self.ast?,
            alt: self.alt?,
            platelets: self.platelets?,
            ast_upper_limit: self.ast_upper_limit,
        })
    }

    /// FIB-4 in thousandths; `None` where a value is missing.
    pub fn fib4(&self) -> Option<Milli> {
        self.blood().map(|test| test.fib4())
    }

    /// APRI in thousandths; needs neither age nor ALT.
    pub fn apri(&self) -> Option<Milli> {
        let test = BloodTest {
            age: self.age.unwrap_or_default(),
            ast: self.ast?,
            alt: self.alt.unwrap_or_default(),
            platelets: self.platelets?,
            ast_upper_limit: self.ast_upper_limit,
        };
        Some(test.apri())
    }

    /// What FIB-4 says of >= F3 by the published cut-offs of the etiology.
    pub fn fib4_verdict(&self) -> Option<Verdict> {
        let test = self.blood()?;
        Some(Cutoffs::fib4(self.etiology, test.age).verdict(test.fib4()))
    }

    /// What APRI says of `stage` by the published cut-offs; `None` for >= F3,
    /// for which there are none.
    pub fn apri_verdict(&self, stage: Stage) -> Option<Verdict> {
        Some(Cutoffs::apri(stage)?.verdict(self.apri()?))
    }

    /// What stiffness says of `stage` by the vendor's cut-off; `None` without a
    /// value, a vendor, or a cut-off. There is one cut-off, so no grey zone.
    pub fn swe_verdict(&self, stage: Stage) -> Option<Verdict> {
        let measured = Elastography {
            method: self.swe_method?,
            stiffness: self.stiffness?,
        };
        let is_likely = measured.at_least(stage)?;
        Some(if is_likely {
            Verdict::Likely
        } else {
            Verdict::Unlikely
        })
    }
}

/// A row of `videos.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoRecord {
    /// Whose.
    pub patient: PatientId,
    /// As written, relative to the cohort directory.
    pub path: String,
    /// The line in the file, for messages.
    pub line: u64,
}

/// Both tables as far as they could be read, and everything found on the way.
#[derive(Clone, Debug, Default)]
pub struct CohortTables {
    /// Rows of `cohort.csv`, one a patient.
    pub patients: Vec<PatientRecord>,
    /// Rows of `videos.csv`.
    pub videos: Vec<VideoRecord>,
    /// What is missing or wrong, in the order of the files.
    pub findings: Vec<Finding>,
}

/// The table of patients.
pub const COHORT_FILE: &str = "cohort.csv";
/// The table of recordings.
pub const VIDEOS_FILE: &str = "videos.csv";

const NEEDED: [&str; 7] = [
    "patient_id",
    "sex",
    "age_years",
    "ast_u_l",
    "alt_u_l",
    "platelets_10e9_l",
    "stage",
];
/// Of stiffness in kPa and speed in m/s one is needed; dates are for
/// [`read_labels`](super::read_labels) and not read here.
const OPTIONAL: [&str; 8] = [
    "swe_kpa",
    "swe_m_s",
    "swe_method",
    "ast_upper_limit_u_l",
    "etiology",
    "date",
    "swe_date",
    "stage_date",
];

impl CohortTables {
    /// Reads both tables from the bytes of their files; without `videos` only
    /// the first.
    pub fn parse(cohort: &[u8], videos: Option<&[u8]>) -> Self {
        let mut findings = Findings::default();
        let table = Table::parse(COHORT_FILE, cohort, &NEEDED, &OPTIONAL, &mut findings);
        let patients = table.map_or_else(Vec::new, |table| read_patients(&table, &mut findings));
        let videos = videos.map_or_else(Vec::new, |bytes| {
            let columns = ["patient_id", "path"];
            let table = Table::parse(VIDEOS_FILE, bytes, &columns, &[], &mut findings);
            table.map_or_else(Vec::new, |table| {
                read_videos(&table, &patients, &mut findings)
            })
        });
        Self {
            patients,
            videos,
            findings: findings.0,
        }
    }
}

fn read_patients(table: &Table, findings: &mut Findings) -> Vec<PatientRecord> {
    if !table.has("swe_kpa") && !table.has("swe_m_s") {
        findings.wrong(COHORT_FILE, 1, "swe_kpa", "the header has no such column");
    }
    let mut seen = HashMap::new();
    let mut patients = Vec::new();
    for row in table.rows() {
        let Some(patient) = row.text("patient_id") else {
            row.wrong("patient_id", "every row needs one", findings);
            continue;
        };
        if let Some(before) = seen.insert(patient.to_owned(), row.line) {
            let why = format!("this patient is in line {before} already");
            row.wrong("patient_id", why, findings);
            continue;
        }
        patients.push(read_patient(row, PatientId::new(patient), findings));
    }
    check_units(&patients, findings);
    patients
}

fn read_patient(row: Row<'_>, patient: PatientId, findings: &mut Findings) -> PatientRecord {
    let mut number = |column, limit, quantity, unit| {
        let text = row.expected(column, findings)?;
        let value = row.milli(column, text, findings)?;
        let checked = positive(value, limit, quantity, unit);
        report(row, column, checked, findings)
    };
    let age = number("age_years", 130, "age", "years");
    let ast = number("ast_u_l", 100_000, "AST", "U/L");
    let alt = number("alt_u_l", 100_000, "ALT", "U/L");
    let platelets = number("platelets_10e9_l", 5_000, "platelets", "10^9/L");
    let limit = number(
        "ast_upper_limit_u_l",
        1_000,
        "AST upper limit of normal",
        "U/L",
    );
    let swe_method = row.text("swe_method").and_then(|text| {
        text.parse()
            .map_err(|error: UnknownMethod| row.wrong("swe_method", error.to_string(), findings))
            .ok()
    });
    let etiology = match row.text("etiology").map(str::to_ascii_lowercase).as_deref() {
        None | Some("viral") => Etiology::Viral,
        Some("steatotic") => Etiology::Steatotic,
        Some(_) => {
            row.wrong("etiology", "expected viral or steatotic", findings);
            Etiology::Viral
        }
    };
    let sex = row.expected("sex", findings).and_then(|text| {
        let sex = match text.to_ascii_uppercase().as_str() {
            "F" | "FEMALE" => Some(Sex::Female),
            "M" | "MALE" => Some(Sex::Male),
            _ => None,
        };
        if sex.is_none() {
            row.wrong("sex", "expected F or M", findings);
        }
        sex
    });
    let stage = row.expected("stage", findings).and_then(|text| {
        let stage = text.parse::<Stage>().ok();
        if stage.is_none() {
            row.wrong(
                "stage",
                "expected a METAVIR stage: F0, F1, F2, F3 or F4",
                findings,
            );
        }
        stage
    });
    PatientRecord {
        patient,
        line: row.line,
        sex,
        age,
        ast,
        alt,
        platelets,
        ast_upper_limit: limit.unwrap_or(BloodTest::DEFAULT_AST_UPPER_LIMIT),
        etiology,
        stiffness: read_stiffness(row, findings),
        swe_method,
        stage,
    }
}

/// Stiffness in Pa, from kPa or from the shear wave speed.
fn read_stiffness(row: Row<'_>, findings: &mut Findings) -> Option<Milli> {
    // The method only chooses cut-offs; no check depends on it.
    let any = ElastographyMethod::SuperSonic;
    match (row.text("swe_kpa"), row.text("swe_m_s")) {
        (Some(_), Some(_)) => {
            let why = "given in kPa as well: keep one of the two";
            row.wrong("swe_m_s", why, findings);
            None
        }
        (None, Some(text)) => {
            let speed = row.milli("swe_m_s", text, findings)?;
            let checked = Elastography::from_speed(any, speed).map(|value| value.stiffness);
            report(row, "swe_m_s", checked, findings)
        }
        (_, None) => {
            let Some(text) = row.expected("swe_kpa", findings) else {
                if !row.has("swe_kpa") {
                    row.expected("swe_m_s", findings);
                }
                return None;
            };
            let pascal = row.milli("swe_kpa", text, findings)?;
            let checked = Elastography::from_pascal(any, pascal).map(|value| value.stiffness);
            report(row, "swe_kpa", checked, findings)
        }
    }
}

fn report(
    row: Row<'_>,
    column: &str,
    checked: Result<Milli, InvalidValue>,
    findings: &mut Findings,
) -> Option<Milli> {
    checked
        .map_err(|error| row.wrong(column, error.to_string(), findings))
        .ok()
}

/// A column in a wrong unit has possible values, one by one; its median gives
/// it away.
fn check_units(patients: &[PatientRecord], findings: &mut Findings) {
    /// Fewer values than these say nothing.
    const ENOUGH: usize = 5;
    type Column = (
        &'static str,
        fn(&PatientRecord) -> Option<Milli>,
        Milli,
        &'static str,
    );
    const COLUMNS: [Column; 4] = [
        (
            "swe_kpa",
            |p| p.stiffness,
            3_000,
            "3 kPa: is this m/s? Then the column is swe_m_s",
        ),
        (
            "ast_u_l",
            |p| p.ast,
            5_000,
            "5 U/L: is this ukat/L? Then multiply it by 60",
        ),
        (
            "alt_u_l",
            |p| p.alt,
            4_000,
            "4 U/L: is this ukat/L? Then multiply it by 60",
        ),
        (
            "platelets_10e9_l",
            |p| p.platelets,
            20_000,
            "20 x 10^9/L: expected thousands per microlitre",
        ),
    ];
    for (column, value, least, hint) in COLUMNS {
        let mut values: Vec<Milli> = patients.iter().filter_map(value).collect();
        values.sort_unstable();
        if values.len() >= ENOUGH && values[values.len() / 2] < least {
            let why = format!("half of the values lie below {hint}");
            findings.wrong(COHORT_FILE, 1, column, why);
        }
    }
}

fn read_videos(
    table: &Table,
    patients: &[PatientRecord],
    findings: &mut Findings,
) -> Vec<VideoRecord> {
    let known: HashSet<&str> = patients.iter().map(|row| row.patient.expose()).collect();
    let mut seen = HashMap::new();
    let mut videos = Vec::new();
    for row in table.rows() {
        let Some(patient) = row.text("patient_id") else {
            row.wrong("patient_id", "every row needs one", findings);
            continue;
        };
        let Some(path) = row.text("path") else {
            row.wrong("path", "every row needs one", findings);
            continue;
        };
        if !known.contains(patient) {
            row.wrong("patient_id", "cohort.csv has no such patient", findings);
            continue;
        }
        if let Some(before) = seen.insert(path.to_owned(), row.line) {
            let why = format!("this recording is in line {before} already");
            row.wrong("path", why, findings);
            continue;
        }
        videos.push(VideoRecord {
            patient: PatientId::new(patient),
            path: path.to_owned(),
            line: row.line,
        });
    }
    videos
}
