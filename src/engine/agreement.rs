//! How far logits lie from those that are held to be right: what a precision, or
//! a card, costs.

use serde::Serialize;

/// Logits of some clips beside those that are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// How many.
    pub clips: usize,
    /// The size of the largest right logit, by which all below is measured.
    pub largest_logit: f32,
    /// The largest difference of a logit; infinite where one is not a number.
    pub largest_error: f32,
    /// The mean size of a logit's difference.
    pub mean_error: f32,
    /// Clips of another class: where another logit is the largest.
    pub changed: usize,
    /// By how much the right class led its next in the clearest of those; 0 where
    /// there are none.
    pub clearest_change: f32,
}

/// The largest logit's class, and by how much it leads.
fn decision(row: &[f32]) -> (usize, f32) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    match order[..] {
        [first, second, ..] => (first, row[first] - row[second]),
        _ => (0, f32::INFINITY),
    }
}

impl Agreement {
    /// Of rows of `classes` logits.
    ///
    /// # Panics
    /// If there are not as many logits on both sides.
    pub fn of(found: &[f32], right: &[f32], classes: usize) -> Self {
        assert_eq!(found.len(), right.len(), "rows of the same clips");
        let scale = right
            .iter()
            .fold(f32::MIN_POSITIVE, |scale, logit| scale.max(logit.abs()));
        let errors: Vec<f32> = found
            .iter()
            .zip(right)
            .map(|(found, right)| (found - right).abs() / scale)
            .map(|error| if error.is_nan() { f32::INFINITY } else { error })
            .collect();
        let sum: f64 = errors.iter().map(|error| f64::from(*error)).sum();
        let rows = found.chunks_exact(classes).zip(right.chunks_exact(classes));
        let leads: Vec<f32> = rows
            .filter_map(|(found, right)| {
                let (class, lead) = decision(right);
                (decision(found).0 != class).then_some(lead / scale)
            })
            .collect();
        Self {
            clips: right.len() / classes,
            largest_logit: scale,
            largest_error: errors.iter().copied().fold(0.0, f32::max),
            mean_error: (sum / errors.len().max(1) as f64) as f32,
            changed: leads.len(),
            clearest_change: leads.iter().copied().fold(0.0, f32::max),
        }
    }

    /// Whether no logit is further off than this part of the largest one, and every
    /// class that leads by more than that is the same.
    pub fn within(&self, tolerance: f32) -> bool {
        self.largest_error <= tolerance && self.clearest_change <= tolerance
    }
}
