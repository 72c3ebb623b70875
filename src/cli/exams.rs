//! Which scanner shows whom, and from when until when: what the pipeline file and
//! requests say, and the clock.
//!
//! Of each source the last word counts. A request has it until the pipeline file
//! says something else of that source; an exam that is booked for later leaves the
//! present one alone until then. A source is closed and opened again between two
//! patients, so that no window spans them. Only sources of the kinds `launch` and
//! `file` can be bound; the others name their patients themselves.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::run::{Intake, opening, recordings};
use crate::config::{Pipeline, SourceConfig, SourceKind};
use crate::dataflow::{Control, KeepOpen};
use crate::domain::{Crop, PatientId};
use crate::serve::NewStream;

/// All exams of a run; clones share them.
#[derive(Clone)]
pub(super) struct Exams(Arc<Shared>);

struct Shared {
    pipeline: Pipeline,
    intake: Intake,
    control: Control,
    book: Mutex<Book>,
    /// Rings when the next time to act may be another.
    bell: Sender<()>,
    rung: Receiver<()>,
    is_over: AtomicBool,
}

struct Book {
    pages: Vec<Page>,
    kept_open: Option<KeepOpen>,
}

/// One source.
struct Page {
    name: String,
    /// As the pipeline file says; nothing for one that came by request.
    file: Option<SourceConfig>,
    /// Who has the last word.
    said_by: SaidBy,
    /// What is open.
    open: Option<SourceConfig>,
    /// What a request has booked for later.
    next: Option<SourceConfig>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SaidBy {
    File,
    /// It is bound by request.
    Request,
    /// It was closed by request, or belongs to another process.
    Closed,
}

impl Exams {
    /// Of the pipeline's sources those that `is_mine` says, of which a run opens by
    /// itself what is open at `now`. Made before a run begins: one whose scanners are
    /// all closed waits for one to be opened.
    pub(super) fn of(
        pipeline: &Pipeline,
        intake: &Intake,
        control: &Control,
        now: SystemTime,
        is_mine: &dyn Fn(usize) -> bool,
    ) -> Self {
        let sources = pipeline.sources.iter().enumerate();
        let sources = sources.filter(|(_, source)| said(source).is_some());
        let pages = sources.map(|(position, source)| {
            let mut page = Page::of_file(source);
            if is_mine(position) {
                page.open = Some(source.clone()).filter(|source| source.is_open_at(now));
            } else {
                page.said_by = SaidBy::Closed;
            }
            page
        });
        let (bell, rung) = bounded(1);
        let exams = Self(Arc::new(Shared {
            pipeline: pipeline.clone(),
            intake: intake.clone(),
            control: control.clone(),
            book: Mutex::new(Book {
                pages: pages.collect(),
                kept_open: None,
            }),
            bell,
            rung,
            is_over: AtomicBool::new(false),
        }));
        exams.turn(&mut exams.lock(), now);
        exams
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Plain data, left whole by whoever held it.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is time to act, at most `patience`; false when all is over.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let now = SystemTime::now();
        let next = self.lock().next_after(now);
        let next = next.and_then(|next| next.duration_since(now).ok());
        let _ = self
            .0
            .rung
            .recv_timeout(next.map_or(patience, |next| next.min(patience)));
        !self.0.is_over.load(Ordering::SeqCst)
    }

    /// Ends the waiting.
    pub(super) fn end(&self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        // A full bell is a bell that will be heard.
        let _ = self.0.bell.try_send(());
    }

    /// Opens and closes what it is time for.
    pub(super) fn look_at_the_clock(&self) {
        self.turn(&mut self.lock(), SystemTime::now());
    }

    /// The pipeline file has changed.
    pub(super) fn file_says(&self, sources: &[SourceConfig]) {
        let mut book = self.lock();
        // What is closed here may be opened again at once.
        let _kept_open = self.0.control.keep_open();
        let Book { pages, .. } = &mut *book;
        for page in &mut *pages {
            let new = sources.iter().find(|source| source.name == page.name);
            let new = new.filter(|source| said(source).is_some());
            if page.file.is_none() && new.is_none() || is_same(page.file.as_ref(), new) {
                continue;
            }
            if page.said_by != SaidBy::File {
                self.close_page(page);
                page.said_by = SaidBy::File;
                page.next = None;
            }
            page.file = new.cloned();
        }
        for source in sources.iter().filter(|source| said(source).is_some()) {
            if !pages.iter().any(|page| page.name == source.name) {
                pages.push(Page::of_file(source));
            }
        }
        self.turn(&mut book, SystemTime::now());
    }

