use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::models::{ModelRow, served};
use crate::serve::Site;
use crate::serve::auth::Caller;
use crate::serve::site::{ServedSource, millis};

/// What runs here, and who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Info {
    /// The program's version.
    version: &'static str,
    /// What it was built for.
    build: Build,
    /// The model that scores.
    model: ModelRow,
    /// What executes it.
    engine: String,
    /// The pictures that the model sees.
    picture: PictureSize,
    /// Frames in a window, and from one window to the next.
    window: (usize, usize),
    /// The sources of the pipeline file.
    sources: Vec<SourceRow>,
    /// When the server began, in milliseconds since 1970.
    started_ms: u64,
    /// Always: research software, no medical device.
    notice: &'static str,
    /// What the caller may do: `viewer` or `operator`.
    role: String,
    /// The name of the caller's token, if one was needed.
    name: Option<String>,
    /// Whether tokens are needed here.
    login: bool,
}

/// A source of the pipeline file.
#[derive(Debug, Serialize, ToSchema)]
struct SourceRow {
    /// Its name.
    name: String,
    /// What it reads: `file`, `cohort`, `launch`, `archive` or `listener`.
    kind: &'static str,
    /// Whether it keeps its own pace.
    live: bool,
}

/// A picture, in pixels.
#[derive(Debug, Serialize, ToSchema)]
struct PictureSize {
    /// Columns.
    width: usize,
    /// Rows.
    height: usize,
}

/// What it was built for.
#[derive(Debug, Serialize, ToSchema)]
struct Build {
    /// Processor.
    arch: &'static str,
    /// Operating system.
    os: &'static str,
    /// `release` or `debug`.
    profile: &'static str,
}

/// What runs here: version, build, model, and what the caller may do.
#[utoipa::path(get, path = "/api/v1/info", tag = "system",
    responses((status = OK, body = Info)))]
pub(super) async fn info(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
) -> Json<Info> {
    let model = &site.subject.model;
    Json(Info {
        version: env!("CARGO_PKG_VERSION"),
        build: Build {
            arch: std::env::consts::ARCH,
            os: std::env::consts::OS,
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
        },
        model: served(model),
        engine: model.engine.clone(),
        picture: PictureSize {
            width: model.size.width,
            height: model.size.height,
        },
        window: model.window,
        sources: site.subject.sources.iter().map(source).collect(),
        started_ms: millis(site.started),
        notice: "Research software; no medical device.",
        role: caller.role.to_string(),
        name: caller.name,
        login: site.access.has_tokens(),
    })
}

fn source(source: &ServedSource) -> SourceRow {
    SourceRow {
        name: source.name.clone(),
        kind: source.kind,
        live: source.live,
    }
}
