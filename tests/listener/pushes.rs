//! What scanners push, and what is kept of it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use hepaflow::domain::ContentHash;
use hepaflow::metrics::InstanceOutcome;

use super::recordings::pydicom;
use super::wait::wait_until;
use super::{DEADLINE, KNOWN, Ward, modify, peer};

const IMAGES: [&str; 4] = [
    "examples_ybr_color.dcm",
    "examples_rgb_color.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
];

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
