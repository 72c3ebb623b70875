//! Following one stream: a window's logits every `S` frames, for the cost of what
//! is new in it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::course::Due;
use super::reuse::{Cost, Sliding};
use super::{Attention, Backend, Engine, EngineError, Scratch, Workspace, cpu, cuda};
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
    /// The card was given up.
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
            Self::Device => "the card was given up",
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
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    Cpu(Arc<cpu::SessionPlan>),
    Card(Arc<cuda::SessionPlan>),
    Clips,
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
    Card {
        session: Box<cuda::Session>,
        /// For when the card fails: it is asked for the whole clip then.
        window: Window,
        /// Whether what the session held is lost.
        failed: bool,
    },
    /// Whole clips only.
    Clips(Window),
}

/// The frames of the next window.
#[derive(Debug, Default)]
struct Window {
    frames: VecDeque<Frame>,
    /// Frames to leave out before it, where `S > W`.
    skip: usize,
}

/// A window that is scored as a whole.
struct Whole {
    /// Of the arrival.
    number: usize,
    clip: Clip,
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

    /// Bytes that a session holds at most; on a card, of the card's memory too.
    pub fn session_bytes(&self) -> usize {
        self.session_bytes
    }
}

/// The plan whose windows share, if that pays; else the one whose windows do not,
/// and why.
fn choose<P>(
    sliding: Sliding,
    plan: impl Fn(Sliding) -> Option<P>,
    cost: impl Fn(&P) -> Cost,
) -> (Option<P>, Option<ClipByClip>) {
    let shared = if sliding.stride >= sliding.length {
        Err(ClipByClip::Apart)
    } else {
        match plan(sliding) {
            Some(plan) if cost(&plan).ratio() <= WORTH_IT => Ok(plan),
            Some(_) => Err(ClipByClip::PaddedInTime),
            None => Err(ClipByClip::Irregular),
        }
    };
    let apart = Sliding {
        across: false,
        ..sliding
    };
    match shared {
        Ok(plan) => (Some(plan), None),
        Err(reason) => (plan(apart), Some(reason)),
    }
}

/// Takes those that are due for the same stage and alike, as many as the first one is
/// to have for company: their numbers, and the states of the sessions.
fn together<'s, T>(
    arrivals: &'s mut [(&mut Session, &Frame)],
    dues: &mut [Option<Due>],
    due: Due,
    most: impl Fn(&T) -> usize,
    state: impl Fn(&'s mut State) -> Option<&'s mut T>,
    is_like: impl Fn(&T, &T) -> bool,
) -> (Vec<usize>, Vec<&'s mut T>) {
    let (mut numbers, mut sessions): (Vec<_>, Vec<&mut T>) = Default::default();
    for (number, (session, _)) in arrivals.iter_mut().enumerate() {
        if dues[number] != Some(due) {
            continue;
        }
        let Some(session) = state(&mut session.state) else {
            continue;
        };
        let fits = |first: &&mut T| is_like(first, session) && sessions.len() < most(first);
        if sessions.first().is_none_or(fits) {
            dues[number] = None;
            numbers.push(number);
            sessions.push(session);
        }
    }
    (numbers, sessions)
}

impl Engine {
    /// Works out what windows of this stride share, and whether sharing pays.
    pub fn session_plan(&self, options: SessionOptions) -> SessionPlan {
        let options = SessionOptions {
            stride: options.stride.max(1),
            ..options
        };
        let sliding = Sliding {
            length: self.input.frames,
            stride: options.stride,
            across: true,
            early: options.early,
        };
        let picture = self.input.height * self.input.width;
        let whole_clips = |reason| SessionPlan {
            options,
            clip_by_clip: Some(reason),
            layers: Vec::new(),
            session_bytes: self.input.frames * picture,
            method: Method::Clips,
        };
        match &self.backend {
            Backend::Cpu(program) => {
                let head = self.head.as_ref().filter(|_| options.attention);
                let features = head.map(|head| head.features);
                let plan = |sliding| cpu::SessionPlan::new(program, sliding, features);
                let (plan, reason) = choose(sliding, plan, cpu::SessionPlan::cost);
                let Some(plan) = plan else {
                    return whole_clips(reason.unwrap_or(ClipByClip::Irregular));
                };
                SessionPlan {
                    options,
                    clip_by_clip: reason,
                    layers: plan.costs(),
                    session_bytes: plan.session_bytes(),
                    method: Method::Cpu(Arc::new(plan)),
                }
            }
            Backend::Cuda(backend) => {
                if backend.health().fell_back {
                    return whole_clips(ClipByClip::Device);
                }
                let plan = |sliding| backend.session_plan(sliding);
                let (plan, reason) = choose(sliding, plan, cuda::SessionPlan::cost);
                match (plan, reason) {
                    // Whole clips of several streams are computed together.
                    (_, Some(reason)) if !options.early => whole_clips(reason),
                    (None, reason) => whole_clips(reason.unwrap_or(ClipByClip::Irregular)),
                    (Some(plan), reason) => SessionPlan {
                        options,
                        clip_by_clip: reason,
                        layers: plan.costs(),
                        // And the window's pictures.
                        session_bytes: plan.session_bytes() + self.input.frames * picture,
                        method: Method::Card(Arc::new(plan)),
                    },
                }
            }
        }
    }

