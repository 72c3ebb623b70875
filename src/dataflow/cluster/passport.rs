use serde::{Deserialize, Serialize};

use crate::domain::{ContentHash, ModelHash};

/// What all processes of a group must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passport {
    /// hepaflow's version.
    pub version: String,
    /// The bytes of the pipeline file.
    pub pipeline: ContentHash,
    /// The models, in the order of the pipeline file.
    pub models: Vec<ModelHash>,
    /// Timely workers of each process.
    pub workers: usize,
    /// The recorded files to be divided.
    pub files: Files,
}

/// The list of recorded files that a process sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// How many.
    pub count: usize,
    /// Over their names, in order.
    pub digest: ContentHash,
}

impl Passport {
    /// In what `theirs` differs from this, in words; empty if in nothing.
    pub(super) fn differences(&self, theirs: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, here: String, there: String, differs: bool| {
            if differs {
                found.push(format!("{what}: {here} here, {there} there"));
            }
        };
        compare(
            "another version of hepaflow",
            self.version.clone(),
            theirs.version.clone(),
            self.version != theirs.version,
        );
        compare(
            "another pipeline file",
            self.pipeline.short(),
            theirs.pipeline.short(),
            self.pipeline != theirs.pipeline,
        );
        compare(
            "another model",
            self.models(),
            theirs.models(),
            self.models != theirs.models,
        );
        compare(
            "another number of --workers",
            self.workers.to_string(),
            theirs.workers.to_string(),
            self.workers != theirs.workers,
        );
        found
    }

    fn models(&self) -> String {
        let models: Vec<_> = self.models.iter().map(ModelHash::short).collect();
        models.join(", ")
    }
}
