//! Where to say yes.

use super::{Confusion, Scored, both_classes};

/// The threshold with the largest sensitivity + specificity (Youden), half-way
/// between two scores; of equally good ones the lowest, which misses the fewest
/// cases. To be learnt on patients that do not judge. `None` unless there are
/// both classes.
///
/// ```
/// use hepaflow::study::statistics::youden_threshold;
/// let scored = [(0.1, false), (0.3, true), (0.4, false), (0.8, true), (0.9, true)];
/// assert_eq!(youden_threshold(&scored), Some((0.4 + 0.8) / 2.0));
/// ```
pub fn youden_threshold(scored: &[Scored]) -> Option<f64> {
    both_classes(scored)?;
    let mut scores: Vec<f64> = scored.iter().map(|(score, _)| *score).collect();
    scores.sort_by(f64::total_cmp);
    scores.dedup();
    let between = scores
        .windows(2)
        .map(|pair| f64::midpoint(pair[0], pair[1]));
    // Below all, where nothing can be told apart.
    let candidates = between.chain(scores.first().map(|score| score - 1.0));
    let quality = |threshold: f64| {
        let confusion = Confusion::at(scored, threshold);
        confusion.macro_recall().unwrap_or(0.0)
    };
    candidates
        .map(|threshold| (quality(threshold), threshold))
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(_, threshold)| threshold)
}
