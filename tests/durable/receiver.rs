//! An HTTP server that behaves as badly as it is told to.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ring::hmac;
use serde_json::Value;

pub(crate) const SECRET: &str = "a key of more than sixteen bytes";

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Takes,
    /// Answers that it cannot.
    Fails,
    /// Reads the request and says nothing for longer than anybody waits.
    Hangs,
    /// Closes in the middle of the request.
    Closes,
    /// Takes it, and closes before it says so.
    ForgetsToAnswer,
}

#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    mood: Arc<Mutex<Box<dyn FnMut() -> Mood + Send>>>,
    taken: Arc<Mutex<Vec<Value>>>,
    refused: Arc<Mutex<BTreeSet<String>>>,
}

impl Receiver {
    pub(crate) fn start(mood: impl FnMut() -> Mood + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            url: format!("http://{}/results", listener.local_addr().unwrap()),
            mood: Arc::new(Mutex::new(Box::new(mood))),
            taken: Arc::default(),
            refused: Arc::default(),
        };
        let serving = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || while serving.request(&stream).is_some() {});
            }
        });
        receiver
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = Box::new(move || mood);
    }

    /// Refuses whatever is about one of these patients, whatever its mood.
    pub(crate) fn refuse(&self, patients: &[&str]) {
        *self.refused.lock().unwrap() = patients.iter().map(|&name| name.to_owned()).collect();
    }

    /// Bodies that were taken, in order.
    pub(crate) fn taken(&self) -> Vec<Value> {
        self.taken.lock().unwrap().clone()
    }

    /// `None` closes the connection.
    fn request(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let (mut length, mut event, mut signature) = (0, String::new(), String::new());
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        assert!(line.starts_with("POST /results "), "{line}");
        let mood = (self.mood.lock().unwrap())();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "idempotency-key" => value.clone_into(&mut event),
                "hepaflow-signature" => value.clone_into(&mut signature),
                _ => {}
            }
        }
        if mood == Mood::Closes {
            return None;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        if mood == Mood::Hangs {
            std::thread::sleep(Duration::from_secs(3));
            return None;
        }
        verify(&signature, &body);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["event"], event.as_str());
        let patient = body["patient"].as_str().unwrap();
        if self.refused.lock().unwrap().contains(patient) {
            let answer = "HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 0\r\n\r\n";
            return stream.write_all(answer.as_bytes()).ok();
        }
        if mood == Mood::Fails {
            let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlater";
            return stream.write_all(answer.as_bytes()).ok();
        }
        self.taken.lock().unwrap().push(body);
        if mood == Mood::ForgetsToAnswer {
            return None;
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()
    }
}

fn verify(signature: &str, body: &[u8]) {
    let (time, tag) = signature
        .strip_prefix("t=")
        .and_then(|rest| rest.split_once(",v1="))
        .unwrap();
    let tag: Vec<_> = (0..tag.len() / 2)
        .map(|at| u8::from_str_radix(&tag[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = [time.as_bytes(), b".", body].concat();
    hmac::verify(&key, &signed, &tag).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now.abs_diff(time.parse().unwrap()) < 300);
}
