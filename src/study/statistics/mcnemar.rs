//! Whether two methods are right about different numbers of patients.

use statrs::distribution::{Binomial, DiscreteCDF};

/// McNemar's test, exact and two-sided, of `only_first` patients whom the first
/// method alone had right and `only_second` the other way round; 1 without any.
///
/// ```
/// use hepaflow::study::statistics::mcnemar_exact;
/// assert!((mcnemar_exact(5, 0) - 0.0625).abs() < 1e-12);
/// assert_eq!(mcnemar_exact(3, 3), 1.0);
/// ```
pub fn mcnemar_exact(only_first: u64, only_second: u64) -> f64 {
    let discordant = only_first + only_second;
    match Binomial::new(0.5, discordant) {
        Ok(coin) if discordant > 0 => (2.0 * coin.cdf(only_first.min(only_second))).min(1.0),
        _ => 1.0,
    }
}
