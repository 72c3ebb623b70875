//! The dashboard as people meet it: a real browser, real clicks, a running
//! pipeline.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "a part is used here")]
mod recordings;
#[path = "support/served.rs"]
mod served;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use browser::Browser;
use hepaflow::serve::tokens::{Role, Tokens};
use recordings::{MP4, record};
use served::{Running, pipeline, scanner};

const SECRET: &str = "DOE-JANE-1970";
const TAB: &str = "\u{E004}";
const SPACE: &str = " ";
const ESCAPE: &str = "\u{E00C}";
const ENTER: &str = "\u{E007}";
const DOWN: &str = "\u{E015}";

fn page(run: &Running, hash: &str) -> String {
    format!("http://{}/{hash}", run.address)
}

/// True in the page when a tile's picture is another than the last time it was
/// asked for.
const MOVES: &str = "(() => { const c = document.querySelector('.picture'); \
    const now = c.toDataURL(); const moved = window.before && window.before !== now; \
    window.before = now; return moved && c.width > 100; })()";

#[test]
fn a_live_stream_is_seen_with_its_numbers_and_where_the_model_looks() {
    let folder = tempfile::tempdir().unwrap();
    let sources = scanner("bed-1", SECRET) + &scanner("bed-2", "OTHER");
    pipeline(folder.path(), 3, &sources, "");
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(1200, 900, false);
    browser.go(&page(&run, ""));
    browser.until("document.querySelectorAll('.tile').length === 2");
    browser.until(MOVES);
    browser.until("document.querySelector('.tile .pill.live')");
    browser.until("document.querySelectorAll('.tile:first-child .class .p').length === 2");
    assert!(browser.text(".notice").contains("no medical device"));
    let facts = browser.text(".tile .facts");
    assert!(facts.contains("200×200 / 320×240"), "{facts}");
    browser.until("parseFloat(document.querySelector('.facts dd').innerText) > 1");

    // The map comes when it is switched on, by click and by key, and goes.
    assert_eq!(
        browser.value("document.querySelector('.maptext').hidden"),
        true
    );
    browser.click(".switch");
    browser.until("/F\\d.*\\d/.test(document.querySelector('.maptext:not([hidden])')?.innerText)");
    browser.click(".switch");
    browser.until("document.querySelector('.maptext').hidden");
    browser.value("document.querySelector('#main').focus()");
    browser.press(TAB);
    browser.press(SPACE);
    browser.until("document.querySelector('.maptext:not([hidden])')");

    // A language is chosen once.
    browser.click("#language");
    browser.until("document.documentElement.lang === 'zh-CN'");
    assert_eq!(browser.text("#title-live"), "实时画面");
    assert!(browser.text(".notice").contains("研究软件"));
    browser.go(&page(&run, ""));
    browser.until("document.querySelector('#title-live').innerText === '实时画面'");
    browser.until("document.querySelectorAll('.tile .pill.live').length === 2");
    assert!(
        !browser
            .value("document.documentElement.innerHTML")
            .to_string()
            .contains(SECRET)
    );
    assert_eq!(browser.complaints(), [] as [&str; 0]);
}

#[test]
fn patients_open_by_click_and_key_and_the_system_page_shows_rates() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", SECRET), "");
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(1200, 900, false);
    browser.go(&page(&run, ""));
    browser.until("document.querySelector('nav a[data-page=live]').innerText === 'Live'");
    browser.click("nav a[data-page=patients]");
    browser.until("/F\\d/.test(document.querySelector('tbody .badge')?.innerText)");
    let clips = "Number(document.querySelector('tbody tr td:nth-last-child(2)').innerText)";
    let before = browser.value(clips).as_f64().unwrap();
    browser.until(&format!("{clips} > {before}"));
    browser.click("[data-patient]");
    browser.until("document.querySelector('dialog[open] canvas')");
    browser.until("/\\d/.test(document.querySelector('dialog[open] .faint')?.innerText)");
    browser.press(ESCAPE);
    browser.until("!document.querySelector('dialog[open]')");

    browser.click("nav a[data-page=system]");
    browser.until("document.querySelectorAll('.node').length === 5");
    browser
        .until("parseFloat(document.querySelector('[data-node=sources] .rate').textContent) > 1");
    browser.until("document.querySelector('[data-node=infer].busy')");
    assert!(browser.text("#sources").contains("bed-1"));
    assert!(browser.text("#about").contains("fibro3d"));
    // Without a login the request is that of somebody at this machine.
    browser.until("document.querySelector('#streams input[name=patient]')");
    browser.write("#streams input[name=patient]", "NEXT");
    browser.click("#streams form button");
    browser.until("document.querySelectorAll('#streams tbody tr').length === 2");
    assert_eq!(browser.complaints(), [] as [&str; 0]);
}

