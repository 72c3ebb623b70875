use serde::{Deserialize, Serialize};

/// Where values lie and how far apart: what others are measured against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, above 0.
    pub deviation: f64,
}

impl Spread {
    /// That of `values`; `None` where nothing can be measured against them, because
    /// there are none or they do not differ.
    ///
    /// ```
    /// use hepaflow::domain::Spread;
    /// let spread = Spread { mean: 0.5, deviation: 0.25 };
    /// assert_eq!(Spread::of(&[0.25, 0.75]), Some(spread));
    /// assert_eq!(Spread::of(&[0.5, 0.5]), None);
    /// assert_eq!(Spread::of(&[]), None);
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let square = values.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count;
        let spread = Self {
            mean,
            deviation: square.sqrt(),
        };
        spread.is_sound().then_some(spread)
    }

    /// Whether both are finite and the deviation is above 0.
    pub fn is_sound(&self) -> bool {
        self.mean.is_finite() && self.deviation.is_finite() && self.deviation > 0.0
    }
}
