use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::postgres_server::Server;
use super::receiver::{Mood, Receiver, SECRET};
use super::sinks::{first_deliveries, lines};
use super::{pipeline, recording, results, run_to_the_end, windows};

/// Counts the rows of the ledger, as nobody else does.
type Count = Box<dyn FnMut() -> usize>;

const COUNT: &str = "SELECT count(*) FROM clip_predictions";

fn count_in_file(file: PathBuf) -> Count {
    Box::new(move || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let count = rusqlite::Connection::open_with_flags(&file, flags).and_then(|connection| {
            connection.busy_timeout(Duration::from_secs(10))?;
            connection.query_row(COUNT, [], |row| row.get::<_, i64>(0))
        });
        // Before the first run has made it.
        count.unwrap_or(0) as usize
    })
}

fn count_in_server(mut client: postgres::Client) -> Count {
    Box::new(move || {
        let row = client.query_one(COUNT, &[]);
        row.map_or(0, |row| row.get::<_, i64>(0)) as usize
    })
}

fn start(folder: &Path) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    Command::new(cargo_bin!("hepaflow"))
        .args(["run", "p.toml"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Kills a run again and again: after a random number of windows, so that the
/// kills are spread over the whole work, and then at a random moment.
fn kill_often(folder: &Path, total: usize, kills: usize, count: &mut Count) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let begin = Instant::now();
    for kill in 0..kills {
        let before = count();
        let share = (total - before) / (kills - kill + 1);
        let mut run = start(folder);
        if share < 16 || random.random_bool(0.2) {
            // While it starts, or shortly after.
            std::thread::sleep(Duration::from_millis(random.random_range(0..60)));
        } else {
            let enough = before + random.random_range(1..=share / 2);
            while count() < enough {
                assert!(
                    run.try_wait().unwrap().is_none(),
                    "the run ended by itself, see the log"
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_micros(random.random_range(0..9000)));
        }
        assert!(
            run.try_wait().unwrap().is_none(),
            "the run ended before kill {kill}"
        );
        run.kill().unwrap();
        run.wait().unwrap();
        if kill % 20 == 19 {
            println!(
                "{} kills, {} of {total} windows, {:?}",
                kill + 1,
                count(),
                begin.elapsed()
            );
        }
    }
}

/// The result set of a run that was killed is that of one that was not.
fn compare(store: &str, count: impl FnOnce(&Path) -> Count) {
    let (kills, frames): (usize, Vec<u32>) = match std::env::var("HEPAFLOW_KILLS") {
        Ok(kills) => (kills.parse().unwrap(), (400..425).collect()),
        Err(_) => (20, (400..404).collect()),
    };
    let total = windows(&frames);
    let [calm, killed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let films: Vec<_> = frames
        .iter()
        .map(|frames| recording(calm.path(), *frames))
        .collect();
    pipeline(calm.path(), &films, "");
    run_to_the_end(calm.path());

    // The receiver is no better than the power.
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let receiver = Receiver::start(move || match random.random_range(0..10) {
        0 => Mood::Fails,
        1 => Mood::Closes,
        2 => Mood::ForgetsToAnswer,
        _ => Mood::Takes,
    });
    fs::write(killed.path().join("secret"), SECRET).unwrap();
    let sinks = format!(
        "{store}[[sink]]\nname = 'his'\nkind = 'webhook'\nurl = '{}'\nsecret_file = 'secret'\n\
         timeout = '2s'\nretry_pause = '100ms'\n\
         [[sink]]\nname = 'file'\nkind = 'jsonl'\npath = 'changes.jsonl'\n",
        receiver.url
    );
    pipeline(killed.path(), &films, &sinks);
    kill_often(killed.path(), total, kills, &mut count(killed.path()));
    run_to_the_end(killed.path());
    receiver.set(Mood::Takes);
    // Nothing new: what still waits leaves.
    run_to_the_end(killed.path());

    let clips = results(killed.path(), "clips");
    assert_eq!(clips.len(), total);
    assert!(clips == results(calm.path(), "clips"), "clips differ");
    let patients = results(killed.path(), "patients");
    assert_eq!(patients, results(calm.path(), "patients"));

    // Both sinks got every change, each patient's in order, the last one last.
    let first = first_deliveries(&receiver.taken());
    let in_file = first_deliveries(&lines(killed.path()));
    assert_eq!(first, in_file);
    for row in &patients {
        let whose = row["patient"].as_str().unwrap();
        let clips: Vec<_> = first
            .iter()
            .filter(|(_, p, _)| p == whose)
            .map(|d| d.2)
            .collect();
        assert!(clips.is_sorted(), "{clips:?}");
        assert_eq!(row["clips"], *clips.last().unwrap());
    }
    println!(
        "{kills} kills, {total} windows: 0 lost, 0 doubled; {} changes delivered",
        first.len()
    );
}

#[test]
fn a_run_that_is_killed_again_and_again_has_the_results_of_one_that_was_not() {
    compare("", |folder| count_in_file(folder.join("results.sqlite")));
}

#[test]
fn so_it_has_in_postgresql() {
    let server = Server::start();
    let url = server.database("results");
    compare(&format!("[store]\nurl = '{url}'\n"), |_| {
        count_in_server(server.client("results"))
    });
}
