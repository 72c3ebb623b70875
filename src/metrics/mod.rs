//! Everything that is counted, in Prometheus conventions.
//!
//! One [`Metrics`] per run holds its own registry, so that two runs in one
//! process (as in tests) do not add up. Rooms that count take the handle they
//! need: ingest a [`SourceMetrics`], the dataflow the rest. Labels are bounded:
//! `source` is a name from the pipeline file, `reason` one of [`DropReason`], `view`
//! one of the seven parts of the graph that keeps answers, `class` one of a model's,
//! `model` the short hash of one that the pipeline file names.

mod cards;
mod clinical;
mod snapshot;

pub use cards::CardMetrics;
pub use clinical::{ClinicalMetrics, Reference};
pub use snapshot::{Sample, Value};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};

/// Why a frame that arrived was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A live source's queue was full: the oldest frame made room.
    QueueFull,
    /// A live source's decoder was faster than the reader behind it.
    ReaderBusy,
    /// The frame could not be mapped, cropped or resized.
    Unreadable,
    /// The run ended while the frame was still queued.
    Shutdown,
    /// The picture shows nothing.
    Blank,
    /// The probe touches no body: near field, and darkness below it.
    InAir,
    /// Doppler, an elastogram or other colour lies over the tissue.
    Colour,
    /// Two pictures stand side by side.
    DualScreen,
    /// The first picture of another scene.
    SceneCut,
    /// The picture stands still.
    Freeze,
    /// It came faster than the model has learned from, and others were taken.
    Pace,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::QueueFull,
        Self::ReaderBusy,
        Self::Unreadable,
        Self::Shutdown,
        Self::Blank,
        Self::InAir,
        Self::Colour,
        Self::DualScreen,
        Self::SceneCut,
        Self::Freeze,
        Self::Pace,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ReaderBusy => "reader_busy",
            Self::Unreadable => "unreadable",
            Self::Shutdown => "shutdown",
            Self::Blank => "blank",
            Self::InAir => "probe_in_air",
            Self::Colour => "colour",
            Self::DualScreen => "dual_screen",
            Self::SceneCut => "scene_cut",
            Self::Freeze => "freeze",
            Self::Pace => "pace",
        }
    }
}

/// Why a live source had to be opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// It gave frames and then none for too long.
    Stalled,
    /// It said that it has ended.
    Ended,
    /// It broke off with an error, or could not be opened.
    Failed,
    /// It was opened and gave no frame.
    NoFrames,
}

impl Interruption {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Stalled, Self::Ended, Self::Failed, Self::NoFrames];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::NoFrames => "no_frames",
        }
    }
}

/// What became of a DICOM instance that a peer pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceOutcome {
    /// Acknowledged, and new.
    Stored,
    /// Acknowledged, and there already.
    Duplicate,
    /// Answered with a failure.
    Refused,
}

impl InstanceOutcome {
    /// All outcomes.
    pub const ALL: [Self; 3] = [Self::Stored, Self::Duplicate, Self::Refused];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
        }
    }
}

/// The counters of one DICOM listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// Associations under way.
    pub associations: IntGauge,
    /// Peers turned away because there were too many.
    pub turned_away: IntCounter,
    /// Associations that were refused or ended without a release.
    pub broken: IntCounter,
    instances: [IntCounter; InstanceOutcome::ALL.len()],
}

impl ListenerMetrics {
    /// Instances that met with `outcome`.
    pub fn instances(&self, outcome: InstanceOutcome) -> &IntCounter {
        &self.instances[outcome as usize]
    }
}

/// The counters of one sink.
#[derive(Clone, Debug)]
pub struct SinkMetrics {
    /// Changes that wait for it.
    pub backlog: IntGauge,
    /// Changes that it refuses while it takes others.
    pub parked: IntGauge,
    /// Changes that it took.
    pub delivered: IntCounter,
    /// Attempts that failed.
    pub failures: IntCounter,
}

