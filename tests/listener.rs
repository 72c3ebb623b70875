//! The DICOM listener against DCMTK: `echoscu` and `storescu`.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod recordings;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};
use dicom_object::{InMemDicomObject, open_file};
use hepaflow::domain::ContentHash;
use hepaflow::ingest::listener::{Listener, ListenerConfig, ListenerError, ListenerTls};
use hepaflow::metrics::{InstanceOutcome, ListenerMetrics, Metrics};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use recordings::pydicom;
use tempfile::TempDir;
use wait::wait_until;

/// Longer than anything here takes, so that a hang fails instead of hanging.
const DEADLINE: Duration = Duration::from_secs(40);

const IMAGES: [&str; 4] = [
    "examples_ybr_color.dcm",
    "examples_rgb_color.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
];

/// A listener and what it was told.
struct Ward {
    listener: Option<Listener>,
    address: SocketAddr,
    folder: TempDir,
    stored: Arc<Mutex<Vec<PathBuf>>>,
    metrics: ListenerMetrics,
}

fn config(folder: &Path) -> ListenerConfig {
    ListenerConfig {
        name: "ward".into(),
        address: "127.0.0.1:0".parse().unwrap(),
        ae_title: "HEPAFLOW".into(),
        allow: vec!["SCANNER".into()],
        folder: folder.join("incoming"),
        associations: 8,
        largest: 64 << 20,
        timeout: Duration::from_secs(10),
        tls: None,
    }
}

impl Ward {
    fn open(change: impl FnOnce(&mut ListenerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let metrics = Metrics::new().unwrap().listener("ward");
        let stored = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&stored);
        let on_stored = Arc::new(move |path| told.lock().unwrap().push(path));
        let (listener, left) = Listener::start(&config, on_stored, metrics.clone()).unwrap();
        assert!(left.is_empty());
        Self {
            address: listener.address(),
            listener: Some(listener),
            folder,
            stored,
            metrics,
        }
    }

    /// What lies in the folder, by name.
    fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("incoming")).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort_unstable();
        names
    }

    fn count(&self, outcome: InstanceOutcome) -> u64 {
        self.metrics.instances(outcome).get()
    }
}

fn peer(tool: &str, options: &str, address: SocketAddr, files: &[PathBuf]) -> Output {
    Command::new(tool)
        .args(options.split_whitespace())
        .args([address.ip().to_string(), address.port().to_string()])
        .args(files)
        .output()
        .expect("Debian's dcmtk is needed")
}

const KNOWN: &str = "-aet SCANNER -aec HEPAFLOW";

#[test]
fn an_echo_is_answered_to_those_who_may_and_to_nobody_else() {
    let ward = Ward::open(|_| {});
    assert!(peer("echoscu", KNOWN, ward.address, &[]).status.success());
    for stranger in ["-aet STRANGER -aec HEPAFLOW", "-aet SCANNER -aec OTHER"] {
        assert!(
            !peer("echoscu", stranger, ward.address, &[])
                .status
                .success()
        );
    }
    wait_until("the end of both", DEADLINE, || {
        ward.metrics.broken.get() == 2
    });
    wait_until("all to leave", DEADLINE, || {
        ward.metrics.associations.get() == 0
    });
    let open = Ward::open(|config| config.allow.clear());
    assert!(
        peer("echoscu", "-aet ANYONE -aec HEPAFLOW", open.address, &[])
            .status
            .success()
    );
}

