//! Pipeline files: which sources, which model, where the results go.
//!
//! [`Pipeline::load`] reads a TOML file into plain typed values and reports
//! *every* mistake at once, each with file, line, key and what would be
//! accepted. Serde stops at the first mistake, so the tables are walked by hand
//! here (`section.rs`); nothing in this room opens anything but the file itself,
//! except [`Pipeline::missing_files`], which only looks, and what reads keys and
//! certificates for those who need them.
//!
//! Relative paths are relative to the folder that the pipeline file is in.

mod diagnostic;
mod key;
mod listener;
mod model;
mod pipeline;
mod place;
mod role;
mod section;
mod serve;
mod sink;
mod source;
mod tls;

pub use diagnostic::{ConfigError, Diagnostic};
pub use key::{KeyError, pseudonym_key};
pub use listener::ListenerSection;
pub use model::ModelConfig;
pub use pipeline::{DEFAULTS, IngestConfig, Pipeline, PipelineError, WindowConfig};
pub use place::{PlaceError, PostgresUrl, StorePlace};
pub use role::Role;
pub use section::{Located, clock_time};
pub use serve::ServeConfig;
pub use sink::{HiddenUrl, SinkConfig, SinkKind};
pub use source::{SourceConfig, SourceKind};
pub use tls::{TlsError, client_tls, server_tls};