/// How much the arrangements of one part of the views hold, over all workers.
#[derive(Clone, Debug)]
pub struct ArrangementMetrics {
    /// Updates.
    pub records: IntGauge,
    /// Batches that these lie in.
    pub batches: IntGauge,
}

/// The engine of one of the models that score in a run.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    /// Streams whose windows share what they have in common.
    pub sessions: IntGauge,
    /// Bytes that these hold.
    pub session_bytes: IntGauge,
    /// How often a batch was halved, since the card had no room.
    pub batches_halved: IntGauge,
    /// How often the engine was rebuilt after an error of the card.
    pub rebuilds: IntGauge,
    /// 1 when the card was given up, and the CPU computes.
    pub fell_back: IntGauge,
}

/// The counters of one run.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    frames_received: IntCounterVec,
    frames_used: IntCounterVec,
    frames_dropped: IntCounterVec,
    gaps: IntCounterVec,
    windows: IntCounterVec,
    stream_up: IntGaugeVec,
    last_frame: GaugeVec,
    interruptions: IntCounterVec,
    source_failures: IntCounterVec,
    associations: IntGaugeVec,
    associations_turned_away: IntCounterVec,
    associations_broken: IntCounterVec,
    instances: IntCounterVec,
    outbox_backlog: IntGaugeVec,
    outbox_parked: IntGaugeVec,
    outbox_delivered: IntCounterVec,
    outbox_failures: IntCounterVec,
    arrangement_records: IntGaugeVec,
    arrangement_batches: IntGaugeVec,
    sessions: IntGaugeVec,
    session_bytes: IntGaugeVec,
    engine_batches_halved: IntGaugeVec,
    engine_rebuilds: IntGaugeVec,
    engine_fell_back: IntGaugeVec,
    /// Streams that gave a first frame, since the run began.
    pub streams_opened: IntCounter,
    /// Streams that are over, each once: they ended, failed, were removed, or left out
    /// because another had the same bytes.
    pub streams_ended: IntCounter,
    /// Clip predictions made.
    pub predictions: IntCounter,
    /// Windows left out because the store already held their prediction.
    pub windows_resumed: IntCounter,
    /// Clips waiting for or in inference.
    pub clips_in_flight: IntGauge,
    /// Patients with a standing answer.
    pub patients: IntGauge,
    /// Bytes sent to other processes of the group.
    pub group_bytes_sent: IntCounter,
    /// Bytes that came from other processes of the group.
    pub group_bytes_received: IntCounter,
    preprocess: Histogram,
    /// Seconds from the arrival of a window's last frame until inference began.
    pub queue: Histogram,
    /// Seconds that inference took for one batch of clips.
    pub inference: Histogram,
    /// Seconds from the arrival of a window's last frame to its prediction.
    pub frame_to_prediction: Histogram,
    /// Seconds from a prediction until the answers that rest on it stood.
    pub aggregate: Histogram,
    /// Seconds that committing one batch of results took.
    pub store: Histogram,
    /// What is counted about answers.
    pub clinical: ClinicalMetrics,
    /// Memory and use of NVIDIA cards.
    pub cards: CardMetrics,
}

/// The counters of one source, looked up once.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Frames that the source delivered.
    pub received: IntCounter,
    /// Frames that reached the window stage.
    pub used: IntCounter,
    /// Windows assembled.
    pub windows: IntCounter,
    /// Gaps between frames that were used.
    pub gaps: IntCounter,
    /// Streams of this source that give frames now: an interrupted one is not
    /// among them until it is back.
    pub up: IntGauge,
    /// When the last frame arrived, in seconds since 1970; 0 before the first.
    /// What a display subtracts from the present to show staleness.
    pub last_frame: Gauge,
    /// Streams of this source that ended with an error.
    pub failures: IntCounter,
    /// Seconds that examining, cropping and resizing a picture took, of all sources
    /// together.
    pub preprocess: Histogram,
    /// Mean grey level of windows, 0 to 1.
    pub brightness: Histogram,
    /// How severe the model finds them, 0 to 1.
    pub severity: Histogram,
    dropped: [IntCounter; DropReason::ALL.len()],
    interruptions: [IntCounter; Interruption::ALL.len()],
}

