//! Who is trained on, who decides when to stop, and who judges.
//!
//! Patients are dealt out, never recordings: two recordings of one patient on
//! both sides would let a model recognise the patient. Within each stage the
//! shares are met to within rounding, and the rounding of all stages together
//! gives exactly the sizes that the largest remainder asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::domain::{PatientId, Stage};

/// Folds inside the training patients.
pub const FOLDS: usize = 5;

/// Shares of training, validation and test, as in the paper: 77, 16 and 17 of 110.
const SHARES: [f64; 3] = [0.7, 0.15, 0.15];

/// Training, validation and test patients, and the folds of the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// What it was drawn from.
    pub seed: u64,
    /// Trained on; the union of the folds.
    pub train: Vec<PatientId>,
    /// Decides when to stop, and where thresholds lie.
    pub validation: Vec<PatientId>,
    /// Judged on, once.
    pub test: Vec<PatientId>,
    /// Patients held out by each fold-model, disjoint; together `train`.
    pub folds: Vec<Vec<PatientId>>,
}

/// Patients cannot be split, or were split wrongly.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// All are on one side of F2.
    #[error(
        "all {0} patients are on one side of F2 (significant fibrosis): with one class there is \
         nothing to tell apart"
    )]
    OneClass(usize),
    /// Too few for a fold each.
    #[error("{patients} training patients cannot make {folds} folds: more patients are needed")]
    TooFew {
        /// How many are left for training.
        patients: usize,
        /// How many folds they should make.
        folds: usize,
    },
    /// A part would see one class only.
    #[error(
        "the {part} patients would all be on one side of F2: there are too few patients with \
         or without significant fibrosis ({with} and {without}) to divide them"
    )]
    OneSided {
        /// Which part.
        part: &'static str,
        /// Patients at F2 or above.
        with: usize,
        /// Patients below.
        without: usize,
    },
    /// One patient on two sides.
    #[error("{count} patients are in {first} and in {second}: a patient may be in one only")]
    Overlap {
        /// How many.
        count: usize,
        /// One part.
        first: String,
        /// The other.
        second: String,
    },
    /// The folds are not the training patients.
    #[error("the folds together are not the training patients")]
    FoldsDiffer,
    /// The split is about other people.
    #[error("{count} patients of the split are not in the cohort: it belongs to another one")]
    Strangers {
        /// How many.
        count: usize,
    },
    /// The file could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// `split.json`.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no split.
    #[error("{} is no split: {error}", path.display())]
    Format {
        /// `split.json`.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
}

impl Split {
    /// Deals out `patients`. The same patients and seed give the same split, in
    /// whatever order they come.
    ///
    /// # Errors
    /// When there are too few, or of one class only.
    ///
    /// ```
    /// use hepaflow::domain::{PatientId, Stage};
    /// use hepaflow::study::split::Split;
    /// let patients: Vec<_> = (0..110)
    ///     .map(|i| (PatientId::new(format!("p{i}")), Stage::ALL[i % 5]))
    ///     .collect();
    /// let split = Split::draw(&patients, 7)?;
    /// assert_eq!([split.train.len(), split.validation.len(), split.test.len()], [77, 16, 17]);
    /// # Ok::<(), hepaflow::study::split::SplitError>(())
    /// ```
    pub fn draw(patients: &[(PatientId, Stage)], seed: u64) -> Result<Self, SplitError> {
        let with = patients.iter().filter(|(_, stage)| is_case(*stage)).count();
        let without = patients.len() - with;
        if with == 0 || without == 0 {
            return Err(SplitError::OneClass(patients.len()));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut strata = BTreeMap::<Stage, Vec<PatientId>>::new();
        for (patient, stage) in patients {
            strata.entry(*stage).or_default().push(patient.clone());
        }
        for members in strata.values_mut() {
            members.sort();
            members.shuffle(&mut rng);
        }
        let sizes: Vec<usize> = strata.values().map(Vec::len).collect();
        let mut parts: [Vec<(Stage, PatientId)>; 3] = Default::default();
        for ((stage, members), counts) in strata.into_iter().zip(allot(&sizes)) {
            let mut members = members.into_iter().map(|patient| (stage, patient));
            for (part, count) in parts.iter_mut().zip(counts) {
                part.extend(members.by_ref().take(count));
            }
        }
        let names = ["training", "validation", "test"];
        if parts[0].len() < FOLDS {
            return Err(SplitError::TooFew {
                patients: parts[0].len(),
                folds: FOLDS,
            });
        }
        for (part, name) in parts.iter().zip(names) {
            let cases = part.iter().filter(|(stage, _)| is_case(*stage)).count();
            // A fold-model must see both classes whichever fold it leaves out.
            let least = if name == "training" { 2 } else { 1 };
            if cases < least || part.len() - cases < least {
                return Err(SplitError::OneSided {
                    part: name,
                    with,
                    without,
                });
            }
        }
        // Members of a stage lie side by side: dealing them out in turn, from
        // one stage into the next, keeps folds and stages even.
        let mut folds = vec![Vec::new(); FOLDS];
        for (turn, (_, patient)) in parts[0].iter().enumerate() {
            folds[turn % FOLDS].push(patient.clone());
        }
        let [train, validation, test] = parts.map(|part| {
            let mut patients: Vec<_> = part.into_iter().map(|(_, patient)| patient).collect();
            patients.sort();
            patients
        });
        for fold in &mut folds {
            fold.sort();
        }
        let split = Self {
            seed,
            train,
            validation,
            test,
            folds,
        };
        split.check()?;
        Ok(split)
    }

    /// Reads a split and checks it.
    ///
    /// # Errors
    /// When it cannot be read, or puts a patient in two places.
    pub fn load(path: &Path) -> Result<Self, SplitError> {
        let path = || path.to_owned();
        let text = std::fs::read_to_string(path()).map_err(|error| SplitError::File {
            path: path(),
            error,
        })?;
        let split: Self = serde_json::from_str(&text).map_err(|error| SplitError::Format {
            path: path(),
            error,
        })?;
        split.check()?;
        Ok(split)
    }

    /// Writes the split as JSON.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), SplitError> {
        super::folder::write_json(path, self).map_err(|error| SplitError::File {
            path: path.to_owned(),
            error,
        })
    }