#[test]
fn what_is_pushed_is_on_disk_once_under_its_hash_with_the_data_that_was_sent() {
    let ward = Ward::open(|_| {});
    let files: Vec<_> = IMAGES.iter().map(|name| pydicom(name)).collect();
    // Each in the syntax it is in.
    for (file, syntax) in files.iter().zip(["-xy", "-xe", "-xe", "-xv"]) {
        for _ in 0..2 {
            let sent = peer(
                "storescu",
                &format!("{KNOWN} {syntax}"),
                ward.address,
                std::slice::from_ref(file),
            );
            let text = String::from_utf8_lossy(&sent.stderr).into_owned();
            assert!(
                sent.status.success() && !text.contains("E:"),
                "{}: {text}",
                file.display()
            );
        }
    }
    assert_eq!(ward.count(InstanceOutcome::Stored), 4);
    assert_eq!(ward.count(InstanceOutcome::Duplicate), 4);
    let stored = ward.stored.lock().unwrap().clone();
    assert_eq!(stored.len(), 4);
    for path in &stored {
        let bytes = fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!("{}.dcm", ContentHash::of(&bytes)));
    }
    assert_eq!(ward.kept().len(), 4);
    // The pixels are the ones that were sent; those of the second and third
    // DCMTK may lay out anew.
    for (file, path) in files.iter().zip(&stored).step_by(3) {
        let raw = |path: &Path| {
            let bytes = fs::read(path).unwrap();
            bytes[bytes.len() - 4000..].to_vec()
        };
        assert!(raw(file) == raw(path), "{}", file.display());
    }
}

#[test]
fn many_push_at_once() {
    let ward = Ward::open(|_| {});
    let file = pydicom("examples_ybr_color.dcm");
    thread::scope(|scope| {
        for sender in 0..6 {
            let (ward, file) = (&ward, &file);
            scope.spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let copies: Vec<_> = (0..4)
                    .map(|copy| {
                        let path = folder.path().join(format!("{copy}.dcm"));
                        fs::copy(file, &path).unwrap();
                        let uid = format!("(0008,0018)=2.25.{sender}{copy}7");
                        modify(&path, &[&uid]);
                        path
                    })
                    .collect();
                let sent = peer("storescu", &format!("{KNOWN} -xy"), ward.address, &copies);
                assert!(
                    sent.status.success(),
                    "{}",
                    String::from_utf8_lossy(&sent.stderr)
                );
            });
        }
    });
    assert_eq!(ward.count(InstanceOutcome::Stored), 24);
    assert_eq!(ward.kept().len(), 24);
}

#[test]
fn pynetdicom_is_a_peer_like_any_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ward = Ward::open(|_| {});
    let files: Vec<_> = IMAGES.iter().map(|name| pydicom(name)).collect();
    let output = Command::new("python3")
        .env("PYTHONPATH", root.join("tests/data/cache/python"))
        .arg(root.join("tests/support/pynetdicom_peer.py"))
        .args([
            ward.address.ip().to_string(),
            ward.address.port().to_string(),
        ])
        .args(&files)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "scripts/fetch-test-data.sh fetches pynetdicom: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        said,
        "echo 0000\n".to_owned() + &"store 0000\n".repeat(IMAGES.len())
    );
    assert_eq!(ward.count(InstanceOutcome::Stored), 4);
    wait_until("the abort to be noted", DEADLINE, || {
        ward.metrics.broken.get() == 1
    });
    wait_until("all to leave", DEADLINE, || {
        ward.metrics.associations.get() == 0
    });
}

