//! Which values of one window serve the next: worked out once for a network and a
//! stride, from shapes alone.
//!
//! A value's *slice* is one of its frames. In the window that begins at frame
//! `w`, slice `j` stands for frame `w + j * c` of the stream, where `c` is the
//! product of the temporal strides before it. It is *clean* if no tap before it
//! reached over the clip's ends: then it says nothing of where the window began,
//! and any window that has a clean slice for the same frame has the same one.
//!
//! ```text
//! stream   0 1 2 3 4 5 6 7 8 9        W = 8, S = 2
//! window 0 ─────────────── ▏          a conv of 3 taps, valid in time:
//!   conv     a b c d e f              all clean
//! window 1     ───────────────
//!   conv         c d e f g h          c d e f are there, g h are new
//! ```
//!
//! Windows are gone through one after the other, backwards from the logits: what
//! a window needs, less what is held, is computed; what it needs for that is
//! asked of the step before. Once what is held repeats, so does everything else.
//! A window may fall into several *stages*, one for each frame that arrives:
//! then each stage computes what it can.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use num_integer::Integer;

use super::window::TimeWindow;

/// What a layer or a network costs, in multiplications and additions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// For a window by itself.
    pub dense: u64,
    /// For a window that follows others, on average.
    pub window: u64,
    /// Thereof, what is left to do when its last frame comes.
    pub last_frame: u64,
}

impl Cost {
    /// How much of a window's cost by itself is paid for one that follows others.
    pub fn ratio(self) -> f64 {
        self.window as f64 / self.dense as f64
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| Self {
            dense: sum.dense + cost.dense,
            window: sum.window + cost.window,
            last_frame: sum.last_frame + cost.last_frame,
        })
    }
}

/// A value that a step reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Source {
    /// 0 is the clip, `n + 1` the output of step `n`.
    pub(in crate::engine) value: usize,
    /// How many of its frames are left out at the beginning.
    pub(in crate::engine) crop: usize,
}

/// What matters of a step here.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Link {
    pub(in crate::engine) input: Source,
    pub(in crate::engine) residual: Option<Source>,
    pub(in crate::engine) window: TimeWindow,
    /// Frames of the input, as the step sees it.
    pub(in crate::engine) inputs: usize,
    pub(in crate::engine) outputs: usize,
    /// Multiplications and additions of one tap of one output frame.
    pub(in crate::engine) cost: u64,
}

/// How windows follow each other.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Sliding {
    /// Frames in a window.
    pub(in crate::engine) length: usize,
    /// Frames from one window's beginning to the next one's.
    pub(in crate::engine) stride: usize,
    /// Whether slices of one window serve the next ones.
    pub(in crate::engine) across: bool,
    /// Whether each frame is a stage, or each window.
    pub(in crate::engine) early: bool,
}

/// A slice that an earlier stage computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Load {
    pub(in crate::engine) slice: usize,
    /// How many stages ago.
    pub(in crate::engine) age: usize,
    /// Which one of that stage's window it was.
    pub(in crate::engine) was: usize,
}

/// What one step does in one stage; frames count from the window's first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Turn {
    /// Slices that are held, and read in this stage.
    pub(in crate::engine) load: Vec<Load>,
    /// Slices to be computed, in rising order.
    pub(in crate::engine) compute: Vec<usize>,
    /// Slices to be held, each with how many stages on it is read last.
    pub(in crate::engine) keep: Vec<(usize, usize)>,
}

/// What is done when some frames have arrived.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Stage {
    /// Frames of the window that must be there.
    pub(in crate::engine) arrived: usize,
    /// Frames of the clip that are read.
    pub(in crate::engine) input: Vec<usize>,
    /// Step by step.
    pub(in crate::engine) turns: Vec<Turn>,
}

