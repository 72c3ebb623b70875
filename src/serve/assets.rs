//! The dashboard's files, which are part of the program.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const FILES: [(&str, &str, &[u8]); 11] = [
    ("style.css", CSS, include_bytes!("assets/style.css")),
    ("app.js", JS, include_bytes!("assets/app.js")),
    ("words.js", JS, include_bytes!("assets/words.js")),
    ("dom.js", JS, include_bytes!("assets/dom.js")),
    ("enter.js", JS, include_bytes!("assets/enter.js")),
    ("feed.js", JS, include_bytes!("assets/feed.js")),
    ("live.js", JS, include_bytes!("assets/live.js")),
    ("chart.js", JS, include_bytes!("assets/chart.js")),
    ("patients.js", JS, include_bytes!("assets/patients.js")),
    ("system.js", JS, include_bytes!("assets/system.js")),
    (
        "icon.svg",
        "image/svg+xml",
        include_bytes!("assets/icon.svg"),
    ),
];
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// `GET /`
pub(super) async fn index() -> Response {
    let page = include_str!("assets/index.html");
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// `GET /assets/{name}`
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, kind, bytes)) => ([(header::CONTENT_TYPE, *kind)], *bytes).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