fn modify(path: &Path, changes: &[&str]) {
    let mut command = Command::new("dcmodify");
    command.args(["--no-backup", "-nb", "-ie"]);
    for change in changes {
        command.args(["-i", change]);
    }
    let output = command.arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_instance_beyond_the_limit_is_refused_and_leaves_nothing() {
    let ward = Ward::open(|config| config.largest = 20_000);
    let file = pydicom("examples_ybr_color.dcm");
    let sent = peer("storescu", &format!("{KNOWN} -xy"), ward.address, &[file]);
    let said =
        String::from_utf8_lossy(&sent.stderr).into_owned() + &String::from_utf8_lossy(&sent.stdout);
    assert!(
        !sent.status.success() || said.contains("a700") || said.contains("Refused"),
        "{said}"
    );
    wait_until("the refusal", DEADLINE, || {
        ward.count(InstanceOutcome::Refused) == 1
    });
    assert_eq!(ward.kept(), [] as [String; 0]);
    // It goes on.
    assert!(peer("echoscu", KNOWN, ward.address, &[]).status.success());
}

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

#[test]
fn whoever_is_silent_talks_rubbish_or_comes_in_a_crowd_does_no_harm() {
    let ward = Ward::open(|config| {
        config.timeout = Duration::from_millis(700);
        config.associations = 3;
    });
    let silent: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(ward.address).unwrap())
        .collect();
    wait_until("three", DEADLINE, || ward.metrics.associations.get() == 3);
    let mut fourth = TcpStream::connect(ward.address).unwrap();
    assert_eq!(fourth.read(&mut [0; 1]).unwrap_or(0), 0, "turned away");
    assert_eq!(ward.metrics.turned_away.get(), 1);
    wait_until("the silent to be cut off", DEADLINE, || {
        ward.metrics.associations.get() == 0
    });
    drop(silent);
    let broken = ward.metrics.broken.get();
    for rubbish in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x01, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 1],
        &[0x04, 0, 0, 0, 0, 6, 0, 0, 0, 2, 1, 3],
        &[0x01, 0, 0, 0, 0, 4, 0, 1, 0, 0],
        &[0xAA; 400],
    ] {
        let mut socket = TcpStream::connect(ward.address).unwrap();
        socket.write_all(rubbish).unwrap();
        socket.read_to_end(&mut Vec::new()).ok();
    }
    wait_until("all to be noted", DEADLINE, || {
        ward.metrics.broken.get() == broken + 5
    });
    assert!(peer("echoscu", KNOWN, ward.address, &[]).status.success());
}

#[test]
fn a_listener_that_is_dropped_frees_its_port_and_cuts_off_who_is_there() {
    let mut ward = Ward::open(|_| {});
    let mut held = TcpStream::connect(ward.address).unwrap();
    wait_until("one", DEADLINE, || ward.metrics.associations.get() == 1);
    let begin = Instant::now();
    ward.listener = None;
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(held.read(&mut [0; 1]).unwrap_or(0), 0);
    drop(TcpListener::bind(ward.address).unwrap());
}

/// A run in a process of its own, and everything it says.
struct Run {
    child: Child,
    said: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
    metrics: String,
}

impl Run {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(cargo_bin!("hepaflow"))
            .args(["run", "p.toml"])
            .env("HEPAFLOW_LOG", "debug")
            .current_dir(folder)
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let hear = |stream: Box<dyn Read + Send>| {
            let heard = Arc::clone(&said);
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    heard.lock().unwrap().push_str(&(line + "\n"));
                }
            })
        };
        let readers = vec![
            hear(Box::new(child.stderr.take().unwrap())),
            hear(Box::new(child.stdout.take().unwrap())),
        ];
        let mut run = Self {
            child,
            said,
            readers,
            metrics: String::new(),
        };
        run.metrics = run.word_after("metrics=", "http://", "/metrics");
        run
    }

    /// The first text between `open` and `close` behind `key` in what was said.
    fn word_after(&self, key: &str, open: &str, close: &str) -> String {
        let mut found = None;
        wait_until(key, DEADLINE, || {
            let said = self.said.lock().unwrap();
            found = said.split_once(key).and_then(|(_, rest)| {
                let (_, rest) = rest.split_once(open)?;
                Some(rest.split_once(close)?.0.to_owned())
            });
            found.is_some()
        });
        found.unwrap()
    }

    fn scrape(&self) -> String {
        let mut socket = TcpStream::connect(&self.metrics).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.scrape();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    fn end(mut self) -> String {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.said.lock().unwrap().clone()
    }
}

/// The groups of PS3.6 that have texts in them.
const GROUPS: [u16; 42] = [
    0x0008, 0x0010, 0x0012, 0x0014, 0x0016, 0x0018, 0x0020, 0x0022, 0x0024, 0x0028, 0x0032, 0x0034,
    0x0038, 0x003A, 0x0040, 0x0042, 0x0044, 0x0046, 0x0048, 0x0050, 0x0052, 0x0054, 0x0062, 0x0064,
    0x0066, 0x0068, 0x0070, 0x0072, 0x0074, 0x0076, 0x0080, 0x0082, 0x0088, 0x0100, 0x0400, 0x2000,
    0x2200, 0x3002, 0x3006, 0x4000, 0x4008, 0x4010,
];