    /// A session for one stream.
    pub fn session(&self, plan: &SessionPlan) -> Session {
        let state = match &plan.method {
            Method::Cpu(plan) => State::Cpu(Box::new(cpu::Session::new(Arc::clone(plan)))),
            Method::Card(plan) => State::Card {
                session: Box::new(cuda::Session::new(Arc::clone(plan))),
                window: Window::default(),
                failed: false,
            },
            Method::Clips => State::Clips(Window::default()),
        };
        Session {
            state,
            stride: plan.options.stride,
            last: None,
            wants_attention: plan.options.attention,
            attention: None,
        }
    }

    /// Streams whose frames are better given to [`Engine::push_all`] together than one
    /// after the other, where their windows share values.
    pub fn streams(&self) -> usize {
        match &self.backend {
            Backend::Cpu(program) => program.streams(),
            Backend::Cuda(backend) => backend.batch(),
        }
    }

    /// [`Session::push`] for a frame each of several streams. What is due at the
    /// same time is computed together where that costs less, to the same bits.
    ///
    /// # Panics
    /// If sessions or workspace belong to another engine.
    pub fn push_all(
        &self,
        workspace: &mut Workspace,
        arrivals: &mut [(&mut Session, &Frame)],
    ) -> Vec<Result<Option<Vec<f32>>, EngineError>> {
        let mut answers = Vec::with_capacity(arrivals.len());
        let mut dues = vec![None; arrivals.len()];
        let mut wholes = Vec::new();
        for (number, (session, frame)) in arrivals.iter_mut().enumerate() {
            answers.push(session.take(self, frame).map(|()| None));
            if answers[number].is_err() {
                continue;
            }
            let stride = session.stride;
            let mut whole = |window: &mut Window| {
                let clip = window.push(frame, self.input.frames, stride);
                wholes.extend(clip.map(|clip| Whole { number, clip }));
            };
            match &mut session.state {
                State::Cpu(session) => dues[number] = session.push(&frame.pixels),
                State::Card {
                    session,
                    window,
                    failed,
                } => {
                    whole(window);
                    if !*failed {
                        dues[number] = session.push(&frame.pixels);
                    }
                }
                State::Clips(window) => whole(window),
            }
        }
        self.run_stages(workspace, arrivals, &mut dues, &mut answers);
        // What the card has answered needs a map at most.
        wholes.retain(|whole| {
            let session = &arrivals[whole.number].0;
            let is_answered = matches!(&answers[whole.number], Ok(Some(_)));
            !is_answered || (session.wants_attention && self.head.is_some())
        });
        self.score_whole(workspace, arrivals, &wholes, &mut answers);
        answers
    }