#[test]
fn pictures_that_the_gate_leaves_out_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let test = "videotestsrc is-live=true";
    let raw = "video/x-raw,width=320,height=240,framerate=15/1 ! both.";
    let source = format!(
        "[[source]]\nname = 'bed-1'\nkind = 'launch'\npatient = 'P'\nlive = true\n\
         line = '{test} pattern=ball num-buffers=30 ! {raw} {test} pattern=black ! {raw} \
         concat name=both ! identity'\n"
    );
    pipeline(folder.path(), 3, &source, "");
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(1200, 900, false);
    browser.go(&page(&run, ""));
    browser.until("document.querySelector('.tile')?.dataset.status === 'gated'");
    let veil = browser.text(".tile .veil");
    assert!(veil.contains("none is used: blank"), "{veil}");
    assert_eq!(browser.text(".tile .pill"), "NOT USED");
}

#[test]
fn an_exam_begins_and_ends_at_its_picture() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", SECRET), "");
    let run = Running::start(folder.path(), &["--stay"]);
    let browser = Browser::open(1200, 900, false);
    browser.go(&page(&run, ""));
    browser.until("document.querySelector('.tile .exam')");
    browser.write(".tile .exam input", "NEXT");
    browser.press(ENTER);
    browser.until("document.querySelectorAll('.tile').length === 2");
    browser.until("document.querySelector('[data-stream=\"0\"]').dataset.status === 'ended'");
    browser.until("document.querySelector('[data-stream=\"1\"]').dataset.status === 'live'");
    browser.click("[data-stream=\"1\"] .exam .end");
    browser.until("document.querySelector('[data-stream=\"1\"]').dataset.status === 'ended'");
    // Where none is open, the next exam opens one.
    browser.write("[data-stream=\"1\"] .exam input", "THIRD");
    browser.click("[data-stream=\"1\"] .exam button");
    browser.until("document.querySelector('[data-stream=\"2\"]')?.dataset.status === 'live'");
    // What the server refuses is told where it was asked for.
    browser.write("[data-stream=\"2\"] .exam input", "  ");
    browser.click("[data-stream=\"2\"] .exam button");
    browser.until("document.querySelector('[data-stream=\"2\"] .said.bad')?.innerText");
}