/// Every tag of the standard that holds a text that people write, and its VR.
fn texts() -> Vec<(Tag, VR)> {
    let tags = GROUPS
        .into_iter()
        .flat_map(|group| (0..=0xFFFF).map(move |element| Tag(group, element)));
    let texts = tags.filter_map(|tag| {
        let vr = StandardDataDictionary.by_tag(tag)?.vr().exact()?;
        let is_text = matches!(
            vr,
            VR::LO | VR::LT | VR::PN | VR::SH | VR::ST | VR::UC | VR::UR | VR::UT
        );
        is_text.then_some((tag, vr))
    });
    texts.collect()
}

/// Copies `from`, with `canary` in every text of the header, in a sequence and in a
/// private element.
fn plant(from: &Path, to: &Path, canary: &str, instance: &str, texts: &[(Tag, VR)]) {
    let mut object = open_file(from).unwrap();
    for &(tag, vr) in texts {
        object.put_str(tag, vr, canary);
    }
    let mut item = InMemDicomObject::new_empty();
    item.put_str(tags::SCHEDULED_PROCEDURE_STEP_DESCRIPTION, VR::LO, canary);
    item.put_str(tags::PERFORMING_PHYSICIAN_NAME, VR::PN, canary);
    let items = DataSetSequence::from(vec![item]);
    object.put(DataElement::new(
        tags::REQUEST_ATTRIBUTES_SEQUENCE,
        VR::SQ,
        items,
    ));
    object.put_str(Tag(0x0009, 0x0010), VR::LO, canary);
    object.put_str(Tag(0x0009, 0x1001), VR::PN, canary);
    object.put_str(tags::SOP_INSTANCE_UID, VR::UI, instance);
    object.update_meta(|meta| instance.clone_into(&mut meta.media_storage_sop_instance_uid));
    object.write_to_file(to).unwrap();
}

