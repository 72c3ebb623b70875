use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;

use super::section::{Count, Located, Section};
use super::tls::read_pair;

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
    /// A change that a webhook or an archive has refused so often, at least, is put
    /// aside as soon as it takes another patient's.
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
    /// An archive of pictures (a PACS): a DICOM report for each answer that has
    /// settled, filed beside what it rests on.
    Dicom {
        /// `host:port`.
        address: String,
        /// The archive's application entity title.
        title: String,
        /// Ours.
        calling: String,
        /// How many pictures of where the network looked go with a report.
        key_frames: usize,
        /// An answer that has not changed for so long has settled.
        settle: Duration,
        /// Silent for this long: given up.
        timeout: Duration,
        /// The authorities of whose certificates the archive must show one, PEM; with
        /// them, nothing is sent that is not encrypted.
        authorities: Option<PathBuf>,
        /// Our certificate chain and private key, PEM, for an archive that wants one.
        own: Option<(PathBuf, PathBuf)>,
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
    let word = section.one_of("kind", &["webhook", "jsonl", "dicom"]);
    let kind = match word {
        Some("webhook") => read_webhook(base, &section),
        Some("dicom") => read_dicom(base, &section),
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
                    "add `kind = \"webhook\"`, `kind = \"jsonl\"` or `kind = \"dicom\"`",
                );
            }
            section.allow(&["url", "secret_file", "timeout", "path", "address"]);
            section.allow(&["ae_title", "calling", "key_frames", "settle"]);
            section.allow(&["authorities", "certificate", "key"]);
            None
        }
    };
    // Of an answer that has not settled only the newest is of use.
    let backlog = match word {
        Some("dicom") => 0,
        _ => section.or("backlog", Count(65_536)).0 as u64,
    };
    let retry_pause = section.or("retry_pause", Duration::from_mins(1));
    let park_after = match &kind {
        // A file takes all lines or none.
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

fn read_dicom(base: &Path, section: &Section<'_>) -> Option<SinkKind> {
    let address = section.required::<String>("address").filter(|address| {
        let has_port = address.value.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !has_port {
            section.mistake(
                "address",
                address.span.clone(),
                "this is no host with a port",
                "expected such as \"pacs.local:104\"",
            );
        }
        has_port
    });
    let title = section.required::<String>("ae_title");
    let calling = section.optional::<String>("calling");
    let mut is_title = true;
    for (key, found) in [("ae_title", &title), ("calling", &calling)] {
        if let Some(found) = found
            && !is_ae_title(&found.value)
        {
            is_title = false;
            section.mistake(
                key,
                found.span.clone(),
                "this is no application entity title",
                "expected at most 16 characters, letters and digits as a rule",
            );
        }
    }
    let key_frames = section.or("key_frames", 3_u32) as usize;
    let settle = section.or("settle", Duration::from_secs(30));
    let timeout = section.or("timeout", Duration::from_secs(10));
    let authorities = section.optional::<String>("authorities");
    let own = read_pair(base, section);
    if own.is_some() && authorities.is_none() {
        section.mistake(
            "certificate",
            section.span(),
            "without TLS nobody shows a certificate",
            "give `authorities`, who sign the archive's certificate, too",
        );
    }
    Some(SinkKind::Dicom {
        address: address?.value,
        title: title.filter(|_| is_title)?.value,
        calling: calling.map_or_else(|| "HEPAFLOW".to_owned(), |calling| calling.value),
        key_frames,
        settle,
        timeout,
        authorities: authorities.map(|file| base.join(file.value)),
        own,
    })
}

/// PS3.5 section 6.2: at most 16 characters, no control and no backslash; spaces
/// within are nothing but trouble.
pub(super) fn is_ae_title(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    text.len() <= 16 && text.bytes().all(is_good)
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
    fn reports_under_pseudonyms_belong_into_no_archive() {
        let sink = "[[sink]]\nname = 'pacs'\nkind = 'dicom'\naddress = 'pacs:104'\n\
                    ae_title = 'PACS'\n";
        let pipeline = read(sink).unwrap();
        assert_eq!(pipeline.sinks[0].backlog, 0);
        assert!(matches!(&pipeline.sinks[0].kind,
            SinkKind::Dicom { calling, key_frames: 3, .. } if calling == "HEPAFLOW"));
        let refused = read(&format!("{sink}[privacy]\nkey = 'k'\n")).unwrap_err();
        assert!(refused.contains("pseudonym"), "{refused}");
        let mistakes = read(
            "[[sink]]\nname = 'p'\nkind = 'dicom'\naddress = 'pacs'\n\
             ae_title = 'MUCH_TOO_LONG_A_TITLE'\nbacklog = 3\n",
        )
        .unwrap_err();
        for expected in ["no host with a port", "entity title", "backlog"] {
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
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
