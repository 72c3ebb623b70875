//! `/api/v1`: patients, clips, labels, merges, exams, streams and models, for programs.
//!
//! Each handler carries its description; the OpenAPI document at
//! `/api/openapi.json` is made from them. Addresses hold opaque names, never a
//! patient's identifier.

mod answers;
mod facts;
mod fhir;
mod identity;
mod info;
mod models;
mod patients;
mod request;
mod streams;
mod table;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Site;
use super::auth::Caller;
use super::problem::Problem;
use crate::domain::PatientId;
use crate::store::Page;
pub(super) use streams::StreamRow;

/// Rows of a page, if nothing is said, and at most.
const USUAL: u32 = 50;
const MOST: u32 = 1000;

/// The API, and the document that describes it.
pub(super) fn router() -> Router<Arc<Site>> {
    let (router, api) = described();
    router.route("/api/openapi.json", get(async move || Json(api)))
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    described().1
}

fn described() -> (Router<Arc<Site>>, OpenApi) {
    let info = InfoBuilder::new()
        .title("hepaflow")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Liver fibrosis stages from ultrasound video, as it streams. Research software, \
             no medical device.",
        ))
        .contact(Some(ContactBuilder::new().build()))
        .license(Some(
            LicenseBuilder::new().name("MIT OR Apache-2.0").build(),
        ));
    let document = OpenApiBuilder::new().info(info).build();
    OpenApiRouter::with_openapi(document)
        .routes(routes!(info::info))
        .routes(routes!(models::models))
        .routes(routes!(streams::streams, streams::add))
        .routes(routes!(streams::remove))
        .routes(routes!(streams::bind))
        .routes(routes!(patients::patients))
        .routes(routes!(patients::patients_csv))
        .routes(routes!(patients::patient))
        .routes(routes!(patients::clips))
        .routes(routes!(facts::history))
        .routes(routes!(answers::answers))
        .routes(routes!(fhir::report))
        .routes(routes!(facts::enter))
        .merge(table::router())
        .routes(routes!(identity::merge))
        .routes(routes!(identity::exam))
        .routes(routes!(facts::activate))
        .split_for_parts()
}

/// Which part of a list.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// Rows to leave out at the beginning.
    #[serde(default)]
    offset: u32,
    /// Rows at most: 50 if nothing is said, 1,000 at most.
    limit: Option<u32>,
}

impl Paging {
    fn page(self) -> Page {
        Page {
            offset: self.offset,
            limit: self.limit.unwrap_or(USUAL).clamp(1, MOST),
        }
    }
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed<T> {
    /// The rows.
    items: Vec<T>,
    /// Rows before them.
    offset: u32,
    /// Rows in all.
    total: u64,
}

/// A class and its probability.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClassProbability {
    /// The stages that it stands for, such as `F2-F4`.
    class: String,
    /// From 0 to 1.
    p: f64,
}

/// The patient of that opaque name.
fn patient_named(site: &Site, name: &str) -> Result<PatientId, Problem> {
    let found = site.ids.opened(name);
    found.ok_or_else(|| Problem::not_found("no patient here has this id"))
}

/// The patient whom a body names once, by identifier or by opaque name.
fn whose(site: &Site, identifier: Option<&str>, id: Option<&str>) -> Result<PatientId, Problem> {
    match (identifier, id) {
        (Some(identifier), None) => Ok(site.patient(identifier.trim())),
        (None, Some(id)) => patient_named(site, id),
        _ => Err(Problem::bad_request(
            "name the patient once, by identifier or by opaque id",
        )),
    }
}

/// The patient's name for this caller.
fn label(site: &Site, caller: &Caller, patient: &PatientId) -> String {
    if caller.sees_identifiers() {
        patient.expose().to_owned()
    } else {
        site.ids.label(patient)
    }
}
