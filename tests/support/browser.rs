//! A headless Chromium, driven over WebDriver (<https://www.w3.org/TR/webdriver2/>).
//! The few commands that the tests need are a page of code: a crate for them would
//! bring fifty others.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::served::send;

const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
}

impl Browser {
    /// A browser with a window of this size; a phone's is touched and twice as fine.
    pub(crate) fn open(width: u32, height: u32, phone: bool) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed by scripts/install-dependencies.sh --tests");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| {
                let line = line.unwrap();
                let (_, port) = line.split_once("successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver says its port");
        std::thread::spawn(move || lines.for_each(drop));
        let mut options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--lang=en-US", format!("--window-size={width},{height}"),
        ] });
        if phone {
            options["mobileEmulation"] = json!({ "deviceMetrics": {
                "width": width, "height": height, "pixelRatio": 2.0, "touch": true } });
        }
        let mut browser = Self {
            driver,
            address: format!("127.0.0.1:{port}"),
            session: String::new(),
        };
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" } } } });
        let session = browser.command("POST", "/session", &capabilities);
        session["sessionId"]
            .as_str()
            .unwrap()
            .clone_into(&mut browser.session);
        browser
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, value) = self.attempt(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {value}");
        value
    }

    fn attempt(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let json = ["Content-Type: application/json"];
        let answer = send(&self.address, method, path, &json, &body);
        (answer.status, answer.json()["value"].clone())
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.command("POST", &format!("/session/{}{path}", self.session), body)
    }

    pub(crate) fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression in the page is true.
    pub(crate) fn until(&self, expression: &str) {
        let begin = Instant::now();
        while self.value(&format!("Boolean({expression})")) != json!(true) {
            if begin.elapsed() > Duration::from_mins(1) {
                let text = self.value("document.body.innerText");
                panic!(
                    "waited in vain for {expression}; the page: {text}; {:?}",
                    self.complaints()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn find(&self, selector: &str) -> String {
        let query = json!({ "using": "css selector", "value": selector });
        let found = self.post("/element", &query);
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// A real click: on what lies on top at the element's place.
    pub(crate) fn click(&self, selector: &str) {
        // What is found may be drawn anew before it is clicked; nobody sees that.
        for _ in 0..20 {
            let element = self.find(selector);
            let path = format!("/session/{}/element/{element}/click", self.session);
            let (status, value) = self.attempt("POST", &path, &json!({}));
            if status == 200 {
                return;
            }
            assert_eq!(
                value["error"], "stale element reference",
                "{selector}: {value}"
            );
        }
        panic!("{selector} is drawn anew all the time");
    }

    pub(crate) fn write(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.post(
            &format!("/element/{element}/value"),
            &json!({ "text": text }),
        );
    }

    /// Presses a key, wherever the focus is; `\u{E004}` is Tab.
    pub(crate) fn press(&self, key: &str) {
        let actions =
            json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] });
        self.post("/actions", &actions);
    }

    /// The text of what a selector finds first.
    pub(crate) fn text(&self, selector: &str) -> String {
        let value = self.value(&format!(
            "document.querySelector({})?.innerText",
            json!(selector)
        ));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// A PNG of the window.
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        let picture = self.command(
            "GET",
            &format!("/session/{}/screenshot", self.session),
            &Value::Null,
        );
        STANDARD.decode(picture.as_str().unwrap()).unwrap()
    }

    /// Errors and warnings of the console, such as what the policy refused.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().unwrap().iter();
        let lines = lines.filter(|line| line["level"] == "SEVERE" || line["level"] == "WARNING");
        lines.map(|line| line["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.command(
                "DELETE",
                &format!("/session/{}", self.session),
                &Value::Null,
            );
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
