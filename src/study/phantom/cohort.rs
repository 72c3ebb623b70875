//! A whole cohort as a directory: tables, recordings and a word of warning.
//!
//! ```text
//! DIR/cohort.csv    patient_id, sex, age_years, ast_u_l, alt_u_l, platelets_10e9_l, swe_kpa, stage
//! DIR/videos.csv    patient_id, path
//! DIR/phantom.csv   what the simulator knows of each recording
//! DIR/phantom.json  what the cohort was made by: the same can be made again
//! DIR/videos/...    PH-0001-1.mp4 and so on
//! DIR/README.txt    says that it is SYNTHETIC
//! ```
//!
//! It is built beside its place, under a hidden temporary name, and moved there
//! when complete: an interrupted run leaves no half-written cohort. Called by
//! `hepaflow phantom`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::writer::check;
use super::{Container, Error, Patient, Recording, RecordingSpec, write_recording};

/// What a cohort consists of.
#[derive(Clone, Debug)]
pub struct CohortSpec {
    /// How many patients.
    pub patients: u32,
    /// Recordings of each.
    pub clips_per_patient: u16,
    /// Formats, dealt out in turn from patient to patient.
    pub containers: Vec<Container>,
    /// Patients worked on at once.
    pub jobs: usize,
    /// Replace the cohort that is already there.
    pub overwrite: bool,
    /// What all recordings share; `patient` and `clip` are filled in.
    pub recording: RecordingSpec,
}

/// A row of `cohort.csv`.
#[derive(Serialize)]
struct PatientRow {
    patient_id: String,
    sex: &'static str,
    age_years: f64,
    ast_u_l: f64,
    alt_u_l: f64,
    platelets_10e9_l: f64,
    swe_kpa: f64,
    stage: String,
}

/// A row of `videos.csv`.
#[derive(Serialize)]
struct VideoRow {
    patient_id: String,
    path: String,
}

/// A row of `phantom.csv`: the truth behind one recording, by which an
/// explanation (does the model look at the capsule?) can be judged.
#[derive(Serialize)]
struct TruthRow {
    path: String,
    stage: String,
    probe: &'static str,
    frequency_mhz: f32,
    frames: usize,
    frames_per_second: u32,
    width: usize,
    height: usize,
    mm_per_pixel: f32,
    /// Pixel position of the middle of the probe's face.
    middle_column: f32,
    face_row: f32,
    /// The capsule rests at y = depth + slope x - x^2 / (2 bend), mm from there.
    capsule_depth_mm: f32,
    capsule_slope: f32,
    capsule_bend_mm: f32,
    nodularity_mm: f64,
    echotexture: f64,
    ripple_mm: f32,
    sweep_mm: f32,
    breathing_mm: f32,
    episode: &'static str,
}

/// `phantom.json`: what all recordings of a cohort were made by. The numbers of
/// patient and clip in it are those of no recording in particular.
#[derive(Serialize, Deserialize)]
struct Recipe {
    version: String,
    recording: RecordingSpec,
}

/// What the recordings of the cohort in `directory` were made by; None if it is
/// no synthetic cohort.
///
/// # Errors
///
/// When `phantom.json` is there and cannot be read.
pub fn recipe(directory: &Path) -> Result<Option<RecordingSpec>, Error> {
    let path = directory.join("phantom.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let recipe: Recipe = serde_json::from_str(&text)
        .map_err(|error| Error::Specification(format!("{}: {error}", path.display())))?;
    Ok(Some(recipe.recording))
}

/// Patient and clip of a recording of such a cohort, by the name that it was given.
pub fn place_of(path: &Path) -> Option<(u32, u16)> {
    let (patient, clip) = path
        .file_stem()?
        .to_str()?
        .strip_prefix("PH-")?
        .split_once('-')?;
    Some((
        patient.parse().ok()?,
        clip.parse::<u16>().ok()?.checked_sub(1)?,
    ))
}

/// How many frames `spec` will have, for a progress display. Cheap: draws the
/// settings only.
///
/// # Errors
///
/// When the specification is impossible.
pub fn count_frames(spec: &CohortSpec) -> Result<u64, Error> {
    check_cohort(spec)?;
    Ok(recordings(spec)
        .map(|(_, recording)| super::Scan::draw(&recording).frames as u64)
        .sum())
}

/// Writes the cohort of `spec` to `directory`; `painted` is called after each
/// frame, from any thread.
///
/// # Errors
///
/// When the specification is impossible, `directory` is not empty (without
/// [`CohortSpec::overwrite`]), or anything cannot be encoded or written. What
/// was in `directory` is untouched until the new cohort is complete.
pub fn write(
    spec: &CohortSpec,
    directory: &Path,
    painted: &(dyn Fn() + Sync),
) -> Result<(), Error> {
    check_cohort(spec)?;
    if !spec.overwrite && !is_empty(directory)? {
        return Err(Error::NotEmpty(directory.to_owned()));
    }
    let staging = staging(directory)?;
    if let Err(error) = build(spec, &staging, painted) {
        // The error that led here matters more than a leftover.
        let _ = fs::remove_dir_all(&staging);
        return Err(error);
    }
    // Should this fail half-way, what is not moved yet stays where it was built.
    install(&staging, directory)
}

fn check_cohort(spec: &CohortSpec) -> Result<(), Error> {
    let refuse = |message: &str| Err(Error::Specification(message.to_owned()));
    if !(1..=9999).contains(&spec.patients) {
        return refuse("a cohort has 1 to 9999 patients");
    }
    if spec.clips_per_patient == 0 || spec.containers.is_empty() || spec.jobs == 0 {
        return refuse("at least one clip per patient, one format and one job are needed");
    }
    for (_, recording) in recordings(spec).take(1) {
        check(&recording)?;
    }
    if spec.clips_per_patient > 1000 {
        return refuse("a patient has at most 1000 clips");
    }
    Ok(())
}

/// Every recording of the cohort with its container, patient by patient.
fn recordings(spec: &CohortSpec) -> impl Iterator<Item = (Container, RecordingSpec)> + '_ {
    (1..=spec.patients).flat_map(move |patient| clips_of(spec, patient))
}

