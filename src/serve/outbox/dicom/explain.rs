//! Where the network looked in a clip that was scored before: the clip is read
//! again from its recording, as the run read it, and its most attended frame is
//! painted.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::domain::{
    Clip, ClipPrediction, Crop, Frame, FrameSize, Instance, ModelHash, PatientId, StreamId,
};
use crate::engine::{Engine, Workspace};
use crate::ingest::sandbox::Sandbox;
use crate::ingest::{Arrival, Look, Media, SourceRequest, Stream};
use crate::metrics::{Metrics, SourceMetrics};
use crate::study::Picture;
use crate::study::heat::{enlarged, painted};

/// How long a recording may take to give a picture.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it takes to say where a run's model looked.
pub struct Explainer {
    /// The model's engine; maps are computed on the CPU, whatever its device.
    pub engine: Arc<Engine>,
    /// Which model.
    pub model: ModelHash,
    /// Whether it was made of synthetic data.
    pub synthetic: bool,
    /// Its input.
    pub size: FrameSize,
    /// From one frame to the next as it has learned, if it says so.
    pub pace: Option<Duration>,
    /// How the run examined its recordings.
    pub look: Look,
    /// The crop that the operator set for a source, by its name.
    pub crops: HashMap<String, Crop>,
    /// Where DICOM is read.
    pub sandbox: Sandbox,
}

impl std::fmt::Debug for Explainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Explainer({})", self.model.short())
    }
}

/// A painted frame.
pub(super) struct KeyFrame {
    /// Its index in the recording, from 0.
    pub(super) index: u64,
    pub(super) picture: Picture,
}

impl Explainer {
    /// The frame of `clip` that spoke most for `class`. The error names no patient.
    pub(super) fn key_frame(
        &self,
        workspace: &mut Workspace,
        clip: &ClipPrediction,
        instance: &Instance,
        class: usize,
    ) -> Result<KeyFrame, String> {
        let crop = self.crops.get(&clip.source).copied();
        let (crop, frames) = self.frames(clip, instance, (crop, self.look, self.size))?;
        let seen = Clip {
            stream: StreamId(0),
            frames,
        };
        let explained = self.engine.explain(workspace, &seen, Some(class));
        let (_, attention) = explained.map_err(|error| error.to_string())?;

        // The same frames once more, as people see them: with even sides.
        let crop = Crop {
            width: (crop.width & !1).max(2),
            height: (crop.height & !1).max(2),
            ..crop
        };
        let size = FrameSize {
            height: crop.height as usize,
            width: crop.width as usize,
        };
        let (_, shown) = self.frames(clip, instance, (Some(crop), Look::PLAIN, size))?;
        let strongest = attention.values.iter().copied().fold(0.0, f32::max);
        let mut most: Option<(f64, usize, Vec<f32>)> = None;
        for place in 0..shown.len() {
            let heat = enlarged(&attention, place, size).map_err(|error| error.to_string())?;
            let sum: f64 = heat.iter().map(|heat| f64::from(*heat)).sum();
            if most.as_ref().is_none_or(|(most, ..)| sum > *most) {
                most = Some((sum, place, heat));
            }
        }
        let (_, place, heat) = most.ok_or("the clip has no frames")?;
        let frame = shown.get(place).ok_or("the clip has no frames")?;
        Ok(KeyFrame {
            index: frame.index,
            picture: painted(&frame.pixels, &heat, strongest, size),
        })
    }

    /// The crop at the recording's begin, and the clip's frames.
    fn frames(
        &self,
        clip: &ClipPrediction,
        instance: &Instance,
        (crop, look, size): (Option<Crop>, Look, FrameSize),
    ) -> Result<(Crop, Vec<Frame>), String> {
        let request = SourceRequest {
            name: "report".into(),
            media: Media::File(instance.file.clone()),
            patient: Some(PatientId::new("report")),
            crop,
            look,
            size,
            queue: 8,
            live: false,
            reconnect: None,
            first_frame_timeout: PATIENCE,
            frame_interval: None,
            pace: self.pace,
        };
        let reader = thread::current();
        let wake = Arc::new(move || reader.unpark());
        let stream = Stream::open_in(self.sandbox.clone(), request, wake, uncounted()?);
        let mut opened = None;
        let mut frames: Vec<Frame> = Vec::new();
        let wanted = clip.span.first_frame..=clip.span.last_frame;
        loop {
            match stream.try_next() {
                None => thread::park(),
                Some(Arrival::Opened(header)) if header.content == clip.key.content => {
                    opened = Some(header.crop);
                }
                Some(Arrival::Opened(_)) => return Err("the recording has changed".into()),
                Some(Arrival::Frame(frame)) if wanted.contains(&frame.index) => {
                    let is_last = frame.index == clip.span.last_frame;
                    frames.push(frame);
                    if is_last {
                        break;
                    }
                }
                Some(Arrival::Frame(frame)) if frame.index < clip.span.first_frame => {}
                Some(Arrival::Frame(_) | Arrival::Ended(Ok(()))) => {
                    return Err("the recording has no such frames any more".into());
                }
                Some(Arrival::Ended(Err(error))) => return Err(error.code().to_owned()),
            }
        }
        let crop = opened.ok_or("the recording did not say what it is")?;
        Ok((crop, frames))
    }
}

/// What is read again is not counted again.
fn uncounted() -> Result<SourceMetrics, String> {
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    Ok(metrics.source("report"))
}
