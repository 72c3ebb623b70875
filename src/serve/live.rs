//! `GET /live`: what goes on now, as server-sent events.
//!
//! | event | when | what |
//! |---|---|---|
//! | `state` | every second | the run and its streams: age of the newest picture, frames, ends |
//! | `metrics` | every second | all counters |
//! | `picture` | when there is a newer one | a JPEG of what the model sees |
//! | `predictions` | when there are new ones | probabilities by window, at first the last ones |
//! | `attention` | when there is a newer one | where the network looked |
//!
//! A viewer is a loop that asks for the newest when the last has been sent: one
//! that reads slowly is sent fewer pictures, and nothing is kept for it.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Site;
use super::api::StreamRow;
use super::auth::Caller;
use super::problem::Problem;
use super::site::millis;
use crate::dataflow::{AttentionWanted, LiveStream};
use crate::domain::StreamId;

/// Pictures of a stream a second, at most.
const TICK: Duration = Duration::from_millis(80);
/// Between two `state` events.
const STATE: Duration = Duration::from_secs(1);
/// Streams whose pictures one viewer gets.
const PICTURES: usize = 8;

/// What a viewer asks for.
#[derive(Debug, Deserialize)]
pub(super) struct Wish {
    /// Numbers of the streams to see, with commas between them; without it, those
    /// that opened last.
    streams: Option<String>,
    /// Whether to show where the network looks.
    #[serde(default)]
    attention: bool,
}

pub(super) async fn live(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Query(wish): Query<Wish>,
) -> Response {
    let Ok(permit) = Arc::clone(&site.viewers).try_acquire_owned() else {
        return Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many live views are open; close one",
        )
        .into_response();
    };
    let chosen = wish.streams.map(|streams| {
        let numbers = streams.split(',').filter_map(|number| number.parse().ok());
        numbers.map(StreamId).take(PICTURES).collect()
    });
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let viewer = Viewer {
        site,
        caller,
        chosen,
        attention: wish.attention,
        shown: HashMap::new(),
        ready: VecDeque::new(),
        tick,
        next_state: Instant::now(),
        _permit: permit,
    };
    let events = stream::unfold(viewer, |mut viewer| async move {
        let event = viewer.next().await;
        Some((Ok::<_, Infallible>(event), viewer))
    });
    Sse::new(events).into_response()
}

/// One browser that looks on.
struct Viewer {
    site: Arc<Site>,
    caller: Caller,
    chosen: Option<Vec<StreamId>>,
    attention: bool,
    shown: HashMap<StreamId, Shown>,
    /// What one look found: a few events for each stream.
    ready: VecDeque<Event>,
    tick: Interval,
    next_state: Instant,
    _permit: OwnedSemaphorePermit,
}

/// What this viewer has seen of a stream.
#[derive(Default)]
struct Shown {
    frame: Option<u64>,
    prediction: u64,
    attention: Option<u64>,
    _wanted: Option<AttentionWanted>,
}

