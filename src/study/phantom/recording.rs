//! One synthetic recording: patient, tissue and scan brought together, and any
//! of its frames painted on request.
//!
//! A frame depends on its index alone, never on the frame before it, so frames
//! can be shuffled, repeated, skipped or painted in parallel.

use std::f32::consts::TAU;

use rand::seq::SliceRandom;

use super::beam::Beams;
use super::episodes::{Episode, colour_box};
use super::patient::Patient;
use super::probe::{LINES, SAMPLE_MM};
use super::receive::Receiver;
use super::rng::{self, Purpose};
use super::scan::Scan;
use super::sector::{Placement, Sector};
use super::tissue::{CapsuleLine, Tissue};
use super::{Ablation, RecordingSpec, overlay};
use crate::domain::{Crop, FrameSize};
use crate::study::picture::Picture;

/// A synthetic recording, ready to be painted.
///
/// ```
/// use hepaflow::domain::FrameSize;
/// use hepaflow::study::phantom::{Recording, RecordingSpec};
///
/// let spec = RecordingSpec {
///     frame_size: Some(FrameSize { height: 120, width: 160 }),
///     seconds: Some(0.2),
///     frames_per_second: Some(20),
///     scatterers: 5_000,
///     ..RecordingSpec::new(7, 1)
/// };
/// let recording = Recording::new(&spec);
/// let pictures: Vec<_> = recording.pictures().collect();
/// assert_eq!(pictures.len(), 4);
/// assert_ne!(pictures[0], pictures[3]);
/// ```
pub struct Recording {
    spec: RecordingSpec,
    patient: Patient,
    scan: Scan,
    tissue: Tissue,
    receiver: Receiver,
    ripple: Vec<f32>,
    episode: Option<Episode>,
    /// Which instant each frame shows.
    order: Vec<usize>,
    sector: Sector,
    /// Left and right half of a dual screen.
    halves: Option<[Sector; 2]>,
    /// Everything burned in that stays.
    background: Picture,
}

impl Recording {
    /// Draws patient, body and scan of `spec`.
    pub fn new(spec: &RecordingSpec) -> Self {
        let patient = Patient::draw(spec.seed, spec.patient, spec.stage);
        let tissue = Tissue::draw(spec.seed, &patient, spec.scatterers);
        let scan = Scan::draw(spec);
        let receiver = Receiver::new(spec, &scan, tissue.density);
        let ripple = scan.ripple(spec, tissue.line.depth_mm);
        let episode = Episode::draw(spec, scan.frames);

        let FrameSize { height, width } = scan.size;
        let room = room(scan.size);
        let sector = Sector::new(&scan.probe, room, width);
        let halves = matches!(episode, Some(Episode::DualScreen { .. })).then(|| {
            // A dark column stays between the halves.
            let half = room.width / 2 - room.width / 40;
            [room.x, room.x + room.width - half].map(|x| {
                let half = Crop {
                    x,
                    width: half,
                    ..room
                };
                Sector::new(&scan.probe, half, width)
            })
        });
        let mut background = Picture::grey(width, height);
        overlay::annotate(&mut background, &patient, &scan, &sector.placement);

        let mut order: Vec<usize> = (0..scan.frames).collect();
        match spec.ablation {
            Ablation::ShuffledFrames => {
                let clip = spec.clip;
                order.shuffle(&mut rng::stream(
                    spec.seed,
                    spec.patient,
                    clip,
                    Purpose::Order,
                ));
            }
            Ablation::OneFrameRepeated => order.fill(scan.frames / 2),
            Ablation::None | Ablation::RippleOff => {}
        }
        Self {
            spec: spec.clone(),
            patient,
            scan,
            tissue,
            receiver,
            ripple,
            episode,
            order,
            sector,
            halves,
            background,
        }
    }

    /// Whose recording it is.
    pub const fn patient(&self) -> &Patient {
        &self.patient
    }

    /// How it was scanned.
    pub const fn scan(&self) -> &Scan {
        &self.scan
    }

    /// What interrupts it, if anything.
    pub const fn episode(&self) -> Option<Episode> {
        self.episode
    }

    /// Where the sector lies in the picture (outside a dual screen).
    pub const fn placement(&self) -> Placement {
        self.sector.placement
    }

    /// The capsule's resting line, mm.
    pub const fn capsule(&self) -> CapsuleLine {
        self.tissue.line
    }

    /// The row at which the capsule rests in the picture's `column`, in pixels;
    /// it may lie outside the sector. Nodules and ripple move it by some
    /// millimetres at most.
    pub fn capsule_row(&self, column: f32) -> f32 {
        let place = self.sector.placement;
        let x = (column - place.middle_column) * place.mm_per_pixel;
        place.face_row + self.tissue.line.y_mm(x) / place.mm_per_pixel
    }