    /// Asserts that no patient is in two places, and that the folds are the
    /// training patients.
    ///
    /// # Errors
    /// Which parts share how many patients.
    pub fn check(&self) -> Result<(), SplitError> {
        let parts = [
            ("training", &self.train),
            ("validation", &self.validation),
            ("test", &self.test),
        ];
        disjoint(parts.iter().map(|(name, part)| ((*name).to_owned(), *part)))?;
        let folds = self.folds.iter().enumerate();
        disjoint(folds.map(|(number, fold)| (format!("fold {number}"), fold)))?;
        let joined: BTreeSet<_> = self.folds.iter().flatten().collect();
        if joined != self.train.iter().collect() || self.folds.is_empty() {
            return Err(SplitError::FoldsDiffer);
        }
        Ok(())
    }

    /// Asserts that everyone in the split is among `patients`.
    ///
    /// # Errors
    /// How many are not.
    pub fn check_against(&self, patients: &[(PatientId, Stage)]) -> Result<(), SplitError> {
        let known: BTreeSet<_> = patients.iter().map(|(patient, _)| patient).collect();
        let all = self.train.iter().chain(&self.validation).chain(&self.test);
        match all.filter(|patient| !known.contains(patient)).count() {
            0 => Ok(()),
            count => Err(SplitError::Strangers { count }),
        }
    }

    /// Training patients that fold-model `fold` learns from: all but its fold.
    pub fn training_of(&self, fold: usize) -> Vec<&PatientId> {
        let others = self.folds.iter().enumerate();
        others
            .filter(|(number, _)| *number != fold)
            .flat_map(|(_, members)| members)
            .collect()
    }
}

fn is_case(stage: Stage) -> bool {
    stage >= Stage::F2
}

fn disjoint<'a>(
    parts: impl Iterator<Item = (String, &'a Vec<PatientId>)>,
) -> Result<(), SplitError> {
    let mut seen = BTreeMap::<&PatientId, String>::new();
    for (name, part) in parts {
        let mut shared = BTreeMap::<String, usize>::new();
        for patient in part {
            if let Some(other) = seen.insert(patient, name.clone()) {
                *shared.entry(other).or_default() += 1;
            }
        }
        if let Some((first, count)) = shared.pop_first() {
            return Err(SplitError::Overlap {
                count,
                first,
                second: name,
            });
        }
    }
    Ok(())
}

/// How many of each stratum go to each part: whole numbers near the shares,
/// whose sums over the strata are the largest-remainder sizes of the whole.
fn allot(strata: &[usize]) -> Vec<[usize; 3]> {
    let sizes = largest_remainder(strata.iter().sum());
    let ideal = |stratum: usize, part: usize| strata[stratum] as f64 * SHARES[part];
    let floor = |stratum, part| (ideal(stratum, part) + 1e-9).floor() as usize;
    let floors: Vec<[usize; 3]> = (0..strata.len())
        .map(|stratum| [0, 1, 2].map(|part| floor(stratum, part)))
        .collect();
    // What is left of a stratum, 0 to 2 patients, goes to as many parts, one
    // each: 3 ways at most, so that all ways of all strata are soon tried.
    // Whole numbers that fit the sizes always exist (a matrix whose sums are
    // whole can be rounded so that they stay).
    let mut best: (f64, Vec<[usize; 3]>) = (f64::NEG_INFINITY, floors.clone());
    let ways = 3_usize.pow(strata.len() as u32);
    for way in 0..ways {
        let mut counts = floors.clone();
        let (mut rest, mut score) = (way, 0.0);
        for (stratum, row) in counts.iter_mut().enumerate() {
            let missing = strata[stratum] - row.iter().sum::<usize>();
            // The one part that differs from the other two; later parts first,
            // as in 77/16/17.
            let odd = 2 - rest % 3;
            rest /= 3;
            for (part, count) in row.iter_mut().enumerate() {
                let gets = match missing {
                    1 => part == odd,
                    2 => part != odd,
                    _ => false,
                };
                if gets {
                    score += ideal(stratum, part) - *count as f64;
                    *count += 1;
                }
            }
        }
        let fits =
            (0..3).all(|part| counts.iter().map(|row| row[part]).sum::<usize>() == sizes[part]);
        if fits && score > best.0 + 1e-9 {
            best = (score, counts);
        }
    }
    best.1
}

fn largest_remainder(total: usize) -> [usize; 3] {
    let ideal = SHARES.map(|share| share * total as f64);
    let mut sizes = ideal.map(|value| (value + 1e-9).floor() as usize);
    let mut order = [2, 1, 0];
    order.sort_by(|&a, &b| {
        let rest = |part: usize| ideal[part] - sizes[part] as f64;
        // Halves are halves although 0.15 is no binary fraction.
        let (a, b) = ((rest(a) * 1e6).round(), (rest(b) * 1e6).round());
        b.total_cmp(&a)
    });
    let missing = total - sizes.iter().sum::<usize>();
    for &part in order.iter().take(missing) {
        sizes[part] += 1;
    }
    sizes
}

#[cfg(test)]
mod tests;
