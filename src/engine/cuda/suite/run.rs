//! The suite on a card: every kernel, whole networks against the CPU, timings.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::super::driver::DriverCard;
use super::super::kernels::Way;
use super::super::launch::{Card, Limits};
use super::super::network::{Clips, Kind, Network};
use super::super::{CudaError, compile};
use crate::engine::plan::Plan;
use crate::engine::{Agreement, Device, Engine, EngineError, EngineOptions, Precision};
use crate::model::Model;

/// What was run, on what, and how it went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// When, in UTC.
    pub date: String,
    /// The card's product name.
    pub card: String,
    /// What the driver's module calls itself; empty where it does not say.
    pub driver: String,
    /// The newest CUDA that the driver knows, such as 13000.
    pub driver_cuda_version: i32,
    /// Hash of the sources of all kernels: what was validated.
    pub kernel_sources: String,
    /// What Hopper has and was done without, since it did not conform when the card was
    /// opened: then kernels for other cards were validated, and the suite has failed.
    pub done_without: Vec<&'static str>,
    /// Every kernel against its definition.
    pub kernels: Vec<KernelResult>,
    /// Whole networks against the CPU.
    pub networks: Vec<NetworkResult>,
    /// How long networks take.
    pub timings: Vec<Timing>,
    /// How long each of their layers takes, many times in a row.
    pub layers: Vec<LayerTiming>,
}

/// One layer of a network, in f16, by what engines use on this card.
#[derive(Clone, Debug, Serialize)]
pub struct LayerTiming {
    /// The network's name.
    pub network: String,
    /// Clips at once.
    pub batch: usize,
    /// The layer's name.
    pub layer: String,
    /// Of the card, a time: what lies in its cache from the last time included.
    pub milliseconds: f64,
}

/// One kernel over one shape.
#[derive(Clone, Debug, Serialize)]
pub struct KernelResult {
    /// Kernel, shape and precision.
    pub name: String,
    /// The largest, as a part of the largest value; absent where it failed.
    pub difference: Option<f64>,
    /// What is allowed.
    pub tolerance: f64,
    /// Why there is no answer.
    pub error: Option<String>,
    /// Whether all is well.
    pub passed: bool,
}

/// One network in one precision.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkResult {
    /// Its name.
    pub network: String,
    /// f32, f16 or bf16.
    pub precision: String,
    /// With the CPU's logits, launched, recorded and replayed.
    pub agreement: Agreement,
    /// What is allowed.
    pub tolerance: f32,
    /// Whether all is well.
    pub passed: bool,
}

/// One network in one precision and batch size.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Its name.
    pub network: String,
    /// f16 or bf16.
    pub precision: String,
    /// Clips at once.
    pub batch: usize,
    /// What computes convolutions: `mma`; on Hopper `wgmma`, too, `wgmma, TMA`, and `wgmma,
    /// TMA, pairs`, which engines use there.
    pub by: String,
    /// Milliseconds of the card a batch, many in a row: the median of five.
    pub milliseconds: f64,
    /// The same, in clips.
    pub clips_per_second: f64,
    /// Milliseconds from grey pictures in memory to logits in memory.
    pub answer_milliseconds: f64,
    /// Whether the launches of a batch are a CUDA graph.
    pub is_recorded: bool,
}

impl Report {
    /// Whether every kernel and network passed.
    pub fn passed(&self) -> bool {
        if !self.done_without.is_empty() {
            return false;
        }
        let kernels = self.kernels.iter().all(|kernel| kernel.passed);
        kernels && self.networks.iter().all(|network| network.passed)
    }
}