    /// Where the capsule rests along each beam, in samples of
    /// [`Painter::beam_space`]: `[lines]`.
    pub fn capsule_samples(&self) -> Vec<f32> {
        let (probe, rest) = (&self.scan.probe, self.tissue.line);
        (0..LINES)
            .map(|line| {
                // The beam crosses the line where it is as deep as the line; a
                // few steps of the fixed point settle far below a sample.
                let mut depth = rest.depth_mm;
                for _ in 0..12 {
                    let [x, y] = probe.to_body(line as f32, depth);
                    depth += rest.y_mm(x) - y;
                }
                depth / SAMPLE_MM
            })
            .collect()
    }

    /// True when its pictures have three bytes a pixel.
    pub const fn is_colour(&self) -> bool {
        matches!(self.episode, Some(Episode::Doppler { .. }))
    }

    /// The specification it was drawn from.
    pub const fn spec(&self) -> &RecordingSpec {
        &self.spec
    }

    /// Buffers to paint its frames with, one per thread.
    pub fn painter(&self) -> Painter<'_> {
        Painter {
            recording: self,
            beams: Beams::new(self.scan.probe.samples()),
            grey: Vec::new(),
            held: None,
        }
    }

    /// All its pictures in order.
    pub fn pictures(&self) -> impl Iterator<Item = Picture> + '_ {
        let mut painter = self.painter();
        (0..self.scan.frames).map(move |frame| painter.paint(frame))
    }
}

/// The rectangle of the picture left for the sector between the overlays.
fn room(size: FrameSize) -> Crop {
    let (width, height) = (size.width as u32, size.height as u32);
    Crop {
        x: width * 7 / 100,
        y: height * 9 / 100,
        width: width * 86 / 100,
        height: height * 88 / 100,
    }
}

/// Paints frames of one recording; holds the buffers that this takes.
pub struct Painter<'a> {
    recording: &'a Recording,
    beams: Beams,
    grey: Vec<u8>,
    /// A frame in beam space that a dual screen keeps showing.
    held: Option<Vec<u8>>,
}