impl Viewer {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            self.tick.tick().await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let streams = self.site.subject.control.live().streams();
        if Instant::now() >= self.next_state {
            self.next_state = Instant::now() + STATE;
            self.ready.extend(event("state", &self.state(&streams)));
            let metrics = self.site.subject.metrics.snapshot();
            self.ready.extend(event("metrics", &metrics));
        }
        let chosen: Vec<_> = match &self.chosen {
            Some(chosen) => {
                let chosen = chosen.iter();
                let found = chosen.filter_map(|id| streams.iter().find(|stream| stream.id == *id));
                found.cloned().collect()
            }
            None => streams.iter().rev().take(PICTURES).cloned().collect(),
        };
        self.shown
            .retain(|id, _| chosen.iter().any(|stream| stream.id == *id));
        for stream in chosen {
            self.look_at(&stream).await;
        }
    }

    async fn look_at(&mut self, stream: &Arc<LiveStream>) {
        let wanted = self.attention;
        let shown = self.shown.entry(stream.id).or_insert_with(|| Shown {
            _wanted: wanted.then(|| stream.want_attention()),
            ..Shown::default()
        });
        let id = stream.id.0;
        if let Some(frame) = stream.frame()
            && shown.frame != Some(frame.index)
        {
            shown.frame = Some(frame.index);
            let (site, key) = (Arc::clone(&self.site), stream.id);
            let (index, time, arrived) = (frame.index, frame.time, frame.arrived);
            let encoding = tokio::task::spawn_blocking(move || {
                let size = site.subject.model.size;
                site.pictures.encode(key, &frame, size)
            });
            if let Ok(Some(jpeg)) = encoding.await {
                let picture = Picture {
                    stream: id,
                    frame: index,
                    seconds: time.as_secs_f64(),
                    age_ms: arrived.elapsed().as_millis() as u64,
                    jpeg: &jpeg,
                };
                self.ready.extend(event("picture", &picture));
            }
        }
        let new = stream.predictions_after(shown.prediction);
        if let Some(last) = new.last() {
            shown.prediction = last.number;
            let windows = new.iter().map(|prediction| Window {
                made_ms: millis(prediction.made),
                frames: (prediction.span.first_frame, prediction.span.last_frame),
                seconds: prediction.span.end.as_secs_f64(),
                gaps: prediction.span.gaps_before,
                latency_ms: prediction.latency.map(|latency| 1e3 * latency),
                p: prediction
                    .probabilities
                    .iter()
                    .map(|p| p.to_f64())
                    .collect(),
            });
            let windows = Windows {
                stream: id,
                windows: windows.collect(),
            };
            self.ready.extend(event("predictions", &windows));
        }
        if self.attention
            && let Some(attention) = stream.attention()
            && shown.attention != Some(attention.frame)
        {
            shown.attention = Some(attention.frame);
            let strongest = attention.values.iter().copied().fold(0.0, f32::max);
            let scale = if strongest > 0.0 {
                255.0 / strongest
            } else {
                0.0
            };
            let levels: Vec<_> = attention.values.iter().map(|v| (v * scale) as u8).collect();
            let map = Map {
                stream: id,
                frame: attention.frame,
                class: attention.class,
                rows: attention.shape[0],
                columns: attention.shape[1],
                strongest,
                levels: STANDARD.encode(levels),
            };
            self.ready.extend(event("attention", &map));
        }
    }

    fn state(&self, streams: &[Arc<LiveStream>]) -> RunState {
        let site = &self.site;
        let one = |stream: &Arc<LiveStream>| StreamRow::of(site, &self.caller, stream);
        RunState {
            now_ms: millis(SystemTime::now()),
            started_ms: millis(site.started),
            stopping: site.subject.control.is_stopping(),
            streams: streams.iter().map(one).collect(),
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Option<Event> {
    // Numbers and texts of ours always become JSON.
    Event::default().event(name).json_data(data).ok()
}

#[derive(Serialize)]
struct RunState {
    now_ms: u64,
    started_ms: u64,
    stopping: bool,
    streams: Vec<StreamRow>,
}

#[derive(Serialize)]
struct Picture<'a> {
    stream: u32,
    frame: u64,
    seconds: f64,
    age_ms: u64,
    jpeg: &'a str,
}

#[derive(Serialize)]
struct Windows {
    stream: u32,
    windows: Vec<Window>,
}

#[derive(Serialize)]
struct Window {
    made_ms: u64,
    frames: (u64, u64),
    seconds: f64,
    gaps: u64,
    latency_ms: Option<f64>,
    p: Vec<f64>,
}

#[derive(Serialize)]
struct Map {
    stream: u32,
    frame: u64,
    class: usize,
    rows: usize,
    columns: usize,
    strongest: f32,
    /// Bytes, row by row, 255 for the strongest place.
    levels: String,
}
