//! Counts where patients stand, for the metrics: how many, never which.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Instant;

use super::Epoch;
use crate::domain::{ClipPrediction, ModelHash, PatientResult, Spread, StageRange};
use crate::metrics::{Metrics, Reference};
use crate::model::ReferenceSpec;
use crate::store::{StoredModel, ViewRow};

/// Fewer windows than this are no reference.
const FEWEST: usize = 500;

/// Keeps the counts of a run's standing answers.
#[derive(Clone, Debug)]
pub(super) struct Census {
    classes: HashMap<ModelHash, Vec<StageRange>>,
    metrics: Metrics,
}

impl Census {
    pub(super) fn new(models: &HashMap<ModelHash, StoredModel>, metrics: &Metrics) -> Self {
        let classes = models.iter();
        Self {
            classes: classes
                .map(|(hash, model)| (*hash, model.classes.clone()))
                .collect(),
            metrics: metrics.clone(),
        }
    }

    /// An answer came (1) or went (-1); only the current ones count.
    pub(super) fn answer(&self, result: &PatientResult, change: i64) {
        if !result.current {
            return;
        }
        self.metrics.patients.add(change);
        let clinical = &self.metrics.clinical;
        if let Some(reason) = result.abstention {
            clinical.abstained(reason, change);
            return;
        }
        let classes = self.classes.get(&result.model);
        let class = result
            .likeliest()
            .and_then(|place| classes.and_then(|classes| classes.get(place)));
        if let Some(class) = class {
            clinical.answered(&class.to_string(), change);
        }
    }

    /// Another row of the views came or went.
    pub(super) fn row(&self, row: &ViewRow, change: i64) {
        let ViewRow::Agreement(_, agreement) = row else {
            return;
        };
        let model = agreement.model.short();
        let (index, stage) = (agreement.index.to_string(), agreement.target.to_string());
        let differ = agreement.model_says != agreement.index_says;
        let about = [model.as_str(), index.as_str(), stage.as_str()];
        self.metrics.clinical.compared(about, differ, change);
    }

    /// What the model brings is what its pictures and answers are measured against.
    pub(super) fn refer(&self, known: &ReferenceSpec) {
        for (what, spread) in [
            (Reference::Severity, known.severity),
            (Reference::Brightness, known.brightness),
        ] {
            if let Some(spread) = spread {
                let clinical = &self.metrics.clinical;
                clinical.refer(what, spread, Some(known.windows));
            }
        }
    }

    /// What the model said of the windows that the store holds is what the severity
    /// of a model that brings no reference is measured against, if there are enough
    /// of them.
    pub(super) fn look_back(&self, clips: &[ClipPrediction], model: ModelHash) {
        let clips = clips.iter().filter(|clip| clip.key.model == model);
        let found: Vec<_> = clips.filter_map(ClipPrediction::severity).collect();
        if found.len() < FEWEST {
            return;
        }
        if let Some(spread) = Spread::of(&found) {
            let clinical = &self.metrics.clinical;
            clinical.refer(Reference::Severity, spread, Some(found.len()));
        }
    }
}

/// When one worker's predictions came, by epoch: from then until the answers of that
/// epoch stand is what aggregating takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Rc<RefCell<BTreeMap<Epoch, Instant>>>);

impl Arrivals {
    pub(super) fn came(&self, epoch: Epoch) {
        let mut arrivals = self.0.borrow_mut();
        arrivals.entry(epoch).or_insert_with(Instant::now);
    }

    /// Observes the epochs for which `is_over` holds.
    pub(super) fn stand(&self, metrics: &Metrics, is_over: impl Fn(&Epoch) -> bool) {
        let mut arrivals = self.0.borrow_mut();
        while let Some(first) = arrivals.first_entry().filter(|it| is_over(it.key())) {
            // At epoch 0 comes what the store knew: nobody waits for that.
            let (epoch, came) = first.remove_entry();
            if epoch > 0 {
                metrics.aggregate.observe(came.elapsed().as_secs_f64());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_observed_once_and_only_when_it_is_over() {
        let metrics = Metrics::new().unwrap();
        let arrivals = Arrivals::default();
        for epoch in [0, 3, 3, 4] {
            arrivals.came(epoch);
        }
        arrivals.stand(&metrics, |epoch| *epoch < 4);
        assert_eq!(metrics.aggregate.get_sample_count(), 1);
        arrivals.stand(&metrics, |_| true);
        assert_eq!(metrics.aggregate.get_sample_count(), 2);
    }
}