impl Painter<'_> {
    /// Frame `frame` in beam space, before scan conversion: grey levels of
    /// `[lines, samples]`. Frames beyond the end show the last one.
    pub fn beam_space(&mut self, frame: usize) -> &[u8] {
        let recording = self.recording;
        let frame = frame.min(recording.order.len() - 1);
        let instant = recording.order[frame];
        let seconds = instant as f32 / recording.scan.frames_per_second as f32;
        let pose = recording.scan.motion.pose(seconds);
        let probe = &recording.scan.probe;
        self.beams
            .listen(&recording.tissue, probe, &pose, &recording.ripple);
        // A repeated instant is heard with fresh noise, or it would be taken
        // for a frozen screen and dropped.
        let noise = match recording.spec.ablation {
            Ablation::OneFrameRepeated => frame,
            _ => instant,
        };
        recording
            .receiver
            .process(&self.beams, noise as u64, &mut self.grey);
        &self.grey
    }

    /// Frame `frame` as the scanner shows it.
    pub fn paint(&mut self, frame: usize) -> Picture {
        let recording = self.recording;
        let shown = match recording.episode {
            Some(Episode::Freeze { from, to }) if (from..to).contains(&frame) => from,
            _ => frame,
        };
        let mut picture = recording.background.clone();
        match (recording.episode, &recording.halves) {
            (Some(Episode::DualScreen { from }), Some([left, right])) if shown >= from => {
                if self.held.is_none() {
                    self.held = Some(self.beam_space(from).to_vec());
                }
                left.paint(self.held.as_deref().unwrap_or_default(), &mut picture);
                self.beam_space(shown);
                right.paint(&self.grey, &mut picture);
            }
            _ => {
                self.beam_space(shown);
                recording.sector.paint(&self.grey, &mut picture);
            }
        }
        let rate = recording.scan.frames_per_second as f32;
        let seconds = shown as f32 / rate;
        overlay::clock(&mut picture, seconds);
        if recording.is_colour() {
            picture = picture.into_rgb();
        }
        if let Some(Episode::Doppler { from, to }) = recording.episode
            && (from..to).contains(&shown)
        {
            let pulse = 0.5 + 0.5 * (TAU * recording.scan.motion.heart_hz * seconds).sin();
            let samples = recording.scan.probe.samples();
            colour_box(&mut picture, &recording.sector, samples, pulse);
        }
        picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> RecordingSpec {
        RecordingSpec {
            frame_size: Some(FrameSize {
                height: 120,
                width: 160,
            }),
            seconds: Some(0.5),
            frames_per_second: Some(20),
            scatterers: 8_000,
            ..RecordingSpec::new(5, 3)
        }
    }

    fn pictures(spec: &RecordingSpec) -> Vec<Vec<u8>> {
        let recording = Recording::new(spec);
        let mut painter = recording.painter();
        (0..recording.scan().frames)
            .map(|frame| painter.beam_space(frame).to_vec())
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_pixels_and_another_does_not() {
        let one = pictures(&spec());
        assert_eq!(one.len(), 10);
        assert_eq!(one, pictures(&spec()));
        assert_ne!(one, pictures(&RecordingSpec { seed: 6, ..spec() }));
        assert_ne!(one, pictures(&RecordingSpec { clip: 1, ..spec() }));
    }

    #[test]
    fn a_frame_does_not_depend_on_the_frames_painted_before_it() {
        let recording = Recording::new(&spec());
        let mut painter = recording.painter();
        let later = painter.paint(7);
        painter.paint(2);
        assert_eq!(painter.paint(7), later);
    }

    #[test]
    fn shuffling_keeps_the_frames_and_loses_their_order() {
        let straight = pictures(&spec());
        let shuffled = pictures(&RecordingSpec {
            ablation: Ablation::ShuffledFrames,
            ..spec()
        });
        assert_ne!(straight, shuffled);
        let sorted = |mut frames: Vec<Vec<u8>>| {
            frames.sort();
            frames
        };
        assert_eq!(sorted(straight), sorted(shuffled));
    }

    #[test]
    fn a_repeated_instant_differs_in_noise_alone() {
        let repeated = pictures(&RecordingSpec {
            ablation: Ablation::OneFrameRepeated,
            ..spec()
        });
        let moving = pictures(&spec());
        let difference = |frames: &[Vec<u8>]| -> u64 {
            let pairs = frames[0].iter().zip(&frames[9]);
            pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum()
        };
        assert_ne!(repeated[0], repeated[9]);
        assert!(2 * difference(&repeated) < difference(&moving));
    }

    #[test]
    fn switching_the_ripple_off_changes_the_capsule_and_nothing_below_it() {
        let with = Recording::new(&spec());
        let without = Recording::new(&RecordingSpec {
            ablation: Ablation::RippleOff,
            ..spec()
        });
        assert!(with.scan().ripple_mm > 0.0);
        assert_eq!(without.ripple, vec![0.0; without.ripple.len()]);
        let samples = with.scan().probe.samples();
        let (mut with, mut without) = (with.painter(), without.painter());
        let (a, b) = (with.beam_space(4), without.beam_space(4));
        assert_ne!(a, b);
        for (a, b) in a.chunks(samples).zip(b.chunks(samples)) {
            assert_eq!(a[samples * 3 / 4..], b[samples * 3 / 4..]);
        }
    }

    #[test]
    fn a_frozen_screen_stands_still_and_goes_on() {
        let mut recording = Recording::new(&spec());
        recording.episode = Some(Episode::Freeze { from: 2, to: 6 });
        let frames: Vec<_> = recording.pictures().collect();
        assert!(frames[3..6].iter().all(|frame| *frame == frames[2]));
        assert_ne!(frames[1], frames[2]);
        assert_ne!(frames[6], frames[2]);
    }

    #[test]
    fn a_doppler_box_is_coloured_and_the_rest_is_grey() {
        let mut recording = Recording::new(&spec());
        recording.episode = Some(Episode::Doppler { from: 2, to: 6 });
        let coloured = |picture: &Picture| {
            let (pixels, _) = picture.pixels.as_chunks::<3>();
            pixels.iter().filter(|[r, g, b]| r != g || g != b).count()
        };
        let frames: Vec<_> = recording.pictures().collect();
        assert_eq!(coloured(&frames[0]), 0);
        assert!(
            coloured(&frames[3]) > 160 * 120 / 200,
            "{}",
            coloured(&frames[3])
        );
        assert_eq!(coloured(&frames[6]), 0);
    }

    #[test]
    fn a_dual_screen_has_a_dark_column_between_its_halves() {
        // Rates above one would be refused by the writer; here 1 suffices.
        let dual = (1..200).find_map(|patient| {
            let recording = Recording::new(&RecordingSpec {
                patient,
                episode_rate: 1.0,
                scatterers: 500,
                ..spec()
            });
            matches!(recording.episode, Some(Episode::DualScreen { .. })).then_some(recording)
        });
        let picture = dual.unwrap().painter().paint(9);
        let column = |x: usize| {
            let rows = 12..108;
            rows.map(|row| u32::from(picture.pixels[row * 160 + x]))
                .sum::<u32>()
        };
        assert_eq!(column(80), 0);
        assert!(column(45) > 0 && column(115) > 0);
    }
}
