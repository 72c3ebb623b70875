//! Losses over epochs as a picture.

use super::fit::History;
use crate::study::chart::{Chart, Series};

const SIZE: (u32, u32) = (480, 280);

/// The losses of a run as SVG; a dot marks the epoch whose weights were kept.
pub fn curves(history: &History) -> String {
    let epochs = &history.epochs;
    let line = |loss: fn(&super::Epoch) -> f32| {
        let points = epochs
            .iter()
            .map(|epoch| (epoch.epoch as f64, f64::from(loss(epoch))));
        points.collect::<Vec<_>>()
    };
    let (training, validation) = (line(|e| e.loss), line(|e| e.validation_loss));
    let highest = training.iter().chain(&validation).map(|point| point.1);
    let highest = highest.fold(0.0_f64, f64::max);
    let kept = history.kept.checked_sub(1);
    let kept = kept.and_then(|place| validation.get(place));
    let kept = kept.copied().into_iter().collect();
    let mut kept = Series::line("kept", 1, kept);
    kept.has_dots = true;
    let series = [
        Series::line("training", 0, training),
        Series::line("validation", 1, validation),
        kept,
    ];
    Chart {
        size: SIZE,
        x_label: "epoch",
        y_label: "weighted loss",
        x: 1.0..(epochs.len() as f64).max(2.0),
        y: 0.0..highest * 1.05,
        series: &series,
    }
    .to_svg()
}

#[cfg(test)]
mod tests {
    use super::super::fit::Epoch;
    use super::*;

    #[test]
    fn curves_are_drawn_and_the_kept_epoch_is_marked() {
        let epoch = |epoch, loss| Epoch {
            epoch,
            loss,
            validation_loss: loss / 2.0,
            validation_auc: None,
            rate: 0.1,
        };
        let history = History {
            epochs: vec![epoch(1, 2.0), epoch(2, 1.0), epoch(3, 0.5)],
            kept: 3,
        };
        let svg = curves(&history);
        assert!(
            svg.starts_with("<svg") && svg.contains("validation"),
            "{svg}"
        );
        assert_eq!(svg.matches("<circle").count(), 1);
    }
}
