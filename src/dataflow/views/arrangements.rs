use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use differential_dataflow::logging::{DifferentialEvent, DifferentialEventBuilder};
use timely::worker::Worker;

use crate::metrics::{ArrangementMetrics, Metrics};

/// A part of the graph, and the first operator number behind it.
pub type Part = (&'static str, usize);

/// Counts what the arrangements of one worker hold, part by part of the graph, from
/// what differential dataflow logs of their batches.
///
/// An arrangement compacts as its batches merge: what was corrected and what
/// replaced it become one update. Were that to fail, these numbers would grow with
/// every correction.
pub struct Arrangements {
    parts: Rc<RefCell<Vec<(usize, ArrangementMetrics)>>>,
    metrics: Metrics,
}

impl Arrangements {
    /// Follows `worker`, whose graph is not built yet.
    pub fn follow(worker: &Worker, metrics: &Metrics) -> Self {
        let parts: Rc<RefCell<Vec<(usize, ArrangementMetrics)>>> = Rc::default();
        if let Some(mut register) = worker.log_register() {
            let parts = Rc::clone(&parts);
            register.insert::<DifferentialEventBuilder, _>(
                "differential/arrange",
                move |_, events: &mut Option<Vec<(Duration, DifferentialEvent)>>| {
                    let parts = parts.borrow();
                    for (_, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
                        count(&parts, &event);
                    }
                },
            );
        }
        Self {
            parts,
            metrics: metrics.clone(),
        }
    }

    /// Says what the graph, which is built now, is made of.
    pub fn name(&self, parts: &[Part]) {
        let metrics = parts
            .iter()
            .map(|&(name, end)| (end, self.metrics.arrangement(name)));
        self.parts.borrow_mut().extend(metrics);
    }
}

fn count(parts: &[(usize, ArrangementMetrics)], event: &DifferentialEvent) {
    let (operator, records, batches) = match event {
        DifferentialEvent::Batch(batch) => (batch.operator, batch.length as i64, 1),
        DifferentialEvent::Merge(merge) => match merge.complete {
            Some(length) => {
                let before = (merge.length1 + merge.length2) as i64;
                (merge.operator, length as i64 - before, -1)
            }
            None => return,
        },
        DifferentialEvent::Drop(batch) => (batch.operator, -(batch.length as i64), -1),
        _ => return,
    };
    if let Some((_, metrics)) = parts.iter().find(|(end, _)| operator < *end) {
        metrics.records.add(records);
        metrics.batches.add(batches);
    }
}
