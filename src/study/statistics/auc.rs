//! The area under the ROC curve, and the curve.

#![allow(clippy::float_cmp, reason = "a tie is the very same score")]

use super::{Scored, both_classes};

/// The probability that a case scores higher than a control, ties counting half
/// (Mann and Whitney); `None` unless there are both.
///
/// ```
/// use hepaflow::study::statistics::auc;
/// let scored = [(0.9, true), (0.5, true), (0.5, false), (0.1, false)];
/// assert_eq!(auc(&scored), Some(0.875));
/// assert_eq!(auc(&scored[..2]), None);
/// ```
pub fn auc(scored: &[Scored]) -> Option<f64> {
    let (cases, controls) = both_classes(scored)?;
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut twice_wins, mut below) = (0_u64, 0_u64);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let up = tied.iter().filter(|(_, case)| *case).count() as u64;
        let down = tied.len() as u64 - up;
        twice_wins += up * (2 * below + down);
        below += down;
    }
    Some(twice_wins as f64 / (2 * cases * controls) as f64)
}

/// Points (1 - specificity, sensitivity) from (0, 0) to (1, 1), one for each
/// distinct score; empty unless there are both classes.
pub fn roc_curve(scored: &[Scored]) -> Vec<(f64, f64)> {
    let Some((cases, controls)) = both_classes(scored) else {
        return Vec::new();
    };
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut up, mut down) = (0, 0);
    let mut points = vec![(0.0, 0.0)];
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let more = tied.iter().filter(|(_, case)| *case).count();
        up += more;
        down += tied.len() - more;
        points.push((down as f64 / controls as f64, up as f64 / cases as f64));
    }
    points
}
