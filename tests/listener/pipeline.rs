//! A listener in a whole run: who is pushed becomes a patient, and no name leaks.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use assert_cmd::cargo::cargo_bin;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};
use dicom_object::{InMemDicomObject, open_file};

use super::recordings::pydicom;
use super::wait::wait_until;
use super::{DEADLINE, modify, peer};

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