    /// Sees to what a request asks for: a launch line or a file that the pipeline
    /// file names, for another patient, or an RTSP address. Never a launch line from
    /// outside: that could read and write any file.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub(super) fn bind(&self, new: NewStream) -> Result<(), String> {
        let mut book = self.lock();
        let page = book.pages.iter().position(|page| page.name == new.source);
        let known = page.and_then(|page| book.pages[page].file.clone());
        let mut sources = self.0.pipeline.sources.iter();
        let is_in_file = sources.any(|source| source.name == new.source);
        let mut source = match (&new.location, known) {
            (Some(location), None) if !is_in_file => at_address(named(new.source)?, location)?,
            (Some(_), _) => {
                return Err("a source of the pipeline file has this name; choose another".into());
            }
            (None, Some(known)) => known,
            (None, None) if is_in_file => {
                return Err("this source names its patients itself".into());
            }
            (None, None) => return Err("no source of the pipeline file has this name".into()),
        };
        if let SourceKind::File(path) = &source.kind
            && !path.value.exists()
        {
            return Err("this source is no single recording".into());
        }
        source.patient = Some(new.patient);
        (source.open, source.from, source.until) = (true, new.from, new.until);
        let page = page.unwrap_or_else(|| {
            book.pages.push(Page {
                name: source.name.clone(),
                file: None,
                said_by: SaidBy::Request,
                open: None,
                next: None,
            });
            book.pages.len() - 1
        });
        let now = SystemTime::now();
        let Book { pages, .. } = &mut *book;
        let page = &mut pages[page];
        page.said_by = SaidBy::Request;
        page.next = Some(source);
        self.turn(&mut book, now);
        self.ring();
        Ok(())
    }

    /// Closes a source, and forgets what was booked for it; false if it is none of
    /// those that can be bound.
    pub(super) fn close(&self, name: &str) -> bool {
        let mut book = self.lock();
        let Some(page) = book.pages.iter_mut().find(|page| page.name == name) else {
            return false;
        };
        self.0.control.remove(name);
        page.said_by = SaidBy::Closed;
        (page.open, page.next) = (None, None);
        self.turn(&mut book, SystemTime::now());
        true
    }

    fn turn(&self, book: &mut Book, now: SystemTime) {
        // Taken before a stream is closed, so that the run does not end between that and
        // the next one's opening, nor while any is waited for.
        let kept_open = self.0.control.keep_open();
        let waits = book.pages.iter().any(|page| page.waits(now));
        for page in &mut book.pages {
            match page.said_by {
                SaidBy::File => {
                    let wanted = page.file.clone().filter(|source| source.is_open_at(now));
                    if page.open.as_ref().map(said) != wanted.as_ref().map(said) {
                        self.close_page(page);
                        if let Some(source) = &wanted {
                            self.open(source);
                        }
                    }
                    // The time until when it is open may be another.
                    page.open = wanted;
                }
                SaidBy::Request => {
                    let is_over = |source: &SourceConfig| !source.is_open_at(now);
                    if page.open.as_ref().is_some_and(is_over) {
                        self.close_page(page);
                    }
                    let is_due =
                        |source: &mut SourceConfig| source.from.is_none_or(|from| from <= now);
                    if let Some(source) = page.next.take_if(is_due) {
                        self.close_page(page);
                        if source.is_open_at(now) {
                            self.open(&source);
                            page.open = Some(source);
                        }
                    }
                }
                SaidBy::Closed => {}
            }
        }
        book.pages
            .retain(|page| page.file.is_some() || page.said_by == SaidBy::Request);
        book.kept_open = waits.then_some(kept_open);
    }

    fn close_page(&self, page: &mut Page) {
        if page.open.take().is_some() {
            tracing::info!(source = page.name, "closed");
            self.0.control.remove(&page.name);
        }
    }

