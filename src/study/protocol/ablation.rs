//! What a model lives on: the test patients of a synthetic cohort recorded again,
//! with something taken away, and scored by the models as they are.

use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::{Event, Show, StudyError};
use crate::ingest::sandbox::Sandbox;
use crate::study::phantom::cohort::place_of;
use crate::study::phantom::{Ablation, RecordingSpec, record};
use crate::study::train::{Film, Reading, Recorded, read};

/// Each, by the name that files and tables give it.
pub(super) const ALL: [(&str, Ablation); 3] = [
    ("ripple_off", Ablation::RippleOff),
    ("shuffled_frames", Ablation::ShuffledFrames),
    ("one_frame_repeated", Ablation::OneFrameRepeated),
];

/// The same patients, bodies and scans as those of `films`, without what
/// `ablation` takes away. The recordings are written to `folder`, read, and
/// removed again.
pub(super) fn films(
    recipe: &RecordingSpec,
    films: &[&Film],
    ablation: Ablation,
    folder: &Path,
    (reading, sandbox): (&Reading, &Sandbox),
    show: Show<'_>,
) -> Result<Vec<Film>, StudyError> {
    let failed = |error: std::io::Error| StudyError::Write {
        path: folder.to_owned(),
        problem: error.to_string(),
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let one = |film: &&Film| {
        let film = one(film, recipe, ablation, folder, (reading, sandbox))?;
        show(Event::Advance(1));
        Ok(film)
    };
    let again: Result<Vec<Option<Film>>, StudyError> = films.par_iter().map(one).collect();
    fs::remove_dir_all(folder).map_err(failed)?;
    Ok(again?.into_iter().flatten().collect())
}

/// None for a recording that is no phantom's.
fn one(
    film: &Film,
    recipe: &RecordingSpec,
    ablation: Ablation,
    folder: &Path,
    (reading, sandbox): (&Reading, &Sandbox),
) -> Result<Option<Film>, StudyError> {
    let (Some((patient, clip)), Some(name)) = (place_of(&film.path), film.path.file_name()) else {
        return Ok(None);
    };
    let spec = RecordingSpec {
        patient,
        clip,
        ablation,
        ..recipe.clone()
    };
    record(&spec, &folder.join(name))?;
    let recorded = Recorded {
        patient: film.patient.clone(),
        path: name.into(),
        class: film.class,
    };
    let mut films = read(folder, &[recorded], reading, sandbox, &|| ())?;
    let mut again = films.pop();
    if let Some(again) = &mut again {
        again.path.clone_from(&film.path);
    }
    Ok(again)
}
