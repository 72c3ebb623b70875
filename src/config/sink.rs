use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;

use super::section::{Count, Located, Section};

/// `[[sink]]`: where changes of answers go.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Name in logs, metrics and the store, unique in the file.
    pub name: String,
    /// What takes them.
    pub kind: SinkKind,
    /// More changes than this do not wait: an older answer makes room for a
    /// newer one of the same patient.
    pub backlog: u64,
    /// The longest pause between two attempts.
    pub retry_pause: Duration,
}

/// What a sink is.
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// An HTTP server: one signed POST a change.
    Webhook {
        /// Where to. It may hold a token: it is not shown.
        url: HiddenUrl,
        /// A file with the key that signs.
        secret_file: Located<PathBuf>,
        /// An answer that takes longer is none.
        timeout: Duration,
    },
    /// A file to which one line of JSON a change is appended.
    JsonLines {
        /// The file.
        path: PathBuf,
    },
}

/// A URL that `Debug` does not show.
#[derive(Clone)]
pub struct HiddenUrl(pub String);

impl std::fmt::Debug for HiddenUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HiddenUrl")
    }
}

/// `None` only if a mistake was noted.
pub(super) fn read_sink(
    base: &Path,
    section: Section<'_>,
    names: &mut HashSet<String>,
) -> Option<SinkConfig> {
    let name = section.required::<String>("name");
    if let Some(name) = &name {
        if !names.insert(name.value.clone()) {
            section.mistake(
                "name",
                name.span.clone(),
                "another sink has this name already",
                "give each sink a name of its own: what waits is kept under it",
            );
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if !name.value.chars().all(is_plain) || name.value.len() > 64 {
            section.mistake(
                "name",
                name.span.clone(),
                "a sink's name becomes part of a file's name",
                "expected at most 64 letters, digits, - and _",
            );
        }
    }
    let kind = match section.one_of("kind", &["webhook", "jsonl"]) {
        Some("webhook") => read_webhook(base, &section),
        Some(_) => section
            .required::<String>("path")
            .map(|path| SinkKind::JsonLines {
                path: base.join(path.value),
            }),
        None => {
            if !section.has("kind") {
                section.mistake(
                    "kind",
                    section.span(),
                    "this key is missing",
                    "add `kind = \"webhook\"` or `kind = \"jsonl\"`",
                );
            }
            section.allow(&["url", "secret_file", "timeout", "path"]);
            None
        }
    };
    let backlog = section.or("backlog", Count(65_536)).0 as u64;
    let retry_pause = section.or("retry_pause", Duration::from_mins(1));
    section.finish();
    Some(SinkConfig {
        name: name?.value,
        kind: kind?,
        backlog,
        retry_pause,
    })
}

fn read_webhook(base: &Path, section: &Section<'_>) -> Option<SinkKind> {
    let url = section.required::<String>("url").filter(|url| {
        let problem = problem_of(&url.value);
        if let Some((problem, help)) = problem {
            section.mistake("url", url.span.clone(), problem, help);
        }
        problem.is_none()
    });
    let secret_file = section.required::<String>("secret_file");
    let timeout = section.or("timeout", Duration::from_secs(10));
    let secret_file = secret_file?;
    Some(SinkKind::Webhook {
        url: HiddenUrl(url?.value),
        secret_file: Located {
            value: base.join(secret_file.value),
            span: secret_file.span,
        },
        timeout,
    })
}

/// What is wrong with a webhook's URL, and the way out.
fn problem_of(url: &str) -> Option<(&'static str, &'static str)> {
    let uri: Option<Uri> = url.parse().ok();
    let parts = uri
        .as_ref()
        .and_then(|uri| Some((uri.scheme_str()?, uri.host()?)));
    let address = |host: &str| host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    match parts {
        Some(("https", _)) => None,
        Some(("http", host))
            if host == "localhost" || address(host).is_ok_and(|ip| ip.is_loopback()) =>
        {
            None
        }
        Some(("http", _)) => Some((
            "patients' results would cross the network in the clear",
            "use https, or a proxy with TLS on a loopback address",
        )),
        _ => Some((
            "this is no URL of a web server",
            "expected \"https://HOST/PATH\"",
        )),
    }
}
