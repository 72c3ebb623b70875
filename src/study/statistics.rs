//! Figures of merit.

/// Area under the ROC curve: the share of pairs of a case and a control whose
/// scores are in order, ties counted half. None without both.
pub fn auc(scores: &[f64], cases: &[bool]) -> Option<f64> {
    let of = |wanted: bool| {
        let pairs = scores.iter().zip(cases);
        pairs.filter(move |(_, case)| **case == wanted).map(|(score, _)| *score)
    };
    let (mut ordered, mut pairs) = (0.0, 0_usize);
    for case in of(true) {
        for control in of(false) {
            pairs += 1;
            ordered += match case.total_cmp(&control) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    (pairs > 0).then(|| ordered / pairs as f64)
}