/// Every stage of every window; after the last window comes `first_again`.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Schedule {
    pub(in crate::engine) sliding: Sliding,
    pub(in crate::engine) windows: Vec<Vec<Stage>>,
    pub(in crate::engine) first_again: usize,
    /// The most slices of each step's output that are held at a time.
    pub(in crate::engine) held: Vec<usize>,
    /// Frames that must be kept, counted back from the newest.
    pub(in crate::engine) frames: usize,
    /// Of each step.
    pub(in crate::engine) costs: Vec<Cost>,
}

/// What a slice stands for: the same one is the same values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// In every window: the frame of the stream.
    Clean(usize),
    /// In this window only.
    Of { window: usize, slice: usize },
}

/// A clean slice that is held: its frame relative to a window, how many stages
/// ago it was computed, and which slice it was then.
type Held = (usize, (usize, usize));

/// Facts of a value that do not change from window to window.
#[derive(Clone, Debug)]
struct Facts {
    /// Frames of the stream from one slice to the next.
    step: usize,
    clean: Vec<bool>,
    /// The last frame of the window that each slice depends on.
    newest: Vec<usize>,
}

/// A stage that was gone through, with what it computed by key.
struct Past {
    window: usize,
    arrived: usize,
    input: Vec<usize>,
    /// Of each step.
    load: Vec<Vec<Load>>,
    compute: Vec<BTreeSet<usize>>,
}

/// Windows after which a schedule that does not repeat is given up.
const PATIENCE: usize = 512;

impl Schedule {
    /// Which of `windows` is like the stream's window of this number.
    pub(in crate::engine) fn place(&self, number: u64) -> usize {
        let (known, first) = (self.windows.len() as u64, self.first_again as u64);
        let place = if number < known {
            number
        } else {
            first + (number - first) % (known - first)
        };
        place as usize
    }

    /// What each layer costs, by its steps' names; none of those that cost nothing.
    pub(in crate::engine) fn costs_by_name(&self, names: &[String]) -> Vec<(String, Cost)> {
        let mut layers: Vec<(String, Cost)> = Vec::new();
        for (name, &cost) in names.iter().zip(&self.costs) {
            match layers.last_mut().filter(|(layer, _)| layer == name) {
                Some((_, sum)) => *sum = [*sum, cost].into_iter().sum(),
                None => layers.push((name.clone(), cost)),
            }
        }
        layers.retain(|(_, cost)| cost.dense > 0);
        layers
    }

    /// What a window costs.
    pub(in crate::engine) fn cost(&self) -> Cost {
        self.costs.iter().copied().sum()
    }

    /// Works it out; None if it does not come to repeat itself. `also` are slices
    /// of a value that must be there when a window is done.
    pub(in crate::engine) fn new(
        links: &[Link],
        sliding: Sliding,
        also: Option<(usize, Range<usize>)>,
    ) -> Option<Self> {
        let facts = facts(links, sliding);
        let mut simulation = Simulation {
            links,
            sliding,
            also,
            facts: &facts,
            held: vec![BTreeMap::new(); links.len()],
            past: Vec::new(),
            last_read: vec![BTreeMap::new(); links.len()],
        };
        let period = period(&facts, sliding.stride);
        // What is held when each window begins.
        let mut states: Vec<Vec<BTreeSet<Held>>> = Vec::new();
        let repeats_from = loop {
            let window = states.len();
            states.push(simulation.state(window));
            // The first window is like no other: all its frames are new.
            if window > period && states[window] == states[window - period] {
                break window - period;
            }
            if window > PATIENCE + 2 * sliding.length {
                return None;
            }
            simulation.window(window);
        };
        let count = repeats_from + period;
        // Windows that share frames with these: who reads what last is known then.
        let beyond = sliding.length.div_ceil(sliding.stride);
        for window in states.len() - 1..=count + beyond {
            simulation.window(window);
        }
        Some(simulation.schedule(count, repeats_from))
    }
}

/// Windows until all slices stand for the same frames again, relative to the
/// window.
fn period(facts: &[Facts], stride: usize) -> usize {
    let shared = facts.iter().filter(|fact| fact.clean.contains(&true));
    shared.fold(1, |period, fact| {
        period.lcm(&(fact.step / fact.step.gcd(&stride)))
    })
}

