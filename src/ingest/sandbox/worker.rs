//! The child's side: reads recordings that its parent names, one after the
//! other, and writes their frames to standard output.

use std::io::{self, BufRead, BufWriter, Write};
use std::sync::Arc;
use std::thread;

use rlimit::Resource;

use super::wire::{self, End, Failure, Message, Work};
use crate::ingest::{Arrival, Media, SourceRequest, Stream};
use crate::metrics::{DropReason, Metrics};

/// Works until standard input ends. `memory` is the most that this process may
/// map, in bytes.
///
/// # Errors
/// If the parent went away, or the limits cannot be set.
pub fn work(memory: u64) -> io::Result<()> {
    // A crash is expected here and of no interest to anyone with a debugger.
    Resource::CORE.set(0, 0)?;
    Resource::AS.set(memory, memory)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let work: Work = serde_json::from_str(&line?)?;
        read(work, &mut out)?;
        out.flush()?;
    }
    Ok(())
}

fn read(work: Work, out: &mut impl Write) -> io::Result<()> {
    let metrics = Metrics::new().map_err(io::Error::other)?.source("worker");
    let request = SourceRequest {
        name: work.name,
        media: Media::File(work.path),
        patient: work.patient,
        crop: work.crop,
        look: work.look,
        size: work.size,
        queue: work.queue,
        live: false,
        reconnect: None,
        first_frame_timeout: work.first_frame_timeout,
        frame_interval: work.frame_interval,
        pace: work.pace,
    };
    let me = thread::current();
    let stream = Stream::open(request, Arc::new(move || me.unpark()), metrics.clone());
    loop {
        match stream.try_next() {
            Some(Arrival::Opened(header)) => wire::write(out, &Message::Opened(header))?,
            Some(Arrival::Frame(frame)) => wire::write(out, &Message::Frame(frame))?,
            Some(Arrival::Ended(result)) => {
                let end = End {
                    dropped: DropReason::ALL
                        .map(|reason| metrics.dropped(reason).get())
                        .to_vec(),
                    failure: result.err().map(|error| Failure {
                        code: error.code().to_owned(),
                        text: error.to_string(),
                    }),
                };
                return wire::write(out, &Message::Ended(end));
            }
            None => {
                out.flush()?;
                thread::park();
            }
        }
    }
}