    /// Computes what is due, the same stage of several streams at once.
    fn run_stages(
        &self,
        workspace: &mut Workspace,
        arrivals: &mut [(&mut Session, &Frame)],
        dues: &mut [Option<Due>],
        answers: &mut [Result<Option<Vec<f32>>, EngineError>],
    ) {
        while let Some(due) = dues.iter().copied().flatten().next() {
            match (&self.backend, &mut workspace.0) {
                (Backend::Cpu(program), Scratch::Cpu(buffers)) => {
                    let state = |state| match state {
                        &mut State::Cpu(ref mut session) => Some(&mut **session),
                        _ => None,
                    };
                    let like = cpu::Session::is_like;
                    let most = |session: &cpu::Session| session.company(program, due);
                    let (numbers, mut sessions) = together(arrivals, dues, due, most, state, like);
                    let is_last = program.run_stage(buffers, due, &mut sessions, &self.grey);
                    for (clip, number) in numbers.into_iter().enumerate().filter(|_| is_last) {
                        let logits = program.output(buffers, clip).to_vec();
                        let session = &mut *arrivals[number].0;
                        let seen = session.look(self, program, buffers, clip, &logits);
                        answers[number] = seen.map(|()| Some(logits));
                    }
                }
                (Backend::Cuda(backend), Scratch::Cuda(scratch)) => {
                    let state = |state| match state {
                        &mut State::Card {
                            ref mut session, ..
                        } => Some(&mut **session),
                        _ => None,
                    };
                    let like = cuda::Session::is_like;
                    let (numbers, mut sessions) =
                        together(arrivals, dues, due, |_| usize::MAX, state, like);
                    let rows = backend.run_stage(scratch, due, &mut sessions);
                    for (number, row) in numbers.into_iter().zip(rows) {
                        match row {
                            cuda::Served::Stage => {}
                            cuda::Served::Window(logits) => answers[number] = Ok(Some(logits)),
                            cuda::Served::Failed => arrivals[number].0.fail(),
                        }
                    }
                }
                _ => panic!("a session of another engine"),
            }
        }
    }

    /// Scores windows as whole clips; a session that failed begins anew behind its.
    fn score_whole(
        &self,
        workspace: &mut Workspace,
        arrivals: &mut [(&mut Session, &Frame)],
        wholes: &[Whole],
        answers: &mut [Result<Option<Vec<f32>>, EngineError>],
    ) {
        let explains = |session: &Session| session.wants_attention && self.head.is_some();
        let (explained, plain): (Vec<_>, Vec<_>) = wholes
            .iter()
            .partition(|whole| explains(arrivals[whole.number].0));
        let clips: Vec<_> = plain.iter().map(|whole| whole.clip.clone()).collect();
        if !clips.is_empty() {
            match self.infer(workspace, &clips) {
                Ok(rows) => {
                    for (whole, row) in plain.iter().zip(rows) {
                        answers[whole.number] = Ok(Some(row));
                    }
                }
                // Then each has an error of its own.
                Err(_) => {
                    for whole in &plain {
                        let rows = self.infer(workspace, std::slice::from_ref(&whole.clip));
                        answers[whole.number] = rows.map(|mut rows| rows.pop());
                    }
                }
            }
        }
        for whole in explained {
            let explanation = self.explain(workspace, &whole.clip, None);
            answers[whole.number] = explanation.map(|(logits, attention)| {
                arrivals[whole.number].0.attention = Some(attention);
                Some(logits)
            });
        }
        for whole in wholes {
            self.begin_anew(workspace, arrivals[whole.number].0);
        }
    }

    /// A session on a card that failed takes the frames of its next window again.
    fn begin_anew(&self, workspace: &mut Workspace, session: &mut Session) {
        let State::Card {
            session,
            window,
            failed: failed @ true,
        } = &mut session.state
        else {
            return;
        };
        let (Backend::Cuda(backend), Scratch::Cuda(scratch)) = (&self.backend, &mut workspace.0)
        else {
            return;
        };
        session.reset();
        for frame in &window.frames {
            let Some(due) = session.push(&frame.pixels) else {
                continue;
            };
            let rows = backend.run_stage(scratch, due, &mut [session]);
            if !matches!(rows.as_slice(), [cuda::Served::Stage]) {
                return;
            }
        }
        *failed = false;
    }

