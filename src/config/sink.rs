use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;

use super::section::{Count, Located, Section};

/// Refusals of one change; with the pauses between them this takes minutes.
const PARK_AFTER: usize = 10;

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
    /// A change that a webhook has refused so often, at least, is put aside as soon
    /// as it takes another one.
    pub park_after: u32,
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
    let park_after = match &kind {
        Some(SinkKind::JsonLines { .. }) => Count(PARK_AFTER),
        _ => section.or("park_after", Count(PARK_AFTER)),
    };
    section.finish();
    Some(SinkConfig {
        name: name?.value,
        kind: kind?,
        backlog,
        retry_pause,
        park_after: park_after.0 as u32,
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

#[cfg(test)]
mod tests {
    use super::super::Pipeline;
    use super::*;

    fn read(sinks: &str) -> Result<Pipeline, String> {
        let text = format!(
            "[model]\npath = 'm'\n[[source]]\nname = 'a'\npath = 'a.mp4'\npatient = 'p'\n{sinks}"
        );
        Pipeline::parse(Path::new("dir/p.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn sinks_are_read_with_defaults_and_secrets_are_not_shown() {
        let pipeline = read(
            "[[sink]]\nname = 'his'\nkind = 'webhook'\nurl = 'https://his/x?token=t0ken'\n\
             secret_file = 'key'\n[[sink]]\nname = 'f'\nkind = 'jsonl'\npath = 'c.jsonl'\n",
        )
        .unwrap();
        let [his, file] = &pipeline.sinks[..] else {
            panic!("{:?}", pipeline.sinks);
        };
        assert_eq!((his.backlog, his.retry_pause.as_secs()), (65_536, 60));
        assert!(
            matches!(&file.kind, SinkKind::JsonLines { path } if path == Path::new("dir/c.jsonl"))
        );
        assert!(!format!("{his:?}").contains("t0ken"));
        assert!(
            pipeline
                .missing_files()
                .unwrap_err()
                .to_string()
                .contains("sink[0].secret_file")
        );
    }

    #[test]
    fn every_mistake_of_a_sink_is_reported() {
        let mistakes = read(
            "[[sink]]\nname = 'a/b'\nkind = 'webhook'\nurl = 'http://his.local/'\n\
             [[sink]]\nname = 'x'\nkind = 'fax'\n\
             [[sink]]\nname = 'x'\nkind = 'jsonl'\nretry_pause = 'often'\n\
             [[sink]]\nkind = 'webhook'\nurl = 'his'\nsecret_file = 'k'\nbacklog = 0\n\
             [store]\npath = 'r'\nurl = 'mysql://u:p4ss@h/d'\n",
        )
        .unwrap_err();
        for expected in [
            "part of a file's name",
            "in the clear",
            "secret_file",
            "\"fax\"",
            "another sink has this name",
            "add `path",
            "often",
            "no URL of a web server",
            "add `name",
            "1 to 65536",
            "results are kept in one place",
        ] {
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
        assert!(!mistakes.contains("p4ss"), "{mistakes}");
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for (url, is_fine) in [
            ("https://his.local:8443/a", true),
            ("http://127.0.0.1:80/a", true),
            ("http://[::1]/a", true),
            ("http://localhost/a", true),
            ("http://10.0.0.1/a", false),
            ("ftp://his.local/a", false),
            ("/a", false),
            ("", false),
        ] {
            assert_eq!(problem_of(url).is_none(), is_fine, "{url}");
        }
    }
}
