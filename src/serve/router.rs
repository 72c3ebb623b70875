//! What is served where, and what every answer carries.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::problem::Problem;
use super::{Site, api, assets, auth, health, live};

/// The largest body of a request, in bytes.
const BODY: usize = 64 << 10;
/// An answer is begun within this time, the request's body included.
const ANSWER: Duration = Duration::from_secs(15);

/// Scripts, styles and pictures come from here and nowhere else; none stands in
/// a page itself, and nobody else's page may frame ours.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

pub(super) fn router(site: Arc<Site>, tls: bool) -> Router {
    Router::new()
        .route("/", get(assets::index))
        .route("/assets/{name}", get(assets::asset))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::alive))
        .route("/livez", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/login", post(auth::log_in))
        .route("/logout", post(auth::log_out))
        .route("/live", get(live::live))
        .merge(api::router())
        .fallback(async || Problem::not_found("there is nothing here"))
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn_with_state(Arc::clone(&site), auth::guard))
        .layer(from_fn_with_state(tls, dress))
        .with_state(site)
}

/// Bounds the time, and adds the headers that keep browsers careful.
async fn dress(State(tls): State<bool>, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(ANSWER, next.run(request)).await;
    let mut answer = answer.unwrap_or_else(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "this took too long").into_response()
    });
    let headers = answer.headers_mut();
    let mut set = |name: HeaderName, value| {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    set(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    set(
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    if tls {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    answer
}
