use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::Role;
use super::section::Section;
use super::tls::read_tls;

/// `[serve]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where to listen; a loopback address unless there is TLS and a way to know
    /// people: tokens, or certificates with roles.
    pub listen: SocketAddr,
    /// The file of access tokens; without it, who reaches the loopback address
    /// may look on.
    pub tokens: Option<PathBuf>,
    /// Certificate chain and private key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Certificates of authorities: without one by them nobody gets in.
    pub clients: Option<PathBuf>,
    /// What the holders of such certificates are, by the common name in the
    /// certificate's subject.
    pub roles: BTreeMap<String, Role>,
    /// Names by which browsers may call this server, besides its address.
    pub hosts: Vec<String>,
    /// The key of the names that addresses show instead of patients' identifiers, made
    /// on first use; without it, it lies beside the store, or beside the pipeline file
    /// where the store is no file.
    pub names: Option<PathBuf>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9464).into(),
            tokens: None,
            tls: None,
            clients: None,
            roles: BTreeMap::new(),
            hosts: Vec::new(),
            names: None,
        }
    }
}

pub(super) fn read_serve(base: &Path, section: Section<'_>) -> ServeConfig {
    let listen = section.optional::<SocketAddr>("listen");
    let tokens = section
        .optional::<String>("tokens")
        .map(|path| base.join(path.value));
    let (tls, clients) = read_tls(base, &section);
    let roles = section.optional::<BTreeMap<String, String>>("roles");
    let hosts = section.or("hosts", Vec::new());
    let names = section
        .optional::<String>("names")
        .map(|path| base.join(path.value));
    let mut known = BTreeMap::new();
    if let Some(roles) = roles {
        for (name, role) in roles.value {
            if let Ok(role) = role.parse() {
                known.insert(name, role);
                continue;
            }
            section.mistake(
                "roles",
                roles.span.clone(),
                format!("\"{role}\" is no role"),
                "expected \"viewer\" (looks) or \"operator\" (acts)",
            );
        }
        if clients.is_none() {
            section.mistake(
                "roles",
                roles.span,
                "nobody vouches for the certificates that bear these names",
                "give `clients`, the authority that signs them, too",
            );
        }
    }
    // Who calls is known by a token, or by a certificate that has a role.
    let is_known = tokens.is_some() || (clients.is_some() && !known.is_empty());
    if let Some(listen) = &listen
        && !listen.value.ip().is_loopback()
        && (!is_known || tls.is_none())
    {
        section.mistake(
            "listen",
            listen.span.clone(),
            "this address can be reached from other machines, and nothing protects it",
            "use a loopback address such as \"127.0.0.1:9464\", or give `certificate` and `key` \
             (TLS) and `tokens` (made by `hepaflow token add`) or `clients` and `roles` \
             (certificates)",
        );
    }
    section.finish();
    let default = ServeConfig::default();
    ServeConfig {
        listen: listen.map_or(default.listen, |listen| listen.value),
        tokens,
        tls,
        clients,
        roles: known,
        hosts,
        names,
    }
}
