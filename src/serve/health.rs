//! Whether the process lives, and whether it is fit for work.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Site;
use super::problem::Problem;

/// `GET /metrics`, for Prometheus.
pub(super) async fn metrics(State(site): State<Arc<Site>>) -> Response {
    match site.subject.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// `GET /healthz` and `GET /livez`: the process answers.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: work that is given to it gets done; else 503, and why.
pub(super) async fn ready(State(site): State<Arc<Site>>) -> Response {
    let not = |reason: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    if site.subject.control.is_stopping() {
        return not("the run is ending");
    }
    if site.read(|store| store.models().map(drop)).await.is_err() {
        return not("the store cannot be read; the log says why");
    }
    "ready\n".into_response()
}