impl SourceMetrics {
    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> &IntCounter {
        &self.dropped[reason as usize]
    }

    /// How often a stream of this source had to be opened again for `reason`.
    pub fn interrupted(&self, reason: Interruption) -> &IntCounter {
        &self.interruptions[reason as usize]
    }
}

impl Metrics {
    /// A fresh set of counters, all zero.
    ///
    /// # Errors
    /// If a metric's name is malformed or taken twice: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let histogram = |name: &str, help: &str, from: f64| {
            // Ten buckets a factor of 2.5 apart cover four decades.
            let buckets = prometheus::exponential_buckets(from, 2.5, 11)?;
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let last_frame = GaugeVec::new(
            Opts::new(
                "hepaflow_last_frame_timestamp_seconds",
                "When the source's last frame arrived, in seconds since 1970; 0 before the first.",
            ),
            &["source"],
        )?;
        registry.register(Box::new(last_frame.clone()))?;
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        Ok(Self {
            frames_received: counters(
                "hepaflow_frames_received_total",
                "Frames that the source delivered.",
                &["source"],
            )?,
            frames_used: counters(
                "hepaflow_frames_used_total",
                "Frames that reached the window stage.",
                &["source"],
            )?,
            frames_dropped: counters(
                "hepaflow_frames_dropped_total",
                "Frames that arrived and were not used, by reason.",
                &["source", "reason"],
            )?,
            gaps: counters(
                "hepaflow_gaps_total",
                "Gaps between used frames; no window spans one.",
                &["source"],
            )?,
            windows: counters("hepaflow_windows_total", "Windows assembled.", &["source"])?,
            source_failures: counters(
                "hepaflow_stream_failures_total",
                "Streams that ended with an error.",
                &["source"],
            )?,
            interruptions: counters(
                "hepaflow_stream_interruptions_total",
                "How often a live source had to be opened again, by reason.",
                &["source", "reason"],
            )?,
            stream_up: gauges(
                "hepaflow_stream_up",
                "Streams of the source that give frames now.",
                &["source"],
            )?,
            last_frame,
            associations: gauges(
                "hepaflow_dicom_associations",
                "DICOM associations under way.",
                &["source"],
            )?,
            associations_turned_away: counters(
                "hepaflow_dicom_associations_turned_away_total",
                "DICOM peers turned away because there were too many at once.",
                &["source"],
            )?,
            associations_broken: counters(
                "hepaflow_dicom_associations_broken_total",
                "DICOM associations that were refused or ended without a release.",
                &["source"],
            )?,
            instances: counters(
                "hepaflow_dicom_instances_total",
                "DICOM instances that peers pushed, by what became of them.",
                &["source", "outcome"],
            )?,
            outbox_backlog: gauges(
                "hepaflow_outbox_backlog",
                "Changes of answers that wait for the sink.",
                &["sink"],
            )?,
            outbox_parked: gauges(
                "hepaflow_outbox_parked",
                "Changes of answers that the sink refuses while it takes others.",
                &["sink"],
            )?,
            arrangement_records: gauges(
                "hepaflow_arrangement_records",
                "Updates that the arrangements of this part of the views hold.",
                &["view"],
            )?,
            arrangement_batches: gauges(
                "hepaflow_arrangement_batches",
                "Batches that these updates lie in.",
                &["view"],
            )?,
            outbox_delivered: counters(
                "hepaflow_outbox_delivered_total",
                "Changes of answers that the sink took.",
                &["sink"],
            )?,
            outbox_failures: counters(
                "hepaflow_outbox_failures_total",
                "Attempts to deliver to the sink that failed; they are repeated.",
                &["sink"],
            )?,
            streams_ended: counter(
                "hepaflow_streams_ended_total",
                "Streams that are over: ended, failed, removed or left out as copies",
            )?,
            streams_opened: counter(
                "hepaflow_streams_opened_total",
                "Streams that gave a first frame.",
            )?,
            predictions: counter("hepaflow_predictions_total", "Clip predictions made.")?,
            windows_resumed: counter(
                "hepaflow_windows_resumed_total",
                "Windows left out because their prediction was already stored.",
            )?,
            clips_in_flight: gauge(
                "hepaflow_clips_in_flight",
                "Clips waiting for inference or in it.",
            )?,
            sessions: gauges(
                "hepaflow_sessions",
                "Streams whose overlapping windows share values.",
                &["model"],
            )?,
            session_bytes: gauges(
                "hepaflow_session_bytes",
                "Bytes of frames and values that overlapping windows share.",
                &["model"],
            )?,
            patients: gauge("hepaflow_patients", "Patients with a standing answer.")?,
            engine_batches_halved: gauges(
                "hepaflow_engine_batches_halved",
                "How often a batch was halved, since the card had no room.",
                &["model"],
            )?,
            engine_rebuilds: gauges(
                "hepaflow_engine_rebuilds",
                "How often the engine was rebuilt after an error of the card.",
                &["model"],
            )?,
            engine_fell_back: gauges(
                "hepaflow_engine_fell_back",
                "1 when the card was given up, and the CPU computes.",
                &["model"],
            )?,
            group_bytes_sent: counter(
                "hepaflow_group_sent_bytes_total",
                "Bytes sent to other processes of the group.",
            )?,
            group_bytes_received: counter(
                "hepaflow_group_received_bytes_total",
                "Bytes that came from other processes of the group.",
            )?,
            preprocess: histogram(
                "hepaflow_preprocess_seconds",
                "Time that examining, cropping and resizing a picture took, where that was \
                 not done in a process of its own.",
                0.000_05,
            )?,
            queue: histogram(
                "hepaflow_queue_seconds",
                "Time from the arrival of a window's last frame until inference began.",
                0.000_5,
            )?,
            inference: histogram(
                "hepaflow_inference_seconds",
                "Time that inference took for one batch of clips.",
                0.000_5,
            )?,
            frame_to_prediction: histogram(
                "hepaflow_frame_to_prediction_seconds",
                "Time from the arrival of a window's last frame to its prediction.",
                0.001,
            )?,
            aggregate: histogram(
                "hepaflow_aggregate_seconds",
                "Time from predictions until the answers that rest on them stood.",
                0.001,
            )?,
            store: histogram(
                "hepaflow_store_commit_seconds",
                "Time that committing one batch of results took.",
                0.000_1,
            )?,
            clinical: ClinicalMetrics::register(&registry)?,
            cards: CardMetrics::register(&registry)?,
            registry,
        })
    }

    /// The counters of the source called `name` in the pipeline file.
    pub fn source(&self, name: &str) -> SourceMetrics {
        SourceMetrics {
            received: self.frames_received.with_label_values(&[name]),
            used: self.frames_used.with_label_values(&[name]),
            windows: self.windows.with_label_values(&[name]),
            gaps: self.gaps.with_label_values(&[name]),
            up: self.stream_up.with_label_values(&[name]),
            last_frame: self.last_frame.with_label_values(&[name]),
            interruptions: Interruption::ALL.map(|reason| {
                self.interruptions
                    .with_label_values(&[name, reason.as_str()])
            }),
            failures: self.source_failures.with_label_values(&[name]),
            preprocess: self.preprocess.clone(),
            brightness: self.clinical.brightness(name),
            severity: self.clinical.severity(name),
            dropped: DropReason::ALL.map(|reason| {
                self.frames_dropped
                    .with_label_values(&[name, reason.as_str()])
            }),
        }
    }

    /// The counters of the DICOM listener called `name` in the pipeline file.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            associations: self.associations.with_label_values(&[name]),
            turned_away: self.associations_turned_away.with_label_values(&[name]),
            broken: self.associations_broken.with_label_values(&[name]),
            instances: InstanceOutcome::ALL
                .map(|outcome| self.instances.with_label_values(&[name, outcome.as_str()])),
        }
    }

    /// The counters of the sink called `name` in the pipeline file.
    pub fn sink(&self, name: &str) -> SinkMetrics {
        SinkMetrics {
            backlog: self.outbox_backlog.with_label_values(&[name]),
            parked: self.outbox_parked.with_label_values(&[name]),
            delivered: self.outbox_delivered.with_label_values(&[name]),
            failures: self.outbox_failures.with_label_values(&[name]),
        }
    }

    /// The counters of the engine that evaluates `model`, by its short hash.
    pub fn engine(&self, model: &str) -> EngineMetrics {
        EngineMetrics {
            sessions: self.sessions.with_label_values(&[model]),
            session_bytes: self.session_bytes.with_label_values(&[model]),
            batches_halved: self.engine_batches_halved.with_label_values(&[model]),
            rebuilds: self.engine_rebuilds.with_label_values(&[model]),
            fell_back: self.engine_fell_back.with_label_values(&[model]),
        }
    }

    /// The sizes of the arrangements in the part of the views called `view`.
    pub fn arrangement(&self, view: &str) -> ArrangementMetrics {
        ArrangementMetrics {
            records: self.arrangement_records.with_label_values(&[view]),
            batches: self.arrangement_batches.with_label_values(&[view]),
        }
    }

    /// Frames used, over all sources.
    pub fn frames_used_total(&self) -> u64 {
        sum_of(&self.frames_used)
    }

    /// Streams that failed, over all sources.
    pub fn failures_total(&self) -> u64 {
        sum_of(&self.source_failures)
    }

    /// The text exposition format, for `/metrics`.
    ///
    /// # Errors
    /// If a metric family cannot be encoded.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn sum_of(counters: &IntCounterVec) -> u64 {
    let families = counters.collect();
    let metrics = families
        .iter()
        .flat_map(prometheus::proto::MetricFamily::get_metric);
    metrics
        .map(|metric| metric.get_counter().get_value() as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Spread;

    #[test]
    fn a_source_is_listed_with_every_reason_before_anything_happens() {
        let metrics = Metrics::new().unwrap();
        metrics
            .source("bed-1")
            .dropped(DropReason::Shutdown)
            .inc_by(3);
        let text = metrics.render().unwrap();
        for reason in DropReason::ALL {
            let row = format!(
                "hepaflow_frames_dropped_total{{reason=\"{}\",source=\"bed-1\"}}",
                reason.as_str()
            );
            assert!(text.contains(&row), "{row} in {text}");
        }
        assert!(text.contains("reason=\"shutdown\",source=\"bed-1\"} 3"));
        assert!(text.contains("hepaflow_stream_up{source=\"bed-1\"} 0"));
    }

    #[test]
    fn alerts_speak_of_metrics_that_exist() {
        let metrics = Metrics::new().unwrap();
        metrics.source("bed-1");
        metrics.sink("his");
        metrics.engine("m");
        metrics.cards.set(0, 2, 1, 0.5);
        metrics.clinical.compared(["m", "fib4", "F3"], true, 1);
        metrics.clinical.answered("F0-F1", 1);
        let spread = Spread {
            mean: 0.2,
            deviation: 0.2,
        };
        metrics
            .clinical
            .refer(Reference::Brightness, spread, Some(9));
        let text = metrics.render().unwrap();
        let samples: Vec<_> = text
            .lines()
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        let rules = include_str!("../../deploy/prometheus/rules.yml");
        let named: Vec<_> = rules
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("hepaflow_"))
            .collect();
        assert!(named.len() >= 4, "{named:?}");
        for name in named {
            assert!(samples.contains(&name), "{name} in {text}");
        }
        for reason in rules.split("reason=\"").skip(1) {
            let reason = reason.split('"').next().unwrap();
            assert!(DropReason::ALL.map(DropReason::as_str).contains(&reason));
        }
    }
}
