use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::section::{Count, Section};
use super::sink::is_ae_title;
use super::tls::read_tls;

/// The keys of a source of kind `listener`.
#[derive(Clone, Debug)]
pub struct ListenerSection {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The title that peers must call.
    pub ae_title: String,
    /// The titles that may call; empty only on a loopback address.
    pub allow: Vec<String>,
    /// Where received instances are kept.
    pub folder: PathBuf,
    /// Associations at once.
    pub associations: usize,
    /// The largest instance, in bytes.
    pub largest: u64,
    /// A peer that is silent for this long is cut off.
    pub timeout: Duration,
    /// Certificate chain and private key, PEM; with them, nothing is taken that
    /// is not encrypted.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The authorities of whose certificates a peer must show one, PEM.
    pub clients: Option<PathBuf>,
}

pub(super) fn read_listener(base: &Path, section: &Section<'_>) -> Option<ListenerSection> {
    let listen = section.required::<SocketAddr>("listen");
    let ae_title = section.or("ae_title", "HEPAFLOW".to_owned());
    let allow = section.or("allow", Vec::new());
    let folder = section.required::<String>("folder");
    let associations = section.or("associations", Count(16)).0;
    let largest = section.or("largest_mib", Count(4096)).0;
    let timeout = section.or("timeout", Duration::from_secs(30));
    let (tls, clients) = read_tls(base, section);
    for (key, title) in
        std::iter::once(("ae_title", &ae_title)).chain(allow.iter().map(|title| ("allow", title)))
    {
        if !is_ae_title(title) {
            section.mistake(
                key,
                section.span(),
                format!("\"{title}\" is no application entity title"),
                "expected at most 16 characters, letters and digits as a rule",
            );
        }
    }
    if let Some(listen) = &listen
        && !listen.value.ip().is_loopback()
        && allow.is_empty()
    {
        section.mistake(
            "allow",
            listen.span.clone(),
            "this address can be reached from other machines, and everyone may push to it",
            "add `allow = [\"SCANNER1\", ..]`, the titles of those who may",
        );
    }
    Some(ListenerSection {
        listen: listen?.value,
        ae_title,
        allow,
        folder: base.join(folder?.value),
        associations,
        largest: (largest as u64) << 20,
        timeout,
        tls,
        clients,
    })
}
