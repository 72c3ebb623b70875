//! What a hospital gets: reports in the right study of a real archive, read by
//! other people's programs, and corrected by new ones.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/orthanc.rs"]
mod orthanc;
#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod recordings;
#[path = "support/wait.rs"]
mod wait;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use wait::wait_for;

use assert_cmd::cargo::cargo_bin;
use orthanc::{Orthanc, Papers, dcmtk, free_port};
use recordings::pydicom;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_mins(2);
const SR: &str = "1.2.840.10008.5.1.4.1.1.88.34";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `tests/support/read_report.py`, with the packages that the set-up fetched.
fn python(args: &[&str]) -> String {
    let path = ["tests/data/cache/python", "tests/data/cache/highdicom"];
    let path = path.map(|path| root().join(path).display().to_string());
    let output = Command::new("python3")
        .arg(root().join("tests/support/read_report.py"))
        .args(args)
        .env("PYTHONPATH", path.join(":"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn read(args: &[&str]) -> Value {
    serde_json::from_str(&python(args)).unwrap()
}

fn curl(url: &str, to: Option<&Path>) -> Vec<u8> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", url]);
    if let Some(to) = to {
        command.arg("--output").arg(to);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Everything of this modality in the archive, downloaded, in the order of arrival.
fn of_modality(orthanc: &Orthanc, modality: &str, folder: &Path) -> Vec<PathBuf> {
    let http = format!("http://127.0.0.1:{}", orthanc.http.unwrap());
    let ask = |what: &str| -> Value {
        serde_json::from_slice(&curl(&format!("{http}/{what}?expand"), None)).unwrap()
    };
    let mut found = Vec::new();
    for series in ask("series").as_array().unwrap() {
        if series["MainDicomTags"]["Modality"] != modality {
            continue;
        }
        for instance in series["Instances"].as_array().unwrap() {
            let id = instance.as_str().unwrap();
            let path = folder.join(format!("{id}.dcm"));
            curl(&format!("{http}/instances/{id}/file"), Some(&path));
            found.push(path);
        }
    }
    found.sort_by_key(|path| number_of(path));
    found
}

fn number_of(path: &Path) -> u32 {
    let output = Command::new("dcmdump")
        .args(["+P", "InstanceNumber", "-s"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let number = text.split(['[', ']']).nth(1).unwrap();
    number.trim().parse().unwrap()
}

/// What the validator finds wrong.
fn faults(path: &Path) -> Vec<String> {
    let output = Command::new("dciodvfy")
        .arg(path)
        .output()
        .expect("Debian's dicom3tools is needed");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !text.is_empty(),
        "it says at least what it takes the file for"
    );
    let faults = text.lines().filter(|line| line.contains("Error"));
    faults.map(str::to_owned).collect()
}

fn cine(folder: &Path, number: &str, date: &str) -> PathBuf {
    cine_of(folder, number, date, "CANARY-7")
}

fn cine_of(folder: &Path, number: &str, date: &str, patient: &str) -> PathBuf {
    let path = folder.join(format!("in/{number}.dcm"));
    let from = pydicom("examples_ybr_color.dcm");
    python(&[
        "--cine",
        from.to_str().unwrap(),
        path.to_str().unwrap(),
        number,
        date,
        patient,
    ]);
    path
}

fn pipeline(folder: &Path, port: u16) {
    let text = format!(
        "[model]\npath = '{}'\nthreads = 1\n[window]\nstride = 4\n\
         [ingest]\ncrop = 'header'\ngate = false\n[serve]\nlisten = '127.0.0.1:0'\n\
         [[source]]\nname = 'archive'\npath = 'in/*.dcm'\n\
         [[sink]]\nname = 'pacs'\nkind = 'dicom'\naddress = '127.0.0.1:{port}'\n\
         ae_title = 'ARCHIVE'\nkey_frames = 2\nsettle = '300ms'\nretry_pause = '1s'\n",
        root().join("tests/goldens/fibro3d").display()
    );
    fs::write(folder.join("p.toml"), text).unwrap();
}

fn hepaflow(args: &[&str], folder: &Path) -> Output {
    let output = Command::new(cargo_bin!("hepaflow"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    output
}

/// A run that stays; killed when dropped.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn uids(references: &Value) -> Vec<&str> {
    let references = references.as_array().unwrap().iter();
    references.map(|it| it["uid"].as_str().unwrap()).collect()
}

#[test]
fn an_answer_is_filed_in_its_study_and_a_correction_names_the_report_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("in")).unwrap();
    let first = cine(folder, "1", "20240110");
    let port = free_port();
    pipeline(folder, port);

    // The archive is down at first; the run goes on, and files when it is there.
    let log = folder.join("log");
    let run = Run(Command::new(cargo_bin!("hepaflow"))
        .args(["run", "p.toml", "--stay"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap());
    let said = || fs::read_to_string(&log).unwrap();
    wait_for("a sink that is down", DEADLINE, || {
        said().contains("takes nothing").then_some(())
    });
    let orthanc = Orthanc::start_with_http(folder, port);
    let sent = dcmtk("storescu", "-aec ARCHIVE -xy", port, &[first]);
    assert!(sent.status.success(), "{sent:?}");
    let reports = wait_for("a report", DEADLINE, || {
        Some(of_modality(&orthanc, "SR", folder)).filter(|reports| !reports.is_empty())
    });
    // Killed in the middle of anything, it files nothing twice.
    drop(run);
    hepaflow(&["run", "p.toml"], folder);
    assert_eq!(of_modality(&orthanc, "SR", folder), reports);

    let one = read(&[reports[0].to_str().unwrap()]);
    assert_eq!(faults(&reports[0]), [""; 0]);
    assert_eq!(one["SOPClassUID"], SR);
    assert_eq!(one["StudyInstanceUID"], "2.25.901");
    assert_eq!(one["PatientName"], "王^小明");
    assert_eq!(one["PatientID"], "CANARY-7");
    assert_eq!(one["StudyDate"], "20240110");
    assert_eq!(one["flags"], serde_json::json!(["COMPLETE", "UNVERIFIED"]));
    assert_eq!(one["predecessors"], serde_json::json!([]));
    assert_eq!(one["finding"], "112674009");
    // No code of SNOMED CT but those that the standard lists itself, by its meanings.
    let snomed = one["snomed"].as_array().unwrap();
    assert!(snomed.len() >= 4, "{one}");
    for code in snomed {
        assert_eq!(code["known"], true, "{code}");
    }
    assert_eq!(one["sites"], serde_json::json!(["10200004"]));
    // Windows of 9 frames every 4 of 30 end with frame 29.
    let images = one["images"].as_array().unwrap();
    assert_eq!(images[0]["uid"], "2.25.921");
    let frames: Vec<u64> = (1..=29).collect();
    assert_eq!(images[0]["frames"], serde_json::json!(frames));

    // What it says is what the store says.
    let stored = hepaflow(
        &["results", "patients", "--pipeline", "p.toml", "--json"],
        folder,
    );
    let stored: Value = serde_json::from_slice(&stored.stdout).unwrap();
    let stored = &stored[0];
    let numbers = one["numbers"].as_object().unwrap();
    assert_eq!(numbers["CLIPS"].as_f64(), stored["clips"].as_f64());
    let classes = ["F0-F1", "F2-F4"].map(|class| numbers[&format!("P_{class}")].as_f64().unwrap());
    assert!((classes.iter().sum::<f64>() - 1.0).abs() < 2e-6, "{one}");
    let likely = if classes[0] >= classes[1] {
        "F0-F1"
    } else {
        "F2-F4"
    };
    assert!(
        one["words"]["STAGE"] == likely || one["words"]["CONCLUSION"] == "DISAGREE",
        "{one}"
    );
    assert_eq!(one["texts"]["111003"].as_str().unwrap().len(), 64);
    assert!(one["texts"]["111001"].as_str().unwrap().contains("fibro3d"));

    // The pictures lie beside it, say what they show, and are referred to.
    let pictures = of_modality(&orthanc, "OT", folder);
    assert_eq!(pictures.len(), 2);
    let evidence = uids(&one["CurrentRequestedProcedureEvidenceSequence"]);
    for path in &pictures {
        assert_eq!(faults(path), [""; 0]);
        let picture = read(&["--picture", path.to_str().unwrap()]);
        assert_eq!(picture["StudyInstanceUID"], "2.25.901");
        assert_eq!(picture["source"], "2.25.921");
        assert!((1..=29).contains(&picture["frame"].as_u64().unwrap()));
        assert_eq!(picture["shape"].as_array().unwrap().len(), 3);
        assert!(picture["colours"].as_u64().unwrap() > 100, "{picture}");
        let uid = picture["SOPInstanceUID"].as_str().unwrap();
        assert!(evidence.contains(&uid));
        assert!(
            images
                .iter()
                .any(|it| it["uid"] == uid && it["name"] == "121080")
        );
    }

    // A newer study: the report goes there, and names the other and the first report.
    let second = cine(folder, "2", "20240301");
    let sent = dcmtk("storescu", "-aec ARCHIVE -xy", port, &[second]);
    assert!(sent.status.success(), "{sent:?}");
    hepaflow(&["run", "p.toml"], folder);
    let reports = of_modality(&orthanc, "SR", folder);
    assert_eq!(reports.len(), 2);
    let two = read(&[reports[1].to_str().unwrap()]);
    assert_eq!(faults(&reports[1]), [""; 0]);
    assert_eq!(two["StudyInstanceUID"], "2.25.902");
    assert_eq!(two["InstanceNumber"], "2");
    assert_eq!(two["predecessors"][0]["uid"], one["SOPInstanceUID"]);
    assert_eq!(two["predecessors"][0]["study"], "2.25.901");
    assert_eq!(uids(&two["PertinentOtherEvidenceSequence"]), ["2.25.921"]);
    assert_eq!(two["tracking"], one["tracking"]);

    // All evidence is gone: that, too, is a report.
    hepaflow(
        &[
            "patients",
            "delete",
            "CANARY-7",
            "--store",
            "results.sqlite",
            "--reason",
            "asked for",
        ],
        folder,
    );
    hepaflow(&["run", "p.toml"], folder);
    let reports = of_modality(&orthanc, "SR", folder);
    assert_eq!(reports.len(), 3);
    let three = read(&[reports[2].to_str().unwrap()]);
    assert_eq!(faults(&reports[2]), [""; 0]);
    assert_eq!(three["words"]["CONCLUSION"], "WITHDRAWN");
    assert_eq!(three["predecessors"][0]["uid"], two["SOPInstanceUID"]);

    let said = said();
    assert!(
        !said.contains("CANARY") && !said.contains("2.25."),
        "{said}"
    );
}

#[test]
fn a_merge_while_the_run_goes_on_is_in_the_next_report() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("in")).unwrap();
    let port = free_port();
    let orthanc = Orthanc::start_with_http(folder, port);
    let sources = [
        cine_of(folder, "1", "20240110", "CANARY-7"),
        cine_of(folder, "2", "20240301", "CANARY-8"),
    ];
    let sent = dcmtk("storescu", "-aec ARCHIVE -xy", port, &sources);
    assert!(sent.status.success(), "{sent:?}");
    pipeline(folder, port);
    let _run = Run(Command::new(cargo_bin!("hepaflow"))
        .args(["run", "p.toml", "--stay"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap());
    // Reading them takes Python a while: not before all are there.
    let reports = |count: usize| -> Vec<Value> {
        let found = wait_for("reports", DEADLINE, || {
            Some(of_modality(&orthanc, "SR", folder)).filter(|found| found.len() == count)
        });
        let found = found.iter().map(|path| read(&[path.to_str().unwrap()]));
        found.collect()
    };
    let of = |reports: &[Value], patient: &str, number: &str| -> Value {
        let mut found = reports.iter();
        let found = found.find(|it| it["PatientID"] == patient && it["InstanceNumber"] == number);
        found.unwrap().clone()
    };
    let first = reports(2);
    let before = ["CANARY-7", "CANARY-8"].map(|patient| of(&first, patient, "1"));
    let other = "PertinentOtherEvidenceSequence";
    assert_eq!(before[1][other], serde_json::json!([]));

    let merge = "patients merge CANARY-7 CANARY-8 --store results.sqlite";
    hepaflow(&merge.split(' ').collect::<Vec<_>>(), folder);
    let second = reports(4);
    let both = of(&second, "CANARY-8", "2");
    assert_eq!(both["StudyInstanceUID"], "2.25.902");
    assert_eq!(uids(&both[other]), ["2.25.921"]);
    assert_eq!(both["predecessors"][0]["uid"], before[1]["SOPInstanceUID"]);
    let clips = |report: &Value| report["numbers"]["CLIPS"].as_f64().unwrap();
    assert!((clips(&both) - clips(&before[0]) - clips(&before[1])).abs() < 1e-6);
    let gone = of(&second, "CANARY-7", "2");
    assert_eq!(gone["words"]["CONCLUSION"], "WITHDRAWN");
    assert_eq!(gone["predecessors"][0]["uid"], before[0]["SOPInstanceUID"]);
}

/// dcmtk's `storescp`, which takes encrypted associations only, from whom shows this
/// certificate; ended when dropped.
struct Vault(Child);

impl Vault {
    fn open(folder: &Path, port: u16) -> Self {
        let child = Command::new("storescp")
            .args(["+tls", "pacs-key.pem", "pacs.pem", "+cf", "ours.pem"])
            .args(["--aetitle", "ARCHIVE", "--output-directory", "filed"])
            .arg(port.to_string())
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's dcmtk is needed");
        wait_for("the archive's port", DEADLINE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self(child)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Has the pipeline of this text speak with the archive over TLS: who vouches for that,
/// and who we are.
fn encrypt(folder: &Path, plain: &str, authority: &str, own: &str) {
    let (before, after) = plain.split_once("address = '127.0.0.1:").unwrap();
    let (port, after) = after.split_once('\'').unwrap();
    let text = format!(
        "{before}address = 'localhost:{port}'\nauthorities = '{authority}.pem'\n\
         certificate = '{own}.pem'\nkey = '{own}-key.pem'{after}"
    );
    fs::write(folder.join("p.toml"), text).unwrap();
}

#[test]
fn reports_go_encrypted_to_an_archive_that_both_sides_vouch_for_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["in", "filed"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    Papers::of(folder);
    let port = free_port();
    cine(folder, "1", "20240110");
    pipeline(folder, port);
    let plain = fs::read_to_string(folder.join("p.toml")).unwrap();
    let filed = || -> Vec<PathBuf> {
        let files = fs::read_dir(folder.join("filed")).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    };
    let _vault = Vault::open(folder, port);
    // An archive that nobody vouches for, and one that does not know us.
    for (authority, own) in [("stranger", "ours"), ("pacs", "stranger")] {
        encrypt(folder, &plain, authority, own);
        let said = hepaflow(&["run", "p.toml"], folder).stderr;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("wait for sink `pacs`"), "{said}");
        assert_eq!(filed(), [] as [PathBuf; 0]);
    }
    // In the clear it takes nothing.
    fs::write(folder.join("p.toml"), &plain).unwrap();
    hepaflow(&["run", "p.toml"], folder);
    assert_eq!(filed(), [] as [PathBuf; 0]);

    encrypt(folder, &plain, "pacs", "ours");
    hepaflow(&["run", "p.toml"], folder);
    let files = filed();
    assert_eq!(files.len(), 3, "a report and two pictures: {files:?}");
    for file in &files {
        assert_eq!(faults(file), [""; 0]);
    }
}

#[test]
fn a_real_archive_takes_encrypted_reports_into_the_right_study() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("in")).unwrap();
    let papers = Papers::of(folder);
    let port = free_port();
    let source = cine(folder, "1", "20240110");
    pipeline(folder, port);
    let plain = fs::read_to_string(folder.join("p.toml")).unwrap();
    let orthanc = Orthanc::start_encrypted(folder, port, None);
    let options = format!("{}-aec ARCHIVE -xy", papers.dcmtk());
    let sent = dcmtk("storescu", &options, port, &[source]);
    assert!(sent.status.success(), "{sent:?}");

    // In the clear there is no way in.
    hepaflow(&["run", "p.toml"], folder);
    assert_eq!(of_modality(&orthanc, "SR", folder), [] as [PathBuf; 0]);
    encrypt(folder, &plain, "pacs", "ours");
    hepaflow(&["run", "p.toml"], folder);
    let reports = of_modality(&orthanc, "SR", folder);
    assert_eq!(reports.len(), 1);
    let report = read(&[reports[0].to_str().unwrap()]);
    assert_eq!(report["StudyInstanceUID"], "2.25.901");
    assert_eq!(of_modality(&orthanc, "OT", folder).len(), 2);
}
