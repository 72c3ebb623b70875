//! Several processes that run one graph together, all within this one: each with
//! its own workers, store and control, over loopback.

use hepaflow::clinical::{BloodTest, Dated, Fact};
use hepaflow::dataflow::cluster::{Files, Group, Hosts, Lost, Passport, Reason, join};
use hepaflow::dataflow::run_together;
use hepaflow::store::{Change, ViewRow};

use super::*;

/// Two processes that have met, within this one.
fn two_groups(workers: usize) -> [Group; 2] {
    let ports: Vec<_> = (0..2)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let lines = ports
        .iter()
        .map(|port| format!("{}\n", port.local_addr().unwrap()));
    let text = lines.collect::<Vec<_>>().concat();
    drop(ports);
    let passport = Passport {
        version: String::new(),
        pipeline: ContentHash::of(b""),
        models: vec![model()],
        workers,
        files: Files {
            count: 0,
            digest: ContentHash::of(b""),
        },
    };
    let meet = |index| {
        let hosts = Hosts::parse(&text, 2, index).unwrap();
        let (passport, control) = (passport.clone(), Control::default());
        std::thread::spawn(move || join(&hosts, &passport, Duration::from_secs(20), &control))
    };
    [0, 1].map(meet).map(|met| met.join().unwrap().unwrap())
}

/// Runs the graph as one process of a group, on a thread of its own.
fn together(
    job: Job,
    control: Control,
    group: Group,
    lost: Sender<Lost>,
) -> std::thread::JoinHandle<Result<Outcome, RunError>> {
    std::thread::spawn(move || {
        run_together(job, &control, group, move |who| {
            lost.send(who.clone()).ok();
        })
    })
}

#[test]
fn the_same_bytes_in_two_processes_are_scored_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let films = films();
    let (lost, nobody) = unbounded();
    // Both find the same films, in another order.
    let jobs = [0, 3].map(|first| {
        let mut films = films.clone();
        films.rotate_left(first);
        let openings = films.iter().map(|film| film.opening(Ok(()))).collect();
        job(&folder, openings, 2)
    });
    let running: Vec<_> = jobs
        .into_iter()
        .zip(two_groups(2))
        .map(|(job, group)| together(job, Control::default(), group, lost.clone()))
        .collect();
    let outcomes: Vec<_> = running
        .into_iter()
        .map(|run| run.join().unwrap().unwrap())
        .collect();
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    assert_eq!(sum(|it| it.streams), films.len());
    assert_eq!(sum(|it| it.duplicates), films.len());
    let (patients, clips) = stored(&folder);
    assert_eq!(patients, expected(&films));
    let counted: u64 = patients.iter().map(|patient| patient.clips).sum();
    assert_eq!(clips.len() as u64, counted);
    assert!(nobody.is_empty());

    // What is known is known to the group once.
    let groups = two_groups(1);
    let running = groups.map(|group| {
        let job = job(&folder, Vec::new(), 1);
        together(job, Control::default(), group, lost.clone())
    });
    for run in running {
        run.join().unwrap().unwrap();
    }
    assert_eq!(stored(&folder).0, expected(&films));
}

#[test]
fn an_end_of_one_process_is_an_end_of_all_in_its_own_way() {
    for fails in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (lost, _nobody) = unbounded();
        let controls = [Control::default(), Control::default()];
        let open: Vec<_> = controls.iter().map(Control::keep_open).collect();
        let mut running = Vec::new();
        for (index, group) in two_groups(1).into_iter().enumerate() {
            let film = &films()[0];
            let mut job = job(&folder, vec![film.opening(Ok(()))], 1);
            if fails && index == 1 {
                job.scorers = vec![Box::new(NoNumbers)];
                // The other process must not have asked for these bytes first.
                let own = Film {
                    content: "own",
                    ..film.clone()
                };
                job.openings = vec![own.opening(Ok(()))];
            }
            running.push(together(job, controls[index].clone(), group, lost.clone()));
        }
        if !fails {
            controls[1].stop();
        }
        let results: Vec<_> = running.into_iter().map(|it| it.join().unwrap()).collect();
        drop(open);
        match (fails, &results[0], &results[1]) {
            (false, Ok(_), Ok(_)) | (true, Err(RunError::Peer(_)), Err(RunError::NotANumber)) => {}
            _ => panic!("{fails}: {results:?}"),
        }
    }
}