    /// [`Session::score`] for a clip each of several streams. What is due at the
    /// same time is computed together where that costs less, to the same bits.
    ///
    /// # Panics
    /// If sessions or workspace belong to another engine.
    pub fn score_all(
        &self,
        workspace: &mut Workspace,
        clips: &mut [(&mut Session, &Clip)],
    ) -> Vec<Result<Vec<f32>, EngineError>> {
        let new: Vec<_> = clips
            .iter_mut()
            .map(|(session, clip)| session.unseen(clip))
            .collect();
        let mut answers: Vec<_> = clips.iter().map(|_| Ok(None)).collect();
        // All of them end with the same turn.
        for left in (1..=new.iter().copied().max().unwrap_or(0)).rev() {
            let turn = clips.iter_mut().zip(&new).enumerate();
            let turn = turn.filter(|(number, (_, new))| **new >= left && answers[*number].is_ok());
            let (numbers, mut arrivals): (Vec<_>, Vec<_>) = turn
                .map(|(number, ((session, clip), _))| {
                    (
                        number,
                        (&mut **session, &clip.frames[clip.frames.len() - left]),
                    )
                })
                .unzip();
            let rows = self.push_all(workspace, &mut arrivals);
            for (number, row) in numbers.into_iter().zip(rows) {
                answers[number] = row;
            }
        }
        let answers = answers.into_iter().zip(clips.iter());
        answers
            .map(|(answer, (_, clip))| {
                answer?.ok_or_else(|| self.misshapen(vec![1, clip.frames.len(), 0]))
            })
            .collect()
    }
}

impl Window {
    /// Takes a frame; gives the window that it completes.
    fn push(&mut self, frame: &Frame, length: usize, stride: usize) -> Option<Clip> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.frames.push_back(frame.clone());
        if self.frames.len() < length {
            return None;
        }
        let clip = Clip {
            stream: StreamId(0),
            frames: self.frames.iter().cloned().collect(),
        };
        self.skip = stride.saturating_sub(length);
        self.frames.drain(..stride.min(length));
        Some(clip)
    }

    fn bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.pixels.len()).sum()
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
        let mut answers = engine.push_all(workspace, &mut [(self, frame)]);
        answers.pop().unwrap_or(Ok(None))
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
        let mut answers = engine.score_all(workspace, &mut [(self, clip)]);
        let none = || Err(engine.misshapen(vec![1, clip.frames.len(), 0]));
        answers.pop().unwrap_or_else(none)
    }

    /// Looks whether a frame fits and follows the last one.
    fn take(&mut self, engine: &Engine, frame: &Frame) -> Result<(), EngineError> {
        if frame.pixels.len() != engine.input.height * engine.input.width {
            self.reset();
            return Err(engine.misshapen(vec![1, 1, frame.pixels.len()]));
        }
        let follows = |last: &Frame| frame.follows(last.index);
        if !self.last.as_ref().is_none_or(follows) {
            self.reset();
        }
        self.last = Some(frame.clone());
        self.attention = None;
        Ok(())
    }

    /// Keeps where the network looked in the window that was just computed as this
    /// clip, if that is wanted.
    fn look(
        &mut self,
        engine: &Engine,
        program: &cpu::Program,
        buffers: &cpu::Buffers,
        clip: usize,
        logits: &[f32],
    ) -> Result<(), EngineError> {
        if let (true, Some(head)) = (self.wants_attention, &engine.head) {
            let class = engine.class(None, logits)?;
            self.attention =
                Some(head.attention(program.value(buffers, clip, head.features), class));
        }
        Ok(())
    }

    /// How many of a clip's frames, at its end, were not taken yet; begins anew if
    /// the clip is not the next window.
    fn unseen(&mut self, clip: &Clip) -> usize {
        let known = match &self.state {
            State::Cpu(session) => usize::try_from(session.overlap()).unwrap_or(0),
            State::Card { window, .. } | State::Clips(window) => window.frames.len(),
        };
        // The very same picture as the last one that the session took.
        let last = known.checked_sub(1).and_then(|last| clip.frames.get(last));
        let follows = known < clip.frames.len()
            && last.zip(self.last.as_ref()).is_some_and(|(same, last)| {
                last.index == same.index && Arc::ptr_eq(&last.pixels, &same.pixels)
            });
        if follows {
            return clip.frames.len() - known;
        }
        self.reset();
        clip.frames.len()
    }

    /// The card has lost what it held.
    fn fail(&mut self) {
        if let State::Card { failed, .. } = &mut self.state {
            *failed = true;
        }
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
            State::Card {
                session,
                window,
                failed,
            } => {
                session.reset();
                *window = Window::default();
                *failed = false;
            }
            State::Clips(window) => *window = Window::default(),
        }
    }

    /// Bytes that it holds now: pictures, and values that the next windows read.
    pub fn bytes(&self) -> usize {
        match &self.state {
            State::Cpu(session) => session.bytes(),
            State::Card {
                session, window, ..
            } => session.bytes() + window.bytes(),
            State::Clips(window) => window.bytes(),
        }
    }
}

#[cfg(test)]
mod tests;
