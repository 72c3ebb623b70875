//! How a run gets its store and, of several processes, meets the others.

use super::RunArgs;
use crate::cli::share::{self, Found, Part};
use crate::cli::{BadInput, group};
use crate::config::Pipeline;
use crate::dataflow::Control;
use crate::dataflow::cluster::{self, Group, JoinError, Passport};
use crate::domain::ContentHash;
use crate::serve::outbox::Outbox;
use crate::store::{Store, StoredModel};

/// The store, and the group if there is one; nothing if the run was stopped
/// meanwhile. `models` run, and `all` recordings are to be divided.
pub(super) fn meet(
    args: &RunArgs,
    pipeline: &Pipeline,
    part: &Part,
    models: &[StoredModel],
    all: &[Found],
    control: &Control,
) -> anyhow::Result<Option<(Store, Option<Group>)>> {
    let open = || -> anyhow::Result<Store> {
        let mut store = Store::open(&pipeline.store).map_err(BadInput::new)?;
        for model in models {
            store.register(model)?;
        }
        store.deliver_to(Outbox::sinks(&pipeline.sinks));
        Ok(store)
    };
    // The first process makes the tables, if need be, before it meets the others.
    let early = (part.index() == 0).then(open).transpose()?;
    let passport = Passport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: ContentHash::of(pipeline.text().as_bytes()),
        models: models.iter().map(|model| model.hash).collect(),
        workers: usize::from(args.workers),
        files: share::files(all, args.pipeline.parent()),
    };
    let group = part
        .hosts
        .as_ref()
        .map(|hosts| cluster::join(hosts, &passport, args.group.wait, control))
        .transpose();
    let group = match group {
        Err(JoinError::Stopped) => return Ok(None),
        group => group.map_err(group::join_error)?,
    };
    Ok(Some((early.map_or_else(open, Ok)?, group)))
}
