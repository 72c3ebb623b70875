//! What fold-models said of clips, and what follows for patients.
//!
//! `predictions.csv` has one row a scored clip:
//! `method,fold,set,patient_id,path,first_frame,p_0,...,p_K-1`. Written by
//! `hepaflow study`, read by the evaluation, and open to anyone's own model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::{PatientId, Stage, StageRange};
use crate::model::usual_classes;

/// Which patients a clip was scored for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatientSet {
    /// Those that decide when to stop, and where thresholds lie.
    Validation,
    /// Those that judge.
    Test,
}

impl PatientSet {
    /// As files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// What one fold-model said of one clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Which kind of model, such as `fibro3d`.
    pub method: String,
    /// Which fold-model, from 0.
    pub fold: usize,
    /// For which patients it was asked.
    pub set: PatientSet,
    /// Whose clip.
    pub patient: PatientId,
    /// The recording, as `videos.csv` writes it.
    pub path: String,
    /// Where in it the clip begins.
    pub first_frame: u64,
    /// One probability a class, `[K]`.
    pub probabilities: Vec<f64>,
}

/// Predictions could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PredictionsError {
    /// The file could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The header is another one.
    #[error(
        "{}: the header must be method,fold,set,patient_id,path,first_frame,p_0,p_1 and so on",
        .0.display()
    )]
    Header(PathBuf),
    /// Lines that cannot be right, all of them.
    #[error("{}: {} lines are wrong{}", path.display(), lines.len(), list(lines))]
    Lines {
        /// The file.
        path: PathBuf,
        /// Each with what is wrong.
        lines: Vec<(u64, String)>,
    },
    /// Nothing is in it.
    #[error("{}: there is no prediction in it", .0.display())]
    Empty(PathBuf),
    /// Nobody knows what the classes mean.
    #[error("{0} classes: two (F0-F1, F2-F4) or five (F0 to F4) are understood")]
    Classes(usize),
    /// A patient judges and decides.
    #[error(
        "{0} patients are in the validation and in the test set: results on them would be worth \
         nothing"
    )]
    Leak(usize),
}

fn list(lines: &[(u64, String)]) -> String {
    let mut text = String::new();
    for (line, why) in lines {
        text += &format!(
            "
  line {line}: {why}"
        );
    }
    text
}

const COLUMNS: [&str; 6] = ["method", "fold", "set", "patient_id", "path", "first_frame"];

/// Rows of a `predictions.csv` that agree on the number of classes.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// What each class means, `[K]`.
    pub classes: Vec<StageRange>,
    /// One a scored clip.
    pub rows: Vec<Prediction>,
}