fn facts(links: &[Link], sliding: Sliding) -> Vec<Facts> {
    let length = sliding.length;
    let mut facts = vec![Facts {
        step: 1,
        clean: vec![true; length],
        newest: (0..length).collect(),
    }];
    for link in links {
        let input = &facts[link.input.value];
        let mut own = Facts {
            step: input.step * link.window.stride,
            clean: Vec::new(),
            newest: Vec::new(),
        };
        for slice in 0..link.outputs {
            let reads = link.window.inputs(slice, link.inputs);
            let mut clean = reads.len() == link.window.kernel;
            let mut newest = 0;
            for frame in reads {
                clean &= input.clean[frame + link.input.crop];
                newest = newest.max(input.newest[frame + link.input.crop]);
            }
            if let Some(residual) = link.residual {
                let other = &facts[residual.value];
                clean &= other.clean[slice + residual.crop] && other.step == own.step;
                newest = newest.max(other.newest[slice + residual.crop]);
            }
            own.clean.push(clean && sliding.across);
            own.newest.push(newest);
        }
        facts.push(own);
    }
    facts
}

struct Simulation<'a> {
    links: &'a [Link],
    sliding: Sliding,
    also: Option<(usize, Range<usize>)>,
    /// Of the clip, and of each step's output.
    facts: &'a [Facts],
    /// Of each step, the slices that were computed and may be read again: in
    /// which stage, and which one it was there.
    held: Vec<BTreeMap<Key, (usize, usize)>>,
    past: Vec<Past>,
    /// Of each step, when a slice was loaded last, as a number of `past`.
    last_read: Vec<BTreeMap<Key, usize>>,
}

