//! The options by which a process takes its place in a group.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;

use super::BadInput;
use crate::dataflow::cluster::{Hosts, JoinError, Lost};

/// Several processes, on one machine or many, that run one pipeline together.
#[derive(Args, Clone, Debug)]
pub(super) struct GroupArgs {
    /// How many processes run this pipeline together.
    #[arg(
        short = 'n',
        long,
        requires = "hostfile",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    pub(super) processes: Option<u16>,
    /// One line `host:port` for each process, in order: where the others find it.
    #[arg(long, value_name = "FILE", requires = "processes")]
    pub(super) hostfile: Option<PathBuf>,
    /// How long to wait for the others.
    #[arg(long, default_value = "1min", value_parser = humantime::parse_duration)]
    pub(super) wait: Duration,
}

impl GroupArgs {
    /// The group as process `index` sees it; `None` for a process by itself.
    pub(super) fn hosts(&self, index: Option<u16>) -> Result<Option<Hosts>, BadInput> {
        let (Some(processes), Some(file)) = (self.processes, &self.hostfile) else {
            return Ok(None);
        };
        let index = index
            .ok_or_else(|| anyhow!("say which process of the {processes} this is: -p INDEX"))?;
        let hosts = Hosts::load(file, usize::from(processes), usize::from(index));
        Ok(Some(hosts.map_err(BadInput::new)?))
    }
}

/// Where process `index` serves its metrics: processes on one machine need a
/// port each, so they count up from the pipeline file's.
pub(super) fn listen(address: SocketAddr, index: usize) -> Result<SocketAddr, BadInput> {
    if address.port() == 0 {
        return Ok(address);
    }
    let port = usize::from(address.port()) + index;
    let port = u16::try_from(port).map_err(|_| {
        anyhow!(
            "[serve] listen: process {index} would serve on port {port}, and the last is 65535; \
             begin lower"
        )
    })?;
    Ok(SocketAddr::new(address.ip(), port))
}

/// What a person can mend is bad input; that somebody is not there yet is not.
pub(super) fn join_error(error: JoinError) -> anyhow::Error {
    if error.is_lasting() {
        BadInput::new(error).into()
    } else {
        error.into()
    }
}

/// Ends this process, whose group is broken: what was committed stays, and the
/// workers may wait for ever.
pub(super) fn end_group(lost: &Lost) {
    tracing::error!("{lost}; the group ends");
    std::process::exit(1);
}