/// Names and contents of all files below `folder`, but for DICOM itself, which
/// is what was entrusted to us.
fn everything_in(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all += &format!("{}\n", path.display());
        if path.is_dir() {
            all += &everything_in(&path);
        } else if path.extension().is_none_or(|extension| extension != "dcm") {
            all += &String::from_utf8_lossy(&fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn a_folder_pushed_into_a_running_pipeline_becomes_patients_and_no_name_leaks() {
    /// Of four recordings of 30 frames.
    const WINDOWS: f64 = 4.0 * 8.0;
    let folder = tempfile::tempdir().unwrap();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro3d");
    let text = format!(
        "[model]\npath = '{}'\n[window]\nstride = 3\n[serve]\nlisten = '127.0.0.1:0'\n\
         [[source]]\nname = 'ward'\nkind = 'listener'\nlisten = '127.0.0.1:{port}'\n\
         folder = 'incoming'\n\
         [[source]]\nname = 'shelf'\nkind = 'archive'\npath = 'shelf'\n\
         [privacy]\nkey = 'p.key'\n",
        model.display()
    );
    fs::write(folder.path().join("p.toml"), text).unwrap();
    let texts = texts();
    assert!(texts.len() > 500, "{}", texts.len());
    // An archive of one good file and one broken in each way.
    let shelf = folder.path().join("shelf");
    fs::create_dir(&shelf).unwrap();
    for (number, name) in ["good", "cut", "odd", "empty"].into_iter().enumerate() {
        let path = shelf.join(format!("{name}.dcm"));
        let instance = format!("2.25.78{number}");
        plant(
            &pydicom("examples_ybr_color.dcm"),
            &path,
            "CANARY4",
            &instance,
            &texts,
        );
        if name == "odd" {
            modify(&path, &["(0028,0004)=CANARY"]);
        }
        let bytes = fs::read(&path).unwrap();
        match name {
            "cut" => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            // Cut within the header, in the middle of a name.
            "empty" => fs::write(&path, &bytes[..900]).unwrap(),
            _ => {}
        }
    }
    let outbox = folder.path().join("outbox");
    fs::create_dir(&outbox).unwrap();
    for patient in 0..3 {
        let path = outbox.join(format!("{patient}.dcm"));
        let (canary, instance) = (format!("CANARY{patient}"), format!("2.25.77{patient}"));
        plant(
            &pydicom("examples_ybr_color.dcm"),
            &path,
            &canary,
            &instance,
            &texts,
        );
    }
    // One that is no cine: a report is refused at the door, an odd picture at
    // the desk.
    let odd = outbox.join("odd.dcm");
    fs::copy(pydicom("examples_rgb_color.dcm"), &odd).unwrap();
    modify(
        &odd,
        &[
            "(0010,0020)=CANARY9",
            "(0028,0100)=16",
            "(0008,0018)=2.25.779",
        ],
    );

    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let run = Run::start(folder.path());
    wait_until("the listener", DEADLINE, || {
        peer("echoscu", "-aec HEPAFLOW", address, &[])
            .status
            .success()
    });
    for (syntax, name) in [("-xy", "0"), ("-xy", "1"), ("-xy", "2"), ("-xe", "odd")] {
        let file = outbox.join(format!("{name}.dcm"));
        let sent = peer(
            "storescu",
            &format!("-aec HEPAFLOW {syntax}"),
            address,
            &[file],
        );
        assert!(
            sent.status.success(),
            "{}",
            String::from_utf8_lossy(&sent.stderr)
        );
    }
    wait_until("four patients", DEADLINE, || {
        run.metric("hepaflow_patients") >= 4.0
    });
    // Whoever ends a run earlier finds the rest done by the next.
    wait_until("all windows", DEADLINE, || {
        run.metric("hepaflow_predictions_total") >= WINDOWS
    });
    wait_until("the odd one", DEADLINE, || {
        run.metric("hepaflow_stream_failures_total{source=\"ward\"}") >= 1.0
    });
    assert!(
        run.metric("hepaflow_dicom_instances_total{outcome=\"stored\",source=\"ward\"}") >= 4.0
    );
    wait_until("the broken of the archive", DEADLINE, || {
        run.metric("hepaflow_stream_failures_total{source=\"shelf\"}") >= 3.0
    });
    let mut out = run.scrape();
    out += &run.end();
    assert_eq!(
        out.matches("P-").count(),
        4,
        "a row for each patient: {out}"
    );
    let said = Command::new(cargo_bin!("hepaflow"))
        .args(["results", "patients", "--store", "results.sqlite"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    out += &String::from_utf8_lossy(&said.stdout);
    // Who holds the key finds the person.
    let mut asked = Command::new(cargo_bin!("hepaflow"))
        .args(["pseudonym", "--key", "p.key"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    asked.stdin.take().unwrap().write_all(b"CANARY0\n").unwrap();
    let pseudonym = String::from_utf8(asked.wait_with_output().unwrap().stdout).unwrap();
    assert!(out.contains(pseudonym.trim()), "{pseudonym}");
    fs::remove_dir_all(&outbox).unwrap();
    let kept = everything_in(folder.path());
    assert!(kept.contains("archive-report.csv") && kept.contains("truncated"));
    assert!(!kept.contains("CANARY"), "a name is in a file");
    assert!(!kept.contains("2.25.77"), "a UID is in a file");
    let incoming = folder.path().join("incoming");
    for entry in fs::read_dir(incoming.join("quarantine")).unwrap() {
        let path = entry.unwrap().path();
        out += &path.to_string_lossy();
        if path.extension().unwrap() == "txt" {
            let reason = fs::read_to_string(&path).unwrap();
            assert!(reason.starts_with("dicom_bit_depth\n"), "{reason}");
            out += &reason;
        }
    }
    for entry in fs::read_dir(incoming).unwrap() {
        out += &entry.unwrap().file_name().to_string_lossy();
    }
    assert!(out.contains("listening for DICOM"), "{out}");
    assert!(!out.contains("CANARY"), "{out}");

    // Started again, it knows what it has done.
    let run = Run::start(folder.path());
    wait_until("the windows of before", DEADLINE, || {
        run.metric("hepaflow_windows_resumed_total") >= WINDOWS
    });
    assert!(run.metric("hepaflow_predictions_total").abs() < 0.5);
    run.end();
}