#[test]
fn findings_are_entered_and_records_merged_with_the_keyboard_alone() {
    let folder = tempfile::tempdir().unwrap();
    let sources = scanner("bed-1", "P-1") + &scanner("bed-2", "P-2");
    pipeline(folder.path(), 3, &sources, "");
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(1200, 1000, false);
    browser.go(&page(&run, "#patients"));
    browser.until("document.querySelectorAll('[data-patient]').length === 2");
    let folded = |name: &str| {
        browser.until(&format!(
            "document.querySelector('dialog[open] form[name={name}]')"
        ));
        browser.value(&format!(
            "document.querySelector('form[name={name}]').parentNode.firstChild.focus()"
        ));
        browser.press(ENTER);
        browser.until(&format!(
            "document.querySelector('form[name={name}] button').offsetHeight > 0"
        ));
    };
    browser.value("document.querySelector('[data-patient]').focus()");
    browser.press(ENTER);
    folded("findings");
    for (name, value) in [("age_years", "50"), ("ast_u_l", "40"), ("alt_u_l", "30")] {
        browser.write(&format!("form[name=findings] [name={name}]"), value);
    }
    browser.press(ENTER);
    browser.until(
        "document.querySelector('form[name=findings] .said.bad')?.innerText.includes('platelets')",
    );
    browser.write("form[name=findings] [name=platelets_10e9_l]", "200");
    browser.write("form[name=findings] [name=stage]", "F3");
    browser.write("form[name=findings] [name=kpa]", "9.5");
    browser.press(ENTER);
    browser.until("document.querySelector('form[name=findings] .said.good')");
    browser.until("document.querySelectorAll('dialog .history tbody tr').length === 3");
    browser.until("document.querySelector('dialog .changes tbody tr')");
    browser.until("document.querySelector('dialog').innerText.includes('Pathology')");
    browser.press(ESCAPE);
    browser.until("/1\\.83/.test(document.querySelector('#patients-table').innerText)");

    // The first record is the same person as the second.
    browser.value("document.querySelector('[data-patient]').focus()");
    browser.press(ENTER);
    folded("merge");
    browser.value("document.querySelector('form[name=merge] select').focus()");
    browser.press(DOWN);
    browser.until("document.querySelector('form[name=merge] select').value");
    browser.value("document.querySelector('form[name=merge] button').focus()");
    browser.press(SPACE);
    browser.until("document.querySelector('form[name=merge] .said.good')");
    browser.press(ESCAPE);
    browser.until("document.querySelectorAll('[data-patient]').length === 1");
    browser.click("[data-patient]");
    browser.until("document.querySelector('dialog[open] .unmerge')");
    browser.click(".unmerge");
    browser.until("!document.querySelector('dialog[open] .unmerge')");
    browser.press(ESCAPE);
    browser.until("document.querySelectorAll('[data-patient]').length === 2");

    // A recording of the first is somebody else's.
    browser.click("[data-patient]");
    folded("recording");
    browser.write("form[name=recording] [name=patient]", "P-3");
    browser.press(ENTER);
    browser.until("document.querySelector('form[name=recording] .said.good')");
    browser.press(ESCAPE);
    browser.click("#language");
    browser.click("[data-patient]");
    browser.until("document.querySelector('dialog[open]').innerText.includes('录入或更正')");
    assert_eq!(browser.complaints(), [] as [&str; 0]);
}

#[test]
fn a_table_of_findings_is_sent_and_its_bad_rows_are_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", "P-1"), "");
    let table = folder.path().join("laboratory.csv");
    let header = "patient_id,date,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage,ward";
    let good = "P-1,2024-01-05,50,40,30,200,9.5,F3,7";
    fs::write(
        &table,
        format!("{header}\n{good}\nP-2,2024-01-05,50,40,30,,,,7\nP-3,,,,,,,F9,7\n"),
    )
    .unwrap();
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(1200, 1000, false);
    browser.go(&page(&run, "#patients"));
    browser.until("document.querySelectorAll('[data-patient]').length === 1");
    let unfold = || {
        browser.value("document.querySelector('#labels summary').focus()");
        browser.press(ENTER);
        browser.until("document.querySelector('#labels button').offsetHeight > 0");
    };
    let send = |file: &Path| {
        browser.write("#labels input[type=file]", &file.display().to_string());
        browser.value("document.querySelector('#labels button').focus()");
        browser.press(SPACE);
    };
    unfold();
    send(&table);
    browser.until("document.querySelector('#labels .said')?.innerText");
    let said = browser.text("#labels .said");
    assert!(said.contains("Rows taken: 1. Values entered: 3,"), "{said}");
    assert!(said.contains("which are left out: 2."), "{said}");
    assert!(said.contains("nobody reads: ward"), "{said}");
    let line = |row: u32| browser.text(&format!("#labels tbody tr:nth-child({row})"));
    assert!(line(1).starts_with('3') && line(1).contains("platelets"));
    assert!(line(2).starts_with('4') && line(2).contains("stage"));
    // What it said of the patient is in the answer.
    browser.until("/1\\.83/.test(document.querySelector('#patients-table').innerText)");

    // Once more in the other language, and without the bad rows.
    browser.click("#language");
    browser.until("document.querySelector('#labels summary').innerText.includes('批量录入')");
    unfold();
    send(&table);
    browser.until("document.querySelector('#labels tbody')?.innerText.includes('缺少 platelets')");
    assert!(line(2).contains("stage 应为 F0 至 F4"), "{}", line(2));
    fs::write(&table, format!("{header}\n{good}\n")).unwrap();
    send(&table);
    browser.until("document.querySelector('#labels .said.good')");
    let said = browser.text("#labels .said");
    assert!(
        said.contains("采纳 1 行") && said.contains("3 项早已存在"),
        "{said}"
    );
    assert_eq!(
        browser.value("document.querySelectorAll('#labels td').length"),
        0
    );
    assert_eq!(browser.complaints(), [] as [&str; 0]);

    // What is no such table is refused in the server's own words, and is no complaint
    // of ours.
    fs::write(&table, "name,stage\nX,F1\n").unwrap();
    send(&table);
    browser.until("document.querySelector('#labels .said.bad')");
    assert!(browser.text("#labels .said").contains("patient_id"));
}