impl Predictions {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// With every line that is wrong, or the patients that are in two sets.
    pub fn load(path: &Path) -> Result<Self, PredictionsError> {
        let file = || path.to_owned();
        let bytes = std::fs::read(path).map_err(|error| PredictionsError::File {
            path: file(),
            error,
        })?;
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .from_reader(bytes.as_slice());
        let header = reader.headers().ok().cloned().unwrap_or_default();
        let count = header.len().saturating_sub(COLUMNS.len());
        let wanted = COLUMNS.iter().map(|name| (*name).to_owned());
        let wanted = wanted.chain((0..count).map(|class| format!("p_{class}")));
        if count == 0 || !wanted.eq(header.iter().map(str::to_owned)) {
            return Err(PredictionsError::Header(file()));
        }
        let classes = usual_classes(count).ok_or(PredictionsError::Classes(count))?;
        let (mut rows, mut wrong) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for record in reader.records() {
            match record {
                Ok(record) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    let row = parse(&record, count).and_then(|row| {
                        let key = (
                            row.method.clone(),
                            row.fold,
                            row.path.clone(),
                            row.first_frame,
                        );
                        if seen.insert(key) {
                            Ok(row)
                        } else {
                            Err("this clip was scored by this fold-model already")
                        }
                    });
                    match row {
                        Ok(row) => rows.push(row),
                        Err(why) => wrong.push((line, why.to_owned())),
                    }
                }
                Err(error) => {
                    let line = error.position().map_or(0, csv::Position::line);
                    wrong.push((line, "this line is no CSV".to_owned()));
                }
            }
        }
        if !wrong.is_empty() {
            return Err(PredictionsError::Lines {
                path: file(),
                lines: wrong,
            });
        }
        if rows.is_empty() {
            return Err(PredictionsError::Empty(file()));
        }
        let predictions = Self { classes, rows };
        predictions.check()?;
        Ok(predictions)
    }

    /// Asserts that no patient is in both sets.
    ///
    /// # Errors
    /// How many are.
    pub fn check(&self) -> Result<(), PredictionsError> {
        let validation = self.patients(PatientSet::Validation);
        match self
            .patients(PatientSet::Test)
            .intersection(&validation)
            .count()
        {
            0 => Ok(()),
            count => Err(PredictionsError::Leak(count)),
        }
    }

    /// Writes the file; nothing is left half written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), PredictionsError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let fail = |error: io::Error| PredictionsError::File {
            path: path.to_owned(),
            error,
        };
        let other = |error: csv::Error| fail(io::Error::other(error));
        let names = COLUMNS.iter().map(|name| (*name).to_owned());
        let names = names.chain((0..self.classes.len()).map(|class| format!("p_{class}")));
        writer.write_record(names).map_err(other)?;
        for row in &self.rows {
            let fixed = [
                row.method.clone(),
                row.fold.to_string(),
                row.set.name().to_owned(),
                row.patient.expose().to_owned(),
                row.path.clone(),
                row.first_frame.to_string(),
            ];
            let probabilities = row.probabilities.iter().map(f64::to_string);
            writer
                .write_record(fixed.into_iter().chain(probabilities))
                .map_err(other)?;
        }
        let bytes = writer
            .into_inner()
            .map_err(|error| fail(io::Error::other(error.to_string())))?;
        super::folder::write(path, &bytes).map_err(fail)
    }

    /// The kinds of model, in the order of the file.
    pub fn methods(&self) -> Vec<&str> {
        let mut methods: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !methods.contains(&row.method.as_str()) {
                methods.push(&row.method);
            }
        }
        methods
    }

    /// Folds of a method, rising.
    pub fn folds(&self, method: &str) -> Vec<usize> {
        let rows = self.rows.iter().filter(|row| row.method == method);
        let folds: BTreeSet<usize> = rows.map(|row| row.fold).collect();
        folds.into_iter().collect()
    }

    /// Who is in a set.
    pub fn patients(&self, set: PatientSet) -> BTreeSet<&PatientId> {
        let rows = self.rows.iter().filter(|row| row.set == set);
        rows.map(|row| &row.patient).collect()
    }

    /// P(stage >= `stage`) of each patient of `set` under one fold-model; `None`
    /// where a class straddles the boundary, so that the model cannot tell.
    pub fn patient_scores(
        &self,
        method: &str,
        fold: usize,
        set: PatientSet,
        stage: Stage,
        aggregation: Aggregation,
    ) -> Option<BTreeMap<PatientId, f64>> {
        let straddles = |class: &StageRange| class.lowest < stage && stage <= class.highest;
        if self.classes.iter().any(straddles) {
            return None;
        }
        let mut clips = BTreeMap::<&PatientId, Vec<f64>>::new();
        let rows = self.rows.iter();
        for row in rows.filter(|row| row.method == method && row.fold == fold && row.set == set) {
            let classes = self.classes.iter().zip(&row.probabilities);
            let severe = classes.filter(|(class, _)| class.lowest >= stage);
            let score = severe.map(|(_, p)| p).sum();
            clips.entry(&row.patient).or_default().push(score);
        }
        let scores = clips.into_iter();
        Some(
            scores
                .map(|(patient, scores)| (patient.clone(), aggregation.of(&scores)))
                .collect(),
        )
    }

    /// The mean over the fold-models of each patient's score: the ensemble. A
    /// patient whom a fold-model did not score is left out.
    pub fn ensemble_scores(
        &self,
        method: &str,
        set: PatientSet,
        stage: Stage,
        aggregation: Aggregation,
    ) -> Option<BTreeMap<PatientId, f64>> {
        let folds = self.folds(method);
        let mut sums = BTreeMap::<PatientId, (f64, usize)>::new();
        for &fold in &folds {
            for (patient, score) in self.patient_scores(method, fold, set, stage, aggregation)? {
                let sum = sums.entry(patient).or_default();
                sum.0 += score;
                sum.1 += 1;
            }
        }
        let whole = sums
            .into_iter()
            .filter(|(_, (_, count))| *count == folds.len());
        Some(
            whole
                .map(|(patient, (sum, count))| (patient, sum / count as f64))
                .collect(),
        )
    }
}