fn clips_of(
    spec: &CohortSpec,
    patient: u32,
) -> impl Iterator<Item = (Container, RecordingSpec)> + '_ {
    (0..spec.clips_per_patient).map(move |clip| {
        let turn = (patient as usize - 1) * usize::from(spec.clips_per_patient) + usize::from(clip);
        let recording = RecordingSpec {
            patient,
            clip,
            ..spec.recording.clone()
        };
        (spec.containers[turn % spec.containers.len()], recording)
    })
}

fn build(spec: &CohortSpec, directory: &Path, painted: &(dyn Fn() + Sync)) -> Result<(), Error> {
    let videos = directory.join("videos");
    fs::create_dir_all(&videos).map_err(fail(&videos))?;
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(spec.jobs)
        .build()?;
    let truths: Result<Vec<Vec<TruthRow>>, Error> = threads.install(|| {
        let patients = (1..=spec.patients).into_par_iter();
        patients
            .map(|patient| {
                clips_of(spec, patient)
                    .map(|(container, clip)| write_clip(&clip, container, &videos, painted))
                    .collect()
            })
            .collect()
    });
    let truths: Vec<TruthRow> = truths?.into_iter().flatten().collect();

    let rows: Vec<PatientRow> = (1..=spec.patients)
        .map(|number| {
            let patient = Patient::draw(spec.recording.seed, number, spec.recording.stage);
            row_of(&patient)
        })
        .collect();
    let paths = truths.iter().map(|truth| truth.path.clone());
    let links = recordings(spec)
        .zip(paths)
        .map(|((_, clip), path)| VideoRow {
            patient_id: format!("PH-{:04}", clip.patient),
            path,
        });
    let links: Vec<VideoRow> = links.collect();
    write_table(&directory.join("phantom.csv"), &truths)?;
    write_table(&directory.join("videos.csv"), &links)?;
    write_table(&directory.join("cohort.csv"), &rows)?;
    let recipe = directory.join("phantom.json");
    let made_by = Recipe {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recording: spec.recording.clone(),
    };
    let text = serde_json::to_string_pretty(&made_by)
        .map_err(|error| Error::Specification(error.to_string()))?;
    fs::write(&recipe, text + "\n").map_err(fail(&recipe))?;
    let readme = directory.join("README.txt");
    fs::write(&readme, readme_of(spec)).map_err(fail(&readme))
}

