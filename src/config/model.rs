use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::pipeline::cores;
use super::section::{Count, Located, Section};

/// `[model]`, or each `[[model]]`.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The model directory.
    pub path: Located<PathBuf>,
    /// `auto`, `cpu` or `cuda`.
    pub device: &'static str,
    /// `f32`, `bf16` or `f16`.
    pub precision: &'static str,
    /// Inference threads, at least one.
    pub threads: usize,
    /// The public key that must have signed the directory's sums.
    pub signed_by: Option<Located<PathBuf>>,
}

/// The first model, and those beside it. `None` only if a mistake was noted.
pub(super) fn read_models(
    base: &Path,
    root: &Section<'_>,
) -> Option<(ModelConfig, Vec<ModelConfig>)> {
    if !root.has("model") {
        root.mistake(
            "model",
            root.span(),
            "this table is missing",
            "add `[model]` with `path = \"...\"`, the directory of a model",
        );
    }
    let sections = root.one_or_more("model");
    // The cores are shared by the models, if nothing else is said.
    let threads = (cores() / sections.len().max(1)).max(1);
    let mut paths = HashSet::new();
    let models: Vec<_> = sections
        .into_iter()
        .map(|section| read_model(base, section, threads, &mut paths))
        .collect();
    let mut models = models.into_iter().collect::<Option<Vec<_>>>()?.into_iter();
    Some((models.next()?, models.collect()))
}

fn read_model(
    base: &Path,
    section: Section<'_>,
    threads: usize,
    paths: &mut HashSet<String>,
) -> Option<ModelConfig> {
    let path = section.required::<String>("path");
    if let Some(path) = &path
        && !paths.insert(path.value.clone())
    {
        section.mistake(
            "path",
            path.span.clone(),
            "another model has this path already",
            "models that run side by side are different ones: leave one of the two out",
        );
    }
    let device = section.one_of("device", &["auto", "cpu", "cuda"]);
    let precision = section.one_of("precision", &["f32", "bf16", "f16"]);
    let threads = section.or("threads", Count(threads));
    let signed_by = section.optional::<String>("signed_by");
    section.finish();
    let located = |path: Located<String>| Located {
        value: base.join(path.value),
        span: path.span,
    };
    Some(ModelConfig {
        path: located(path?),
        device: device.unwrap_or("auto"),
        precision: precision.unwrap_or("f32"),
        threads: threads.0,
        signed_by: signed_by.map(located),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Pipeline;
    use super::*;

    fn read(models: &str) -> Result<Pipeline, String> {
        let text = format!("{models}\n[[source]]\nname = 'a'\npath = 'a.mp4'\npatient = 'p'\n");
        Pipeline::parse(Path::new("dir/p.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_model_is_a_table_and_several_are_tables_that_share_the_cores() {
        let one = read("[model]\npath = 'm'\n").unwrap();
        assert!(one.beside.is_empty());
        let two = read("[[model]]\npath = 'm'\n[[model]]\npath = 'n'\nthreads = 7\n").unwrap();
        let paths: Vec<_> = two.models().map(|model| &model.path.value).collect();
        assert_eq!(paths, [Path::new("dir/m"), Path::new("dir/n")]);
        assert_eq!(two.model.threads, (one.model.threads / 2).max(1));
        assert_eq!(two.beside[0].threads, 7);
        let missing = two.missing_files().unwrap_err().to_string();
        assert!(missing.contains("model[1].path"), "{missing}");
    }

    #[test]
    fn every_mistake_of_every_model_is_reported() {
        let mistakes = read(
            "[[model]]\npath = 'm'\ndevice = 'gpu'\n[[model]]\npath = 'm'\n[[model]]\nthreads = 0\n",
        )
        .unwrap_err();
        for expected in [
            "\"gpu\"",
            "another model has this path",
            "add `path",
            "1 to 65536",
        ] {
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
        assert!(read("model = 3\n").unwrap_err().contains("not a table"));
    }
}
