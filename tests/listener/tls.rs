//! Certificates: what is encrypted, and who is vouched for.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hepaflow::ingest::listener::{Listener, ListenerConfig, ListenerError, ListenerTls};
use hepaflow::metrics::{InstanceOutcome, Metrics};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::recordings::pydicom;
use super::wait::wait_until;
use super::{DEADLINE, KNOWN, Ward, config, peer};

/// An authority, and what it made for one machine, as PEM files in a folder.
struct Papers(TempDir);

impl Papers {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let params = |name: String| {
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut authority = params(format!("{name} authority"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params(name.to_owned()).signed_by(&key, &authority).unwrap();
        let papers = Self(folder);
        fs::write(papers.path("ca"), authority.pem()).unwrap();
        fs::write(papers.path("certificate"), certificate.pem()).unwrap();
        fs::write(papers.path("key"), key.serialize_pem()).unwrap();
        papers
    }

    fn path(&self, what: &str) -> PathBuf {
        self.0.path().join(format!("{what}.pem"))
    }

    fn tls(&self, clients: Option<PathBuf>) -> ListenerTls {
        ListenerTls {
            certificate: self.path("certificate"),
            key: self.path("key"),
            clients,
        }
    }

    /// DCMTK's options for a peer that has these papers.
    fn shown(&self) -> String {
        let (key, certificate) = (self.path("key"), self.path("certificate"));
        format!("+tls {} {}", key.display(), certificate.display())
    }
}

#[test]
fn an_encrypting_listener_takes_what_is_encrypted_and_nothing_else() {
    let ours = Papers::of("listener");
    let ward = Ward::open(|config| {
        config.tls = Some(ours.tls(None));
        config.timeout = Duration::from_millis(900);
    });
    let trusting = format!("{KNOWN} +cf {}", ours.path("ca").display());
    let file = pydicom("examples_ybr_color.dcm");
    let encrypted = format!("{trusting} +tla");
    let sent = peer(
        "storescu",
        &format!("{encrypted} -xy"),
        ward.address,
        std::slice::from_ref(&file),
    );
    assert!(sent.status.success(), "{sent:?}");
    assert_eq!(ward.count(InstanceOutcome::Stored), 1);
    let stored = ward.stored.lock().unwrap()[0].clone();
    let (sent, kept) = (fs::read(&file).unwrap(), fs::read(stored).unwrap());
    assert!(sent[sent.len() - 4000..] == kept[kept.len() - 4000..]);
    // In the clear; who does not trust us; a title that may not; and silence.
    let stranger = encrypted.replace("SCANNER", "STRANGER");
    for options in [KNOWN, &format!("{KNOWN} +tla"), &stranger] {
        let asked = peer("echoscu", options, ward.address, &[]);
        assert!(!asked.status.success(), "{options}");
    }
    wait_until("the end of all", DEADLINE, || {
        ward.metrics.broken.get() == 3
    });
    let silent = TcpStream::connect(ward.address).unwrap();
    wait_until("the silent to be cut off", DEADLINE, || {
        ward.metrics.broken.get() == 4 && ward.metrics.associations.get() == 0
    });
    drop(silent);
    // Who hangs up before anything is said, or in the middle of it.
    for beginning in [&b""[..], &[0x16, 3, 1, 0, 200, 1, 0]] {
        let broken = ward.metrics.broken.get();
        let mut socket = TcpStream::connect(ward.address).unwrap();
        socket.write_all(beginning).unwrap();
        drop(socket);
        wait_until("its end", DEADLINE, || {
            ward.metrics.broken.get() == broken + 1
        });
    }
    assert!(
        peer("echoscu", &encrypted, ward.address, &[])
            .status
            .success()
    );
    // Nor does a listener that encrypts nothing hang on who does.
    let plain = Ward::open(|_| {});
    assert!(
        !peer("echoscu", &encrypted, plain.address, &[])
            .status
            .success()
    );
    wait_until("its end", DEADLINE, || plain.metrics.broken.get() == 1);
}

#[test]
fn with_an_authority_only_peers_that_it_vouches_for_are_let_in() {
    let (ours, theirs) = (Papers::of("listener"), Papers::of("scanner"));
    let ward = Ward::open(|config| config.tls = Some(ours.tls(Some(theirs.path("ca")))));
    let trusting = format!("{KNOWN} +cf {}", ours.path("ca").display());
    let file = [pydicom("examples_ybr_color.dcm")];
    let store = |shown: &str| {
        let options = format!("{trusting} {shown} -xy");
        peer("storescu", &options, ward.address, &file)
    };
    assert!(!store("+tla").status.success(), "it shows nothing");
    let strangers = Papers::of("scanner");
    assert!(!store(&strangers.shown()).status.success());
    wait_until("both to be noted", DEADLINE, || {
        ward.metrics.broken.get() == 2
    });
    assert_eq!(ward.kept(), [] as [String; 0]);
    let sent = store(&theirs.shown());
    assert!(sent.status.success(), "{sent:?}");
    assert_eq!(ward.count(InstanceOutcome::Stored), 1);
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let papers = Papers::of("listener");
    let empty = papers.path("empty");
    fs::write(&empty, "").unwrap();
    let (good, other) = (papers.tls(None), Papers::of("other"));
    let cases = [
        (
            "missing.pem",
            ListenerTls {
                key: papers.path("missing"),
                ..good.clone()
            },
        ),
        (
            "certificate.pem",
            ListenerTls {
                key: other.path("key"),
                ..good.clone()
            },
        ),
        (
            "empty.pem",
            ListenerTls {
                clients: Some(empty),
                ..good
            },
        ),
    ];
    for (name, tls) in cases {
        let folder = tempfile::tempdir().unwrap();
        let config = ListenerConfig {
            tls: Some(tls),
            ..config(folder.path())
        };
        let metrics = Metrics::new().unwrap().listener("ward");
        let error = Listener::start(&config, Arc::new(|_| {}), metrics).unwrap_err();
        assert!(matches!(error, ListenerError::Tls { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}