    fn open(&self, source: &SourceConfig) {
        match recordings(source) {
            Ok(recordings) => {
                tracing::info!(source = source.name, "opened");
                for (media, patient) in recordings {
                    let Shared {
                        pipeline, intake, ..
                    } = &*self.0;
                    let opening = opening(pipeline, source, media, patient, intake);
                    self.0.control.add(opening);
                }
            }
            Err(error) => tracing::error!("source `{}`: {error:#}", source.name),
        }
    }
}

impl Book {
    /// The next time at which something begins or ends.
    fn next_after(&self, now: SystemTime) -> Option<SystemTime> {
        let sources = self.pages.iter().flat_map(|page| {
            let file = page.file.iter().filter(|_| page.said_by == SaidBy::File);
            file.chain(&page.open).chain(&page.next)
        });
        sources
            .flat_map(|source| [source.from, source.until])
            .flatten()
            .filter(|time| *time > now)
            .min()
    }
}

impl Page {
    fn of_file(source: &SourceConfig) -> Self {
        Self {
            name: source.name.clone(),
            file: Some(source.clone()),
            said_by: SaidBy::File,
            open: None,
            next: None,
        }
    }

    /// Whether a run is to wait for it: it is closed, and the clock, the file or
    /// another request may open it.
    fn waits(&self, now: SystemTime) -> bool {
        let is_closed = |source: &Option<SourceConfig>| {
            source.as_ref().is_none_or(|source| !source.is_open_at(now))
        };
        match self.said_by {
            SaidBy::File => self.file.is_some() && is_closed(&self.file),
            SaidBy::Request => self.next.is_some() || is_closed(&self.open),
            SaidBy::Closed => false,
        }
    }
}

/// A name for logs and metrics.
fn named(name: String) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(good) {
        return Ok(name);
    }
    Err("a source's name has 1 to 64 letters, digits, dots or dashes, and names no patient".into())
}

/// A source of the pictures at an RTSP address, in which nothing can end the address
/// and begin an element.
fn at_address(name: String, location: &str) -> Result<SourceConfig, String> {
    let rest = ["rtsp://", "rtsps://"]
        .iter()
        .find_map(|scheme| location.strip_prefix(scheme));
    let good = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@$&()*+,;=%".contains(c);
    match rest {
        Some(rest) if !rest.is_empty() && rest.len() <= 512 && rest.chars().all(good) => {
            Ok(SourceConfig {
                kind: SourceKind::Launch(format!(
                    "rtspsrc location=\"{location}\" protocols=tcp latency=100"
                )),
                name,
                patient: None,
                live: true,
                open: true,
                from: None,
                until: None,
                crop: None,
                frame_interval: None,
                process: None,
                span: 0..0,
            })
        }
        _ => Err("`location` is an address such as rtsp://scanner/live".into()),
    }
}

/// Whether the file says the same of a source, its times among it.
fn is_same(one: Option<&SourceConfig>, other: Option<&SourceConfig>) -> bool {
    let all = |source: &SourceConfig| (source.open, source.from, source.until);
    one.map(said) == other.map(said) && one.map(all) == other.map(all)
}

/// What decides which stream a source is, if it can be bound at all: identifiers are
/// compared themselves, since what is printed of them tells nothing.
fn said(source: &SourceConfig) -> Option<Said<'_>> {
    let what = match &source.kind {
        SourceKind::Launch(line) => Cow::Borrowed(line.as_str()),
        SourceKind::File(path) => path.value.to_string_lossy(),
        SourceKind::Cohort(_) | SourceKind::Archive { .. } | SourceKind::Listener(_) => {
            return None;
        }
    };
    Some(Said {
        what,
        patient: source.patient.as_ref(),
        live: source.live,
        crop: source.crop,
        frame_interval: source.frame_interval,
    })
}

#[derive(PartialEq)]
struct Said<'a> {
    /// The launch line, or the file.
    what: Cow<'a, str>,
    patient: Option<&'a PatientId>,
    live: bool,
    crop: Option<Crop>,
    frame_interval: Option<Duration>,
}