impl Simulation<'_> {
    fn key(&self, step: usize, window: usize, slice: usize) -> Key {
        let facts = &self.facts[step + 1];
        if facts.clean[slice] {
            Key::Clean(window * self.sliding.stride + slice * facts.step)
        } else {
            Key::Of { window, slice }
        }
    }

    /// What is held and may serve this window or a later one: by frames relative
    /// to the window, with where it comes from, by stages relative to now.
    fn state(&mut self, window: usize) -> Vec<BTreeSet<Held>> {
        let begin = window * self.sliding.stride;
        let now = self.past.len();
        let mut states = Vec::with_capacity(self.held.len());
        for held in &mut self.held {
            held.retain(|key, _| matches!(key, Key::Clean(frame) if *frame >= begin));
            let relative = held.iter().filter_map(|(key, &(born, was))| match *key {
                Key::Clean(frame) => {
                    let age = now - born;
                    Some((frame - begin, (age, was)))
                }
                Key::Of { .. } => None,
            });
            states.push(relative.collect());
        }
        states
    }

    /// Goes through all stages of a window.
    fn window(&mut self, window: usize) {
        let Sliding { length, stride, .. } = self.sliding;
        // Frames that no window before it has waited for.
        let first = if !self.sliding.early {
            length
        } else if window == 0 || stride >= length {
            1
        } else {
            length - stride + 1
        };
        for arrived in first..=length {
            self.stage(window, arrived);
        }
    }

    fn stage(&mut self, window: usize, arrived: usize) {
        let steps = self.links.len();
        let mut wanted: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); steps + 1];
        wanted[steps].extend(0..self.links.last().map_or(0, |link| link.outputs));
        let mut compute = vec![BTreeSet::new(); steps];
        let mut reads: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); steps + 1];
        if let Some((value, slices)) = self.also.clone() {
            wanted[value].extend(slices.clone());
            if arrived == self.sliding.length {
                reads[value].extend(slices);
            }
        }
        for step in (0..steps).rev() {
            let link = &self.links[step];
            for slice in std::mem::take(&mut wanted[step + 1]) {
                if self.held[step].contains_key(&self.key(step, window, slice)) {
                    continue;
                }
                let inputs = link.window.inputs(slice, link.inputs);
                let inputs = inputs.map(|frame| (link.input.value, frame + link.input.crop));
                let beside = link.residual.map(|it| (it.value, slice + it.crop));
                let is_ready = self.facts[step + 1].newest[slice] < arrived;
                for (value, frame) in inputs.chain(beside) {
                    wanted[value].insert(frame);
                    if is_ready {
                        reads[value].insert(frame);
                    }
                }
                if is_ready {
                    compute[step].insert(slice);
                }
            }
        }
        let now = self.past.len();
        let mut load = vec![Vec::new(); steps];
        for step in 0..steps {
            for &slice in &reads[step + 1] {
                let key = self.key(step, window, slice);
                // What is ready reads what is held, or is computed now.
                if let Some(&(born, was)) = self.held[step].get(&key) {
                    let age = now - born;
                    load[step].push(Load { slice, age, was });
                    self.last_read[step].insert(key, now);
                }
            }
            for &slice in &compute[step] {
                let key = self.key(step, window, slice);
                self.held[step].insert(key, (now, slice));
            }
        }
        self.past.push(Past {
            window,
            arrived,
            input: reads[0].iter().copied().collect(),
            load,
            compute,
        });
    }

    /// The first `count` windows, after which those from `first_again` on come
    /// again.
    fn schedule(&self, count: usize, first_again: usize) -> Schedule {
        let steps = self.links.len();
        let mut windows: Vec<Vec<Stage>> = vec![Vec::new(); count];
        let mut held = vec![0; steps];
        let mut frames = 0;
        // When each slice that is held now is read last.
        let mut alive: Vec<Vec<usize>> = vec![Vec::new(); steps];
        for (now, past) in self.past.iter().enumerate() {
            let Some(stages) = windows.get_mut(past.window) else {
                break;
            };
            let mut turns = Vec::with_capacity(steps);
            for step in 0..steps {
                let last_read = |slice: &usize| {
                    let key = self.key(step, past.window, *slice);
                    let last = self.last_read[step].get(&key).copied();
                    last.filter(|last| *last > now)
                };
                let keep: Vec<_> = past.compute[step]
                    .iter()
                    .filter_map(|slice| Some((*slice, last_read(slice)? - now)))
                    .collect();
                alive[step].retain(|last| *last > now);
                alive[step].extend(keep.iter().map(|(_, ahead)| now + ahead));
                held[step] = held[step].max(alive[step].len());
                turns.push(Turn {
                    load: past.load[step].clone(),
                    compute: past.compute[step].iter().copied().collect(),
                    keep,
                });
            }
            if let Some(&oldest) = past.input.first() {
                frames = frames.max(past.arrived - oldest);
            }
            stages.push(Stage {
                arrived: past.arrived,
                input: past.input.clone(),
                turns,
            });
        }
        let cost = |step: usize, slices: &[usize]| {
            let link = &self.links[step];
            let taps = |slice: &usize| link.window.inputs(*slice, link.inputs).len() as u64;
            slices.iter().map(taps).sum::<u64>() * link.cost
        };
        let repeated = &windows[first_again..];
        let mean = |step: usize, stages: fn(&[Stage]) -> &[Stage]| {
            let stages = repeated.iter().flat_map(|window| stages(window));
            let costs = stages.map(|stage| cost(step, &stage.turns[step].compute));
            costs.sum::<u64>() / repeated.len() as u64
        };
        let costs = (0..steps).map(|step| {
            let whole: Vec<_> = (0..self.links[step].outputs).collect();
            Cost {
                dense: cost(step, &whole),
                window: mean(step, |stages| stages),
                last_frame: mean(step, |stages| &stages[stages.len().saturating_sub(1)..]),
            }
        });
        Schedule {
            costs: costs.collect(),
            sliding: self.sliding,
            windows,
            first_again,
            held,
            frames,
        }
    }
}
