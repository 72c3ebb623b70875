//! Following one stream: a window's logits every `S` frames, for the cost of what
//! is new in it.

use std::collections::VecDeque;
use std::sync::Arc;

pub use super::cpu::Cost;
use super::cpu::{self, Sliding};
use super::{Attention, Backend, Engine, EngineError, Scratch, Workspace};
use crate::domain::{Clip, Frame, StreamId};

/// How windows follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Frames from the start of one window to the start of the next, `S`, at
    /// least one.
    pub stride: usize,
    /// Compute at each frame what it makes possible, so that less is left to do
    /// when a window's last frame comes; else all of it then, which costs less
    /// altogether.
    pub early: bool,
    /// Say for each window where the network looked; see [`Session::attention`].
    pub attention: bool,
}

/// Why windows share nothing, where they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipByClip {
    /// Windows do not overlap.
    Apart,
    /// Too little of a window is independent of where it begins: its layers pad
    /// it with zeros in time.
    PaddedInTime,
    /// What windows share does not come to repeat itself.
    Irregular,
    /// The device scores whole clips only.
    Device,
}

impl std::fmt::Display for ClipByClip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Apart => "windows do not overlap",
            Self::PaddedInTime => {
                "too little is shared: layers that pad with zeros in time see where a window ends"
            }
            Self::Irregular => "no pattern was found in what windows share",
            Self::Device => "this device scores whole clips only",
        })
    }
}

/// How an engine scores the windows of any stream; made by
/// [`Engine::session_plan`], and shared by its sessions.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    options: SessionOptions,
    clip_by_clip: Option<ClipByClip>,
    layers: Vec<(String, Cost)>,
    session_bytes: usize,
    cpu: Option<Arc<cpu::SessionPlan>>,
}

/// The state of one stream; made by [`Engine::session`].
///
/// Frames that do not follow each other (by index, or by what the source says)
/// begin a new series of windows.
#[derive(Debug)]
pub struct Session {
    state: State,
    stride: usize,
    last: Option<Frame>,
    wants_attention: bool,
    attention: Option<Attention>,
}

#[derive(Debug)]
enum State {
    Cpu(Box<cpu::Session>),
    /// For a device that scores whole clips: the frames of the next one.
    Clips {
        recent: VecDeque<Frame>,
        /// Frames to leave out before the next window, where `S > W`.
        skip: usize,
    },
}

/// Windows share their values if that leaves at most so much of the work: what
/// lies in many small pieces costs more to compute.
const WORTH_IT: f64 = 0.8;

impl SessionPlan {
    /// What was asked for.
    pub fn options(&self) -> SessionOptions {
        self.options
    }

    /// Why windows share nothing; None if they do.
    pub fn clip_by_clip(&self) -> Option<ClipByClip> {
        self.clip_by_clip
    }

    /// What each layer costs, in the network's order; empty where whole clips
    /// are scored.
    pub fn layers(&self) -> &[(String, Cost)] {
        &self.layers
    }

    /// What a window costs.
    pub fn cost(&self) -> Cost {
        self.layers.iter().map(|(_, cost)| *cost).sum()
    }

    /// Bytes that a session holds at most.
    pub fn session_bytes(&self) -> usize {
        self.session_bytes
    }
}

impl Engine {
    /// Works out what windows of this stride share, and whether sharing pays.
    pub fn session_plan(&self, options: SessionOptions) -> SessionPlan {
        let options = SessionOptions {
            stride: options.stride.max(1),
            ..options
        };
        let length = self.input.frames;
        let whole_clips = |reason| SessionPlan {
            options,
            clip_by_clip: Some(reason),
            layers: Vec::new(),
            session_bytes: length * self.input.height * self.input.width,
            cpu: None,
        };
        let Backend::Cpu(program) = &self.backend else {
            return whole_clips(ClipByClip::Device);
        };
        let sliding = Sliding {
            length,
            stride: options.stride,
            across: true,
            early: options.early,
        };
        let head = self.head.as_ref().filter(|_| options.attention);
        let features = head.map(|head| head.features);
        let shared = if options.stride >= length {
            Err(ClipByClip::Apart)
        } else {
            match cpu::SessionPlan::new(program, sliding, features) {
                Some(plan) if plan.cost().ratio() <= WORTH_IT => Ok(plan),
                Some(_) => Err(ClipByClip::PaddedInTime),
                None => Err(ClipByClip::Irregular),
            }
        };
        let apart = Sliding {
            across: false,
            ..sliding
        };
        let (plan, reason) = match shared {
            Ok(plan) => (plan, None),
            Err(reason) => match cpu::SessionPlan::new(program, apart, features) {
                Some(plan) => (plan, Some(reason)),
                None => return whole_clips(reason),
            },
        };
        SessionPlan {
            options,
            clip_by_clip: reason,
            layers: plan.costs(),
            session_bytes: plan.session_bytes(),
            cpu: Some(Arc::new(plan)),
        }
    }

