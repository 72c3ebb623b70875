use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::StageRange;
use crate::serve::Site;
use crate::serve::problem::Problem;
use crate::serve::site::ServedModel;

/// A model that has results here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelRow {
    /// SHA-256 of its directory's content.
    hash: String,
    /// Its architecture.
    architecture: String,
    /// What its classes stand for, in order.
    classes: Vec<String>,
    /// Whether it scores in this run.
    running: bool,
    /// Whether it was made from synthetic data; unknown of models that do not run.
    synthetic: Option<bool>,
}

pub(super) fn served(model: &ServedModel) -> ModelRow {
    ModelRow {
        hash: model.hash.to_string(),
        architecture: model.architecture.clone(),
        classes: model.classes.iter().map(StageRange::to_string).collect(),
        running: true,
        synthetic: Some(model.synthetic),
    }
}

/// All models that have results here.
#[utoipa::path(get, path = "/api/v1/models", tag = "models",
    responses((status = OK, body = Vec<ModelRow>)))]
pub(super) async fn models(State(site): State<Arc<Site>>) -> Result<Json<Vec<ModelRow>>, Problem> {
    let known = site.read(crate::store::Store::models).await?;
    let subject = &site.subject;
    let running = || std::iter::once(&subject.model).chain(&subject.beside);
    let mut rows: Vec<_> = running().map(served).collect();
    let count = rows.len();
    let others = known
        .into_values()
        .filter(|model| running().all(|running| running.hash != model.hash));
    rows.extend(others.map(|model| ModelRow {
        hash: model.hash.to_string(),
        architecture: model.architecture,
        classes: model.classes.iter().map(StageRange::to_string).collect(),
        running: false,
        synthetic: None,
    }));
    rows[count..].sort_by(|a, b| a.hash.cmp(&b.hash));
    Ok(Json(rows))
}
