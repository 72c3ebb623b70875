//! A run in the background, and what it takes to talk with it over HTTP.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

/// What a server said.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Header lines in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

/// One request on a connection of its own. `more` are header lines.
pub(crate) fn send(address: &str, method: &str, path: &str, more: &[&str], body: &str) -> Answer {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    talk(stream, address, (method, path), more, body)
}

/// The same on any connection, such as one with TLS.
pub(crate) fn talk(
    mut stream: impl Read + Write,
    host: &str,
    (method, path): (&str, &str),
    more: &[&str],
    body: &str,
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !more.iter().any(|line| line.starts_with("Host:")) {
        request += &format!("Host: {host}\r\n");
    }
    for line in more {
        request += &format!("{line}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    // Who is not let in may find that out here, or by the silence that follows.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    // A server may cut the connection where TLS would like a farewell, or keep
    // it although it was asked not to.
    while !is_whole(&bytes) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let (status, head) = head.split_once("\r\n").unwrap_or((head, ""));
    let head: Vec<_> = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| format!("{}: {}", name.to_lowercase(), value.trim()))
        .collect();
    let head = head.join("\n");
    let chunked = head.contains("transfer-encoding: chunked");
    Answer {
        status: status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0),
        body: if chunked {
            joined(body)
        } else {
            body.to_owned()
        },
        head,
    }
}

/// Whether all that the head announces has come.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length:"));
    let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
    length.is_some_and(|length| bytes.len() >= end + 4 + length)
}

fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole += &rest[..size];
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// A run of `p.toml` in a folder.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Running {
    pub(crate) fn start(folder: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(cargo_bin!("hepaflow"))
            .args(["run", "p.toml", "--log-json"])
            .args(more)
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines
            .find(|line| {
                line.as_ref()
                    .is_ok_and(|line| line.contains("\"dashboard\""))
            })
            .expect("the run says where its dashboard is");
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let url = line["fields"]["dashboard"].as_str().unwrap();
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        // Keep reading, so that the program never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        send(&self.address, "GET", path, &[], "")
    }

    /// Asks until the answer is as it should be.
    pub(crate) fn wait_for(&self, path: &str, enough: impl Fn(&Answer) -> bool) -> Answer {
        let begin = Instant::now();
        loop {
            let answer = self.get(path);
            if enough(&answer) {
                return answer;
            }
            assert!(
                begin.elapsed() < Duration::from_mins(2),
                "waited in vain for {path}: {}",
                answer.body
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes `p.toml` with the small model, a free port and these sources.
pub(crate) fn pipeline(folder: &Path, stride: usize, sources: &str, serve: &str) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro3d");
    let text = format!(
        "[model]\npath = '{}'\nthreads = 1\n[window]\nstride = {stride}\n{sources}\n\
         [serve]\nlisten = '127.0.0.1:0'\n{serve}\n",
        model.display()
    );
    fs::write(folder.join("p.toml"), text).unwrap();
}

/// A scanner that never stops, for a patient whose identifier must not be seen.
pub(crate) fn scanner(name: &str, patient: &str) -> String {
    format!(
        "[[source]]\nname = '{name}'\nkind = 'launch'\npatient = '{patient}'\nlive = true\n\
         line = 'videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1'\n\
         crop = {{ x = 60, y = 20, width = 200, height = 200 }}\n"
    )
}