#[test]
fn an_old_picture_is_never_shown_as_live() {
    let folder = tempfile::tempdir().unwrap();
    let film = record(folder.path(), "film.mp4", MP4, 60);
    let film = format!(
        "[[source]]\nname = 'film'\npath = '{}'\npatient = 'P'\nlive = true\n",
        film.display()
    );
    pipeline(folder.path(), 3, &(film + &scanner("bed-1", SECRET)), "");
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(1200, 900, false);
    browser.go(&page(&run, ""));
    let status = |number: u32| {
        format!("document.querySelector('[data-stream=\"{number}\"]')?.dataset.status")
    };
    let veil =
        |number: u32| browser.text(&format!("[data-stream=\"{number}\"] .veil:not([hidden])"));
    // The recording has an end.
    browser.until(&format!(
        "{} === 'ended' || {} === 'ended'",
        status(0),
        status(1)
    ));
    let ended = u32::from(browser.value(&status(1)) == "ended");
    assert!(veil(ended).contains("Ended at"), "{}", veil(ended));
    let bed = 1 - ended;
    browser.until(&format!("{} === 'live'", status(bed)));
    // The whole program stands still: nothing says so but silence.
    let signal = |signal: &str| {
        let pid = run.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    signal("-STOP");
    browser.until(&format!("{} === 'stale'", status(bed)));
    assert!(!veil(bed).is_empty());
    signal("-CONT");
    browser.until(&format!("{} === 'live'", status(bed)));
    assert_eq!(veil(bed), "");
}

#[test]
fn with_tokens_a_person_logs_in_sees_identifiers_and_logs_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut tokens = Tokens::default();
    let secret = tokens.add("anna", Role::Viewer).unwrap();
    tokens.save(&folder.path().join("tokens")).unwrap();
    pipeline(
        folder.path(),
        3,
        &scanner("bed-1", SECRET),
        "tokens = 'tokens'",
    );
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(1200, 900, false);
    browser.go(&page(&run, ""));
    browser.until("document.querySelector('#login[open]')");
    browser.write("#login input", "hf_nonsense");
    browser.click("#login button");
    browser.until("document.querySelector('#login-message').innerText");
    browser.write("#login input", &secret);
    browser.click("#login button");
    browser.until("!document.querySelector('#login[open]')");
    browser.until(&format!(
        "document.querySelector('.tile h2')?.innerText === '{SECRET}'"
    ));
    browser.until(MOVES);
    browser.click("nav a[data-page=system]");
    browser.until("document.querySelectorAll('#streams tbody tr').length === 1");
    assert!(
        browser.value("document.querySelector('#add-stream').hidden") == true,
        "a viewer only looks"
    );
    browser.click("nav a[data-page=patients]");
    browser.until("document.querySelector('[data-patient]')");
    browser.click("[data-patient]");
    browser.until("/\\d/.test(document.querySelector('dialog[open] .faint')?.innerText)");
    assert_eq!(
        browser.value("document.querySelectorAll('details, .exam').length"),
        0
    );
    browser.press(ESCAPE);
    browser.click("#leave");
    browser.until("document.querySelector('#login[open]')");
    assert!(!browser.text("body").contains(SECRET));
}