/// An engine with broken weights.
struct NoNumbers;

impl Scorer for NoNumbers {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        Ok(vec![vec![f64::NAN]; clips.len()])
    }
}

/// A feed that breaks its promise never to wait, when it is read after this moment.
struct Stuck(Instant);

impl Feed for Stuck {
    fn try_next(&self) -> Option<Arrival> {
        if Instant::now() > self.0 {
            std::thread::sleep(Duration::from_mins(10));
        }
        None
    }
}

#[test]
fn a_worker_that_stands_still_is_noticed_though_its_process_lives_and_beats() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = || Opening {
        source: "scanner".to_owned(),
        live: true,
        open: Box::new(|_, _| Box::new(Channel(crossbeam::channel::never()))),
    };
    // Once everybody has taken up what the store knows, which may take longer.
    let stuck = || Opening {
        source: "scanner".to_owned(),
        live: true,
        open: Box::new(|wake, _| {
            let moment = Instant::now() + Duration::from_secs(1);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(1_100));
                wake();
            });
            Box::new(Stuck(moment))
        }),
    };
    // Live streams are dealt out to the workers: the second gets the stuck one.
    let openings = [vec![quiet()], vec![quiet(), stuck()]];
    let mut told = Vec::new();
    for (openings, group) in openings.into_iter().zip(two_groups(2)) {
        let (lost, who) = unbounded();
        together(job(&folder, openings, 2), Control::default(), group, lost);
        told.push(who);
    }
    let limit = Duration::from_secs(12);
    let lost: Vec<_> = told
        .iter()
        .map(|who| who.recv_timeout(limit).unwrap())
        .collect();
    assert_eq!(lost[0].reason, Reason::Stuck { worker: 1 });
    assert_eq!(lost[1].reason, Reason::StuckHere { worker: 1 });
    assert!(lost.iter().all(|lost| lost.peer.index == 1));
}

#[test]
fn facts_enter_while_any_process_reads_and_not_only_the_one_that_follows_them() {
    let folder = tempfile::tempdir().unwrap();
    let (lost, _nobody) = unbounded();
    let (sender, arrivals) = unbounded();
    let scanner = Opening {
        source: "scanner".to_owned(),
        live: true,
        open: Box::new(move |wake, _| {
            sender.send(header("bytes", "P1")).unwrap();
            wake();
            // Held, so that the stream stays open.
            std::mem::forget(sender);
            Box::new(Channel(arrivals))
        }),
    };
    // Process 0, which follows the facts, has nothing to read.
    let jobs = [job(&folder, Vec::new(), 1), job(&folder, vec![scanner], 1)];
    let (facts, metrics) = (jobs[0].facts.clone(), jobs[1].metrics.clone());
    let control = Control::default();
    let running: Vec<_> = jobs
        .into_iter()
        .zip(two_groups(1))
        .map(|(job, group)| together(job, control.clone(), group, lost.clone()))
        .collect();
    wait_until("the stream to open", PATIENCE, || {
        metrics.streams_opened.get() == 1
    });
    // By now process 0 is long done with its own streams.
    std::thread::sleep(Duration::from_millis(300));
    let blood = Fact::Blood(Dated {
        patient: PatientId::new("P1"),
        day: 1,
        value: BloodTest {
            age: 50_000,
            ast: 40_000,
            alt: 30_000,
            platelets: 200_000,
            ast_upper_limit: BloodTest::DEFAULT_AST_UPPER_LIMIT,
        },
    });
    facts
        .enter(&[Change::Enter(blood)], "test", "late")
        .unwrap();
    wait_until("the blood test in the views", PATIENCE, || {
        let store = Store::open_existing(folder.path().join("results.sqlite")).unwrap();
        let rows = store.view_rows().unwrap();
        rows.iter().any(|row| matches!(row, ViewRow::Indices(..)))
    });
    control.stop();
    for run in running {
        run.join().unwrap().unwrap();
    }
}
