//! The models of a run, ready to score, and as people see them.

use std::sync::Arc;

use super::intake::size_of;
use crate::cli::scorer::Scoring;
use crate::cli::side_by_side::Opened;
use crate::config::{Pipeline, SourceConfig, SourceKind};
use crate::dataflow::{Live, Scorer};
use crate::domain::ModelHash;
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::serve::{ServedModel, ServedSource};

type Scorers = Vec<Box<dyn Scorer>>;

/// What scores every window: the first model, and those beside it.
pub(super) struct Lanes {
    pub(super) scorers: Scorers,
    pub(super) served: ServedModel,
    pub(super) beside: Vec<(ModelHash, Scorers)>,
    pub(super) served_beside: Vec<ServedModel>,
}

impl Lanes {
    /// What the first model sees is drawn in `live`, what the others see is not.
    pub(super) fn ready(
        pipeline: &Pipeline,
        (model, engine, threads): (&Model, Arc<Engine>, usize),
        others: Vec<Opened>,
        metrics: &Metrics,
        live: &Live,
    ) -> anyhow::Result<Self> {
        let lane = |model: &Model, engine, threads, live: &Live| {
            let metrics = metrics.engine(&model.hash().short());
            let scoring = Scoring::new(engine, pipeline.window.stride, metrics, live);
            let served = served_model(model, pipeline, &scoring);
            Ok::<_, anyhow::Error>((scoring.scorers(threads)?, served))
        };
        let (scorers, served) = lane(model, engine, threads, live)?;
        let (mut beside, mut served_beside) = (Vec::new(), Vec::new());
        for other in others {
            let engine = Arc::new(other.engine);
            let (scorers, served) = lane(&other.model, engine, other.threads, &Live::default())?;
            beside.push((other.model.hash(), scorers));
            served_beside.push(served);
        }
        Ok(Self {
            scorers,
            served,
            beside,
            served_beside,
        })
    }
}

/// A model that scores, as people see it.
fn served_model(model: &Model, pipeline: &Pipeline, scoring: &Scoring) -> ServedModel {
    let spec = model.spec();
    ServedModel {
        hash: model.hash(),
        architecture: spec.architecture.to_string(),
        classes: spec.classes.clone(),
        synthetic: spec.synthetic,
        size: size_of(model),
        window: (spec.input.frames, pipeline.window.stride),
        engine: scoring.engine().description(),
    }
}

/// A source, as people see it.
pub(super) fn served(source: &SourceConfig) -> ServedSource {
    ServedSource {
        name: source.name.clone(),
        kind: match source.kind {
            SourceKind::File(_) => "file",
            SourceKind::Cohort(_) => "cohort",
            SourceKind::Launch(_) => "launch",
            SourceKind::Archive { .. } => "archive",
            SourceKind::Listener(_) => "listener",
        },
        live: source.live,
    }
}
