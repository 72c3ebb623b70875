//! What handlers take, and how they refuse: alike everywhere.

use axum::Json;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::serve::problem::Problem;

/// A body in JSON. What is none is refused without a word of what it holds.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(error) => Err(Problem::new(
                error.status(),
                "the body is not the JSON that is expected here; see /api/openapi.json",
            )),
        }
    }
}

/// What a request that would change something is refused with, for the document.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "it describes what handlers give as a `Problem`")]
pub(super) enum Refusal {
    /// It cannot be done as asked.
    #[response(status = BAD_REQUEST, content_type = "application/problem+json")]
    Bad(Problem),
    /// It needs the role operator.
    #[response(status = FORBIDDEN, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// What it names is not here.
    #[response(status = NOT_FOUND, content_type = "application/problem+json")]
    Missing(Problem),
}