/// The suite could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// The card failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A network could not be compiled.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Opens the first card and says what it is.
///
/// # Errors
/// If there is none that the kernels run on.
pub fn identify() -> Result<Report, CudaError> {
    let card = DriverCard::open_checked(0)?;
    let limits = card.limits();
    let of_hopper = [
        ("wgmma", limits.warpgroups),
        ("clusters", limits.clusters),
        ("TMA", limits.tma),
        ("TMA's boxes", limits.boxes),
        ("TMA to pairs", limits.pairs),
    ];
    let lacking = of_hopper.into_iter().filter(|(_, conforms)| !conforms);
    Ok(Report {
        done_without: lacking
            .map(|(name, _)| name)
            .filter(|_| card.is_hopper)
            .collect(),
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        card: card.name(),
        driver: std::fs::read_to_string("/proc/driver/nvidia/version")
            .ok()
            .and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_default(),
        driver_cuda_version: DriverCard::driver_version(),
        kernel_sources: compile::sources_hash(),
        ..Report::default()
    })
}

/// Checks every kernel. After an error the card is opened anew.
///
/// # Errors
/// If the card cannot be opened.
pub fn kernels(mut seen: impl FnMut(&KernelResult)) -> Result<Vec<KernelResult>, CudaError> {
    let limits = super::few(DriverCard::open_checked(0)?.limits());
    let open = || -> Result<Arc<dyn Card>, CudaError> {
        Ok(Arc::new(DriverCard::open_within(0, limits)?))
    };
    let mut card = open()?;
    let mut results = Vec::new();
    for case in super::all() {
        let outcome = (case.check)(&card);
        if outcome.is_err() {
            drop(card);
            card = open()?;
        }
        let result = KernelResult {
            difference: outcome.as_ref().ok().copied(),
            tolerance: case.tolerance,
            passed: matches!(outcome, Ok(difference) if difference <= case.tolerance),
            error: outcome.err().map(|error| error.to_string()),
            name: case.name,
        };
        seen(&result);
        results.push(result);
    }
    Ok(results)
}

