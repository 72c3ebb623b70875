//! Intervals by drawing patients again, cases and controls apart.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CONFIDENCE, Estimate};

/// The bootstrap: so many draws from one seed.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    /// Samples drawn.
    pub draws: usize,
    /// What they are drawn from.
    pub seed: u64,
}

impl Bootstrap {
    /// Percentile interval of `statistic` of the patients whose positions it is
    /// given; `is_case` has one entry a patient. Each sample has as many cases
    /// and controls as there are. `None` where the statistic of the patients
    /// themselves is, or that of more than a tenth of the samples.
    pub fn interval(
        &self,
        is_case: &[bool],
        statistic: impl Fn(&[usize]) -> Option<f64>,
    ) -> Option<Estimate> {
        let everyone: Vec<usize> = (0..is_case.len()).collect();
        let value = statistic(&everyone)?;
        let (cases, controls): (Vec<usize>, Vec<usize>) =
            everyone.iter().partition(|&&patient| is_case[patient]);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut sample = Vec::with_capacity(is_case.len());
        let mut values = Vec::with_capacity(self.draws);
        for _ in 0..self.draws {
            sample.clear();
            for class in [&cases, &controls] {
                sample.extend(
                    class
                        .iter()
                        .map(|_| class[rng.random_range(0..class.len())]),
                );
            }
            values.extend(statistic(&sample));
        }
        if values.is_empty() || values.len() * 10 < self.draws * 9 {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - CONFIDENCE) / 2.0;
        Some(Estimate {
            value,
            low: quantile(&values, tail),
            high: quantile(&values, 1.0 - tail),
        })
    }
}

/// Between the two nearest of `sorted`, which is not empty.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}