#[test]
fn a_phone_shows_everything_in_its_width() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", SECRET), "");
    let run = Running::start(folder.path(), &[]);
    let browser = Browser::open(360, 740, true);
    for hash in ["#live", "#patients", "#system"] {
        browser.go(&page(&run, hash));
        let section = format!("#page-{}", &hash[1..]);
        browser.until(&format!("!document.querySelector('{section}')?.hidden"));
        browser.until("document.querySelector('#connection.on')");
        browser.until(&format!(
            "document.querySelector('{section} :is(.tile, td, .node)')"
        ));
        let width = browser
            .value("document.documentElement.scrollWidth")
            .as_u64()
            .unwrap();
        assert!(width <= 360, "{hash} is {width} wide");
    }
}

/// `make screenshots`: the demonstration, as it looks, into docs/screenshots.
#[test]
#[ignore = "writes docs/screenshots; run by `make screenshots`"]
fn screenshots() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = root.join("docs/screenshots");
    fs::create_dir_all(&out).unwrap();
    let cohort = root.join("demo/cohort");
    if !cohort.join("videos.csv").exists() {
        let made = Command::new(cargo_bin!("hepaflow"))
            .args([
                "phantom",
                "--patients",
                "4",
                "--seed",
                "7",
                "--seconds",
                "20",
            ])
            .args(["--frame-size", "640x480", "--frames-per-second", "25"])
            .args(["--format", "mixed", "--episodes", "0", "--out"])
            .arg(&cohort)
            .status();
        assert!(made.unwrap().success());
    }
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root.join("pipelines/demo.toml")).unwrap();
    let absolute = |path: &str| root.join(path).display().to_string();
    let text = text
        .replace("../models/demo", &absolute("models/demo"))
        .replace("../demo/cohort", &absolute("demo/cohort"))
        .replace("../demo/results.sqlite", "results.sqlite")
        .replace("127.0.0.1:9464", "127.0.0.1:0");
    fs::write(folder.path().join("p.toml"), text).unwrap();
    let run = Running::start(folder.path(), &["--stay"]);
    let shoot = |browser: &Browser, name: &str| {
        std::thread::sleep(Duration::from_millis(1500));
        fs::write(out.join(name), browser.screenshot()).unwrap();
    };
    let desktop = Browser::open(1280, 1000, false);
    desktop.go(&page(&run, ""));
    desktop.until("document.querySelectorAll('.tile .class .p').length >= 8");
    desktop.click(".switch");
    desktop.until("document.querySelectorAll('.maptext:not([hidden])').length === 4");
    std::thread::sleep(Duration::from_secs(4));
    shoot(&desktop, "live.png");
    let phone = Browser::open(390, 844, true);
    phone.go(&page(&run, ""));
    phone.until("document.querySelector('.tile .class .p')");
    phone.click("#language");
    phone.value("document.querySelector('.lead').scrollIntoView()");
    shoot(&phone, "live-phone-zh.png");
    phone.go(&page(&run, "#patients"));
    phone.until("document.querySelector('[data-patient]')");
    shoot(&phone, "patients-phone-zh.png");
    desktop.click("nav a[data-page=system]");
    desktop.until("document.querySelector('.node.busy')");
    shoot(&desktop, "system.png");
    desktop.click("nav a[data-page=patients]");
    desktop.until("document.querySelectorAll('#patients-table tbody tr').length === 4");
    shoot(&desktop, "patients.png");
    desktop.click("#theme");
    desktop.click("[data-patient]");
    desktop.until("document.querySelector('dialog[open] form[name=recording]')");
    desktop.click("dialog summary");
    desktop.value("document.querySelector('.forms').scrollIntoView({ block: 'end' })");
    shoot(&desktop, "patient-light.png");
    desktop.press(ESCAPE);
    desktop.click("#theme");
    desktop.click("#language");
    shoot(&desktop, "patients-zh.png");
}