    /// A session for one stream.
    pub fn session(&self, plan: &SessionPlan) -> Session {
        let state = match &plan.cpu {
            Some(plan) => State::Cpu(Box::new(cpu::Session::new(Arc::clone(plan)))),
            None => State::Clips {
                recent: VecDeque::with_capacity(self.input.frames),
                skip: 0,
            },
        };
        Session {
            state,
            stride: plan.options.stride,
            last: None,
            wants_attention: plan.options.attention,
            attention: None,
        }
    }
}

impl Session {
    /// Takes the stream's next frame; gives the logits, `[K]`, of the window that
    /// it completes: bit by bit those that [`Engine::infer`] gives.
    ///
    /// # Errors
    /// If the picture has another size than the model takes; the session begins
    /// anew behind it.
    ///
    /// # Panics
    /// If session or workspace belong to another engine.
    pub fn push(
        &mut self,
        engine: &Engine,
        workspace: &mut Workspace,
        frame: &Frame,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        let input = &engine.input;
        if frame.pixels.len() != input.height * input.width {
            self.reset();
            return Err(engine.misshapen(vec![1, 1, frame.pixels.len()]));
        }
        let follows = |last: &Frame| frame.index == last.index + 1 && !frame.discontinuity;
        if !self.last.as_ref().is_none_or(follows) {
            self.reset();
        }
        self.last = Some(frame.clone());
        self.attention = None;
        match &mut self.state {
            State::Cpu(session) => {
                let (Backend::Cpu(program), Scratch::Cpu(buffers)) =
                    (&engine.backend, &mut workspace.0)
                else {
                    panic!("a session of another engine");
                };
                let logits = session.push(program, buffers, &frame.pixels, &engine.grey);
                let Some(logits) = logits.map(<[f32]>::to_vec) else {
                    return Ok(None);
                };
                if let (true, Some(head)) = (self.wants_attention, &engine.head) {
                    let class = engine.class(None, &logits)?;
                    self.attention = Some(head.attention(buffers.get(head.features), class));
                }
                Ok(Some(logits))
            }
            State::Clips { recent, skip } => {
                if *skip > 0 {
                    *skip -= 1;
                    return Ok(None);
                }
                recent.push_back(frame.clone());
                if recent.len() < input.frames {
                    return Ok(None);
                }
                let clip = Clip {
                    stream: StreamId(0),
                    frames: recent.iter().cloned().collect(),
                };
                *skip = self.stride.saturating_sub(input.frames);
                recent.drain(..self.stride.min(input.frames));
                if self.wants_attention && engine.head.is_some() {
                    let (logits, attention) = engine.explain(workspace, &clip, None)?;
                    self.attention = Some(attention);
                    return Ok(Some(logits));
                }
                let mut rows = engine.infer(workspace, &[clip])?;
                Ok(rows.pop())
            }
        }
    }

    /// Scores a clip that was assembled elsewhere, `S` frames behind the last
    /// one: only its new frames are looked at. After any other clip than that,
    /// the session begins anew with this one.
    ///
    /// # Errors
    /// If the clip has another shape than the model takes.
    ///
    /// # Panics
    /// If session or workspace belong to another engine.
    pub fn score(
        &mut self,
        engine: &Engine,
        workspace: &mut Workspace,
        clip: &Clip,
    ) -> Result<Vec<f32>, EngineError> {
        let frames = &clip.frames;
        let known = match &self.state {
            State::Cpu(session) if frames.len() == engine.input.frames => {
                usize::try_from(session.overlap()).unwrap_or(0)
            }
            _ => 0,
        };
        // The very same picture as the last one that the session took.
        let follows = known > 0
            && known < frames.len()
            && self.last.as_ref().is_some_and(|last| {
                let same = &frames[known - 1];
                last.index == same.index && Arc::ptr_eq(&last.pixels, &same.pixels)
            });
        if !follows {
            self.reset();
        }
        let new = if follows { &frames[known..] } else { frames };
        let mut logits = None;
        for frame in new {
            logits = self.push(engine, workspace, frame)?;
        }
        logits.ok_or_else(|| engine.misshapen(vec![1, frames.len(), 0]))
    }

    /// Where the network looked for the likeliest class in the window whose logits
    /// came last: that of [`Engine::explain`], bit by bit. None before the next
    /// window, if it was not asked for, or no map can be made of this network.
    pub fn attention(&self) -> Option<&Attention> {
        self.attention.as_ref()
    }

    /// Begins anew, as after a seek.
    pub fn reset(&mut self) {
        self.last = None;
        self.attention = None;
        match &mut self.state {
            State::Cpu(session) => session.reset(),
            State::Clips { recent, skip } => {
                recent.clear();
                *skip = 0;
            }
        }
    }

    /// Bytes that it holds now: pictures, and values that the next windows read.
    pub fn bytes(&self) -> usize {
        match &self.state {
            State::Cpu(session) => session.bytes(),
            State::Clips { recent, .. } => recent.iter().map(|frame| frame.pixels.len()).sum(),
        }
    }
}