fn parse(record: &csv::StringRecord, classes: usize) -> Result<Prediction, &'static str> {
    /// Probabilities written with few digits need not add up to one exactly.
    const SLACK: f64 = 1e-3;
    if record.len() != COLUMNS.len() + classes {
        return Err("the header has another number of columns");
    }
    let field = |position: usize| record.get(position).unwrap_or_default().trim();
    if field(0).is_empty() || field(3).is_empty() {
        return Err("method and patient_id must be given");
    }
    let probabilities: Result<Vec<f64>, _> = (0..classes)
        .map(|class| field(COLUMNS.len() + class).parse())
        .collect();
    let probabilities = probabilities.map_err(|_| "a probability is no number")?;
    if !probabilities.iter().all(|p| (0.0..=1.0).contains(p)) {
        return Err("a probability is not between 0 and 1");
    }
    if (probabilities.iter().sum::<f64>() - 1.0).abs() > SLACK {
        return Err("the probabilities do not add up to 1");
    }
    Ok(Prediction {
        method: field(0).to_owned(),
        fold: field(1).parse().map_err(|_| "fold is no whole number")?,
        set: match field(2) {
            "validation" => PatientSet::Validation,
            "test" => PatientSet::Test,
            _ => return Err("set must be validation or test"),
        },
        patient: PatientId::new(field(3)),
        path: field(4).to_owned(),
        first_frame: field(5)
            .parse()
            .map_err(|_| "first_frame is no whole number")?,
        probabilities,
    })
}

/// How clips become a patient's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Aggregation {
    /// The mean of all clips.
    #[default]
    Mean,
    /// The middle one; of an even number the mean of the middle two.
    Median,
    /// The severest.
    Max,
    /// The mean of the severest so many.
    Top(usize),
}

impl Aggregation {
    /// One score from those of clips; 0 without any.
    ///
    /// ```
    /// use hepaflow::study::predictions::Aggregation;
    /// let clips = [0.5, 0.25, 1.0, 0.0];
    /// assert_eq!(Aggregation::Mean.of(&clips), 0.4375);
    /// assert_eq!(Aggregation::Median.of(&clips), 0.375);
    /// assert_eq!(Aggregation::Max.of(&clips), 1.0);
    /// assert_eq!("top-2".parse(), Ok(Aggregation::Top(2)));
    /// assert_eq!(Aggregation::Top(2).of(&clips), 0.75);
    /// ```
    pub fn of(self, clips: &[f64]) -> f64 {
        if clips.is_empty() {
            return 0.0;
        }
        let mut sorted = clips.to_vec();
        // Sums in one order, whatever order the clips come in.
        sorted.sort_by(|a, b| b.total_cmp(a));
        let count = sorted.len();
        let kept = match self {
            Self::Mean => &sorted[..],
            Self::Median => &sorted[(count - 1) / 2..=count / 2],
            Self::Max => &sorted[..1],
            Self::Top(most) => &sorted[..most.clamp(1, count)],
        };
        kept.iter().sum::<f64>() / kept.len() as f64
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Median => f.write_str("median"),
            Self::Max => f.write_str("max"),
            Self::Top(count) => write!(f, "top-{count}"),
        }
    }
}

impl FromStr for Aggregation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mean" => Ok(Self::Mean),
            "median" => Ok(Self::Median),
            "max" => Ok(Self::Max),
            other => match other.strip_prefix("top-").map(str::parse) {
                Some(Ok(count)) if count > 0 => Ok(Self::Top(count)),
                _ => Err("expected mean, median, max, or top-3 and the like".to_owned()),
            },
        }
    }
}

impl TryFrom<String> for Aggregation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Aggregation> for String {
    fn from(aggregation: Aggregation) -> Self {
        aggregation.to_string()
    }
}

#[cfg(test)]
mod tests;
