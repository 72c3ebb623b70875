//! A real archive: Debian's Orthanc, in a folder of its own.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(40);

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Orthanc, ended when dropped.
pub(crate) struct Orthanc {
    process: Child,
    /// Where it speaks DICOM, as ARCHIVE.
    pub(crate) port: u16,
    /// Where it speaks HTTP, if it was asked to.
    pub(crate) http: Option<u16>,
}

impl Orthanc {
    /// With a listener that it may push to.
    pub(crate) fn start(folder: &Path, listener: SocketAddr) -> Self {
        let modality = format!(
            "\"hepaflow\": [\"HEPAFLOW\", \"{}\", {}]",
            listener.ip(),
            listener.port()
        );
        Self::run(folder, free_port(), None, &modality, None)
    }

    /// At this port, and with its REST interface.
    pub(crate) fn start_with_http(folder: &Path, port: u16) -> Self {
        Self::run(folder, port, Some(free_port()), "", None)
    }

    /// The same, encrypted and only with whom it knows, by the papers in the folder; so
    /// it pushes to a listener, too.
    pub(crate) fn start_encrypted(folder: &Path, port: u16, listener: Option<SocketAddr>) -> Self {
        let modality = listener.map(|listener| {
            format!(
                "\"hepaflow\": {{\"AET\": \"HEPAFLOW\", \"Host\": \"localhost\", \"Port\": {}, \
                 \"UseDicomTls\": true}}",
                listener.port()
            )
        });
        let papers = Papers::of(folder);
        let tls = format!(
            "\"DicomTlsEnabled\": true, \"DicomTlsCertificate\": \"{0}/pacs.pem\", \
             \"DicomTlsPrivateKey\": \"{0}/pacs-key.pem\", \
             \"DicomTlsTrustedCertificates\": \"{0}/ours.pem\", \
             \"DicomTlsRemoteCertificateRequired\": true, ",
            folder.display()
        );
        let modality = modality.unwrap_or_default();
        let tls = Some((tls.as_str(), &papers));
        Self::run(folder, port, Some(free_port()), &modality, tls)
    }

    fn run(
        folder: &Path,
        port: u16,
        http: Option<u16>,
        modalities: &str,
        tls: Option<(&str, &Papers)>,
    ) -> Self {
        let config = folder.join("orthanc.json");
        let more = tls.map_or("", |(more, _)| more);
        let text = format!(
            "{{\"Name\": \"test\", \"StorageDirectory\": \"{0}/orthanc\", \
             \"IndexDirectory\": \"{0}/orthanc\", \"HttpServerEnabled\": {1}, \
             \"HttpPort\": {2}, \"RemoteAccessAllowed\": false, \
             \"DicomAet\": \"ARCHIVE\", \"DicomPort\": {port}, \"Plugins\": [], \
             \"DicomAlwaysAllowStore\": true, \"DicomCheckModalityHost\": false, \
             {more}\"DicomModalities\": {{{modalities}}}}}",
            folder.display(),
            http.is_some(),
            http.unwrap_or(0),
        );
        fs::write(&config, text).unwrap();
        let process = Command::new("Orthanc")
            .env("PATH", "/usr/sbin:/usr/bin:/bin")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's orthanc is needed");
        let orthanc = Self {
            process,
            port,
            http,
        };
        let begin = Instant::now();
        let tls = tls.map_or_else(String::new, |(_, papers)| papers.dcmtk());
        while !dcmtk("echoscu", &format!("{tls}-aec ARCHIVE"), orthanc.port, &[])
            .status
            .success()
        {
            assert!(begin.elapsed() < DEADLINE, "Orthanc does not answer");
            thread::sleep(Duration::from_millis(100));
        }
        orthanc
    }
}

/// Certificates and keys: an archive's, ours, and somebody's whom nobody knows.
pub(crate) struct Papers(PathBuf);

impl Papers {
    /// Those in `folder`, made there first if they are not.
    pub(crate) fn of(folder: &Path) -> Self {
        for name in ["pacs", "ours", "stranger"] {
            let file = folder.join(format!("{name}.pem"));
            if file.exists() {
                continue;
            }
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            fs::write(file, made.cert.pem()).unwrap();
            let key = made.signing_key.serialize_pem();
            fs::write(folder.join(format!("{name}-key.pem")), key).unwrap();
        }
        Self(folder.to_owned())
    }

    /// For dcmtk's tools, who then speak as we do.
    pub(crate) fn dcmtk(&self) -> String {
        format!(
            "+tls {0}/ours-key.pem {0}/ours.pem +cf {0}/pacs.pem ",
            self.0.display()
        )
    }
}

impl Drop for Orthanc {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub(crate) fn dcmtk(tool: &str, options: &str, port: u16, files: &[PathBuf]) -> Output {
    Command::new(tool)
        .args(options.split_whitespace())
        .args(["127.0.0.1", &port.to_string()])
        .args(files)
        .output()
        .expect("Debian's dcmtk is needed")
}