/// Grey pictures without a pattern, the same every time.
fn speckle(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Clips that networks are compared on: as many as give blocks of `conv_halo.cu` several
/// tiles each on a large card.
const COMPARED: usize = 8;

/// Compares a network with the CPU, in every precision, on some clips.
///
/// # Errors
/// If the card fails, or the network cannot be compiled.
pub fn network(name: &str, model: &Model) -> Result<Vec<NetworkResult>, SuiteError> {
    let input = &model.spec().input;
    let classes = model.spec().classes.len();
    let extent = [input.frames, input.height, input.width];
    let [frames, height, width] = extent;
    let shape = [COMPARED, input.channels, frames, height, width];
    let clip_len = extent.iter().product();
    let grey = speckle(COMPARED * clip_len);
    // The same pictures as values, for the CPU.
    let values: Vec<f32> = grey
        .chunks_exact(clip_len)
        .flat_map(|clip| {
            crate::engine::grey_table(input)
                .into_iter()
                .flat_map(move |table| clip.iter().map(move |grey| table[usize::from(*grey)]))
        })
        .collect();
    let cpu = EngineOptions {
        device: Device::Cpu,
        precision: Precision::F32,
    };
    let cpu = Engine::open(model, cpu)?;
    let expected = cpu.infer_tensor(&mut cpu.workspace(), &values, &shape)?;

    let plan = Plan::compile(model.graph(), model.weights())?;
    let card: Arc<dyn Card> = DriverCard::open_checked(0)?;
    [Precision::F32, Precision::F16, Precision::Bf16]
        .into_iter()
        .map(|precision| {
            let network = Network::new(&card, precision, &plan, input)?;
            let mut batch = network.batch(COMPARED)?;
            let tolerance = if precision == Precision::F32 {
                1e-5
            } else {
                1e-2
            };
            let (mut found, mut right) = (Vec::new(), Vec::new());
            // Three times each: launched, recorded, replayed.
            for _ in 0..3 {
                for clips in [Clips::Grey(&grey), Clips::Values(&values)] {
                    found.extend(network.run(&mut batch, COMPARED, clips)?);
                    right.extend_from_slice(&expected);
                }
            }
            let agreement = Agreement::of(&found, &right, classes);
            Ok(NetworkResult {
                network: name.to_owned(),
                precision: precision.to_string(),
                agreement,
                tolerance,
                passed: agreement.within(tolerance),
            })
        })
        .collect()
}

/// Times a network in batches of these sizes.
///
/// # Errors
/// If the card fails, or the network cannot be compiled.
pub fn timings(name: &str, model: &Model, batches: &[usize]) -> Result<Vec<Timing>, SuiteError> {
    let input = &model.spec().input;
    let plan = Plan::compile(model.graph(), model.weights())?;
    let limits = DriverCard::open_checked(0)?.limits();
    let mut timings = Vec::new();
    for (precision, way) in [Precision::F16, Precision::Bf16]
        .into_iter()
        .flat_map(|precision| Way::all(limits).map(move |way| (precision, way)))
    {
        // What f16 would say of the lesser ways, bf16 says as well.
        if precision == Precision::F16 && way != Way::of(limits) {
            continue;
        }
        let limits = Limits {
            warpgroups: way != Way::Warps,
            tma: way.has_tma(),
            boxes: way.has_tma() && limits.boxes,
            pairs: way == Way::Pairs,
            ..limits
        };
        let card: Arc<dyn Card> = Arc::new(DriverCard::open_within(0, limits)?);
        let network = Network::new(&card, precision, &plan, input)?;
        for &clips in batches {
            let grey = speckle(clips * input.frames * input.height * input.width);
            let mut batch = network.batch(clips)?;
            for _ in 0..3 {
                network.run(&mut batch, clips, Clips::Grey(&grey))?;
            }
            // As many in a row as take some hundredths of a second.
            let begin = Instant::now();
            network.run(&mut batch, clips, Clips::Grey(&grey))?;
            let repeats = (0.03 / begin.elapsed().as_secs_f64()).clamp(3.0, 2000.0) as usize;
            let mut computed = Vec::new();
            let mut answered = Vec::new();
            for _ in 0..5 {
                let begin = Instant::now();
                for _ in 0..repeats {
                    network.compute(&mut batch, clips, Kind::Grey)?;
                }
                network.finish(&batch)?;
                computed.push(begin.elapsed() / repeats as u32);
                let begin = Instant::now();
                for _ in 0..repeats {
                    network.run(&mut batch, clips, Clips::Grey(&grey))?;
                }
                answered.push(begin.elapsed() / repeats as u32);
            }
            let milliseconds = median(&mut computed);
            timings.push(Timing {
                network: name.to_owned(),
                precision: precision.to_string(),
                batch: clips,
                by: way.to_string(),
                milliseconds,
                clips_per_second: clips as f64 / milliseconds * 1e3,
                answer_milliseconds: median(&mut answered),
                is_recorded: batch.is_recorded(clips, Kind::Grey),
            });
        }
    }
    Ok(timings)
}

/// Times a network's layers, each on its own, in batches of these sizes.
///
/// # Errors
/// If the card fails, or the network cannot be compiled.
pub fn layer_timings(
    name: &str,
    model: &Model,
    batches: &[usize],
) -> Result<Vec<LayerTiming>, SuiteError> {
    const TIMES: usize = 20;
    let plan = Plan::compile(model.graph(), model.weights())?;
    let card: Arc<dyn Card> = DriverCard::open_checked(0)?;
    let network = Network::new(&card, Precision::F16, &plan, &model.spec().input)?;
    let mut timings = Vec::new();
    for &clips in batches {
        let shape = network.input_shape();
        let grey = speckle(clips * shape.positions());
        let mut batch = network.batch(clips)?;
        network.run(&mut batch, clips, Clips::Grey(&grey))?;
        for (number, layer) in network.layer_names().enumerate() {
            let Some(recording) = network.record_layer(&batch, clips, number, TIMES)? else {
                continue;
            };
            let mut times = Vec::new();
            for _ in 0..4 {
                network.finish(&batch)?;
                let begin = Instant::now();
                card.replay(recording)?;
                network.finish(&batch)?;
                times.push(begin.elapsed() / TIMES as u32);
            }
            card.forget(recording);
            timings.push(LayerTiming {
                network: name.to_owned(),
                batch: clips,
                layer: layer.to_owned(),
                milliseconds: median(&mut times),
            });
        }
    }
    Ok(timings)
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