fn write_clip(
    spec: &RecordingSpec,
    container: Container,
    videos: &Path,
    painted: &(dyn Fn() + Sync),
) -> Result<TruthRow, Error> {
    let recording = Recording::new(spec);
    let (patient, scan) = (recording.patient(), recording.scan());
    let name = format!(
        "{}-{}.{}",
        patient.id(),
        spec.clip + 1,
        container.extension()
    );
    write_recording(&recording, container, &videos.join(&name), &painted)?;
    let (place, capsule) = (recording.placement(), recording.capsule());
    Ok(TruthRow {
        path: format!("videos/{name}"),
        stage: patient.stage.to_string(),
        probe: match scan.probe.face {
            super::Face::Curved { .. } => "curved",
            super::Face::Linear { .. } => "linear",
        },
        frequency_mhz: scan.probe.frequency_mhz,
        frames: scan.frames,
        frames_per_second: scan.frames_per_second,
        width: scan.size.width,
        height: scan.size.height,
        mm_per_pixel: place.mm_per_pixel,
        middle_column: place.middle_column,
        face_row: place.face_row,
        capsule_depth_mm: capsule.depth_mm,
        capsule_slope: capsule.slope,
        capsule_bend_mm: capsule.bend_mm,
        nodularity_mm: patient.nodularity_mm,
        echotexture: patient.echotexture,
        ripple_mm: scan.ripple_mm,
        sweep_mm: scan.motion.sweep_mm,
        breathing_mm: scan.motion.breathing_mm,
        episode: recording.episode().map_or("", |episode| episode.name()),
    })
}

fn row_of(patient: &Patient) -> PatientRow {
    PatientRow {
        patient_id: patient.id(),
        sex: patient.sex.letter(),
        age_years: patient.age_years,
        ast_u_l: patient.ast_u_l,
        alt_u_l: patient.alt_u_l,
        platelets_10e9_l: patient.platelets_10e9_l,
        swe_kpa: patient.swe_kpa,
        stage: patient.stage.to_string(),
    }
}

fn write_table<Row: Serialize>(path: &Path, rows: &[Row]) -> Result<(), Error> {
    let table = |source| Error::Table {
        path: path.to_owned(),
        source,
    };
    let mut writer = csv::Writer::from_path(path).map_err(table)?;
    for row in rows {
        writer.serialize(row).map_err(table)?;
    }
    writer.flush().map_err(fail(path))
}

fn readme_of(spec: &CohortSpec) -> String {
    format!(
        "SYNTHETIC ultrasound recordings of the liver, and a synthetic clinical table.\n\
         \n\
         No person is shown, and no number here was measured on one. A simulator made\n\
         all of it (hepaflow {version}, `hepaflow phantom`). Every result on these data\n\
         is a result on synthetic data, says nothing of any patient, and must be marked so.\n\
         \n\
         patients           {patients}\n\
         clips per patient  {clips}\n\
         seed               {seed}\n\
         ablation           {ablation:?}\n\
         \n\
         cohort.csv   one row per patient\n\
         videos.csv   which recordings belong to whom\n\
         phantom.csv  what the simulator knows of each recording: not for training\n\
         phantom.json what all recordings were made by\n\
         \n\
         The same seed and options give the same files with the same version of the\n\
         program and of its encoders, whatever the number of jobs. Dates in the DICOM\n\
         files are fixed and mean nothing.\n",
        version = env!("CARGO_PKG_VERSION"),
        patients = spec.patients,
        clips = spec.clips_per_patient,
        seed = spec.recording.seed,
        ablation = spec.recording.ablation,
    )
}

fn fail(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    |source| Error::Write {
        path: path.to_owned(),
        source,
    }
}

fn is_empty(directory: &Path) -> Result<bool, Error> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(fail(directory)(error)),
    }
}

/// An empty directory beside `directory`, on the same file system, so that
/// moving from it is a rename. What an interrupted run left there goes.
fn staging(directory: &Path) -> Result<PathBuf, Error> {
    let name = directory.file_name().ok_or_else(|| {
        Error::Specification(format!("`{}` names no directory", directory.display()))
    })?;
    let staging = directory.with_file_name(format!(".{}.phantom-partial", name.to_string_lossy()));
    match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(&staging)(error))?,
        _ => {}
    }
    fs::create_dir_all(&staging).map_err(fail(&staging))?;
    Ok(staging)
}

/// Moves the complete cohort to its place. Of what is there already, only the
/// entries of a cohort are replaced; `cohort.csv` goes first and comes last, so
/// that whoever finds it finds the rest too.
fn install(staging: &Path, directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(fail(directory))?;
    let entries = [
        "README.txt",
        "videos",
        "phantom.csv",
        "phantom.json",
        "videos.csv",
        "cohort.csv",
    ];
    for entry in entries.iter().rev() {
        let old = directory.join(entry);
        let removed = match fs::symlink_metadata(&old) {
            Ok(what) if what.is_dir() => fs::remove_dir_all(&old),
            Ok(_) => fs::remove_file(&old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(fail(&old))?;
    }
    for entry in entries {
        let new = directory.join(entry);
        fs::rename(staging.join(entry), &new).map_err(fail(&new))?;
    }
    fs::remove_dir(staging).map_err(fail(staging))
}
