//! Films through the engine: the same windows, the same arithmetic as a running
//! pipeline's.

use std::collections::BTreeMap;

use super::{StudyConfig, StudyError};
use crate::domain::StageRange;
use crate::engine::{Attention, Device, Engine, EngineOptions, Workspace, softmax};
use crate::model::Model;
use crate::study::statistics::auc;
use crate::study::train::Film;

/// A model at work.
pub(super) struct Judge {
    pub(super) engine: Engine,
    pub(super) workspace: Workspace,
    pub(super) frames: usize,
}

/// One window's answer.
pub(super) struct Window {
    /// The number in the recording of its first frame.
    pub(super) first_frame: u64,
    /// Of each class.
    pub(super) probabilities: Vec<f64>,
}

impl Judge {
    pub(super) fn new(model: &Model) -> Result<Self, StudyError> {
        let options = EngineOptions {
            device: Device::Cpu,
            ..EngineOptions::default()
        };
        let engine = Engine::open(model, options)?;
        let workspace = engine.workspace();
        Ok(Self {
            engine,
            workspace,
            frames: model.spec().input.frames,
        })
    }

    /// All windows of a film, `stride` frames apart.
    pub(super) fn score(&mut self, film: &Film, stride: usize) -> Result<Vec<Window>, StudyError> {
        let windows = film.windows(self.frames, stride);
        let mut scored = Vec::with_capacity(windows.len());
        for place in windows {
            let clip = film.clip(place, self.frames);
            let first_frame = clip.frames[0].index;
            let logits = self.engine.infer(&mut self.workspace, &[clip])?;
            scored.extend(logits.iter().map(|logits| Window {
                first_frame,
                probabilities: softmax(logits),
            }));
        }
        Ok(scored)
    }
}

impl Judge {
    /// Where the model looks in the window at `place`, for the severest class.
    pub(super) fn explain(
        &mut self,
        film: &Film,
        place: usize,
        config: &StudyConfig,
    ) -> Result<Attention, StudyError> {
        let clip = film.clip(place, self.frames);
        let class = config.classes.len() - 1;
        let (_, attention) = self
            .engine
            .explain(&mut self.workspace, &clip, Some(class))?;
        Ok(attention)
    }
}

/// AUC of patients at the primary threshold, each by the mean over the windows;
/// None if they are all on one side of it.
pub(super) fn patient_auc(
    config: &StudyConfig,
    model: &Model,
    films: &[&Film],
) -> Result<Option<f64>, StudyError> {
    let mut judge = Judge::new(model)?;
    let mut patients = BTreeMap::new();
    for film in films {
        for window in judge.score(film, config.stride)? {
            let (sum, count, _) = patients
                .entry(&film.patient)
                .or_insert((0.0, 0_u32, film.class));
            *sum += positive(&window.probabilities, &config.classes);
            *count += 1;
        }
    }
    let is_case = |class: usize| config.classes[class].lowest >= super::PRIMARY;
    let rows = patients.values();
    let scored: Vec<_> = rows
        .map(|(sum, count, class)| (sum / f64::from(*count), is_case(*class)))
        .collect();
    Ok(auc(&scored))
}

/// The probability of the primary threshold's stages.
fn positive(probabilities: &[f64], classes: &[StageRange]) -> f64 {
    let pairs = probabilities.iter().zip(classes);
    let severe = pairs.filter(|(_, range)| range.lowest >= super::PRIMARY);
    severe.map(|(p, _)| p).sum()
}
