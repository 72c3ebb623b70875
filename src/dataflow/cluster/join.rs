use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::super::Control;
use super::super::control::lock;
use super::greeting::{Greeting, PATIENCE};
use super::{Hosts, Passport, Peer};

/// Between attempts to reach a peer.
const PAUSE: Duration = Duration::from_millis(200);
/// Between lines that say who is waited for.
const PLAIN_LINE: Duration = Duration::from_secs(5);

/// A group could not be formed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// This process's own address cannot be listened on.
    #[error(
        "cannot listen on {here}: {error}; -p {} must run on the machine that its line names",
        here.index
    )]
    Listen {
        /// This process.
        here: Peer,
        /// Why.
        error: io::Error,
    },
    /// Some did not come in time.
    #[error("waited {} in vain for {}", humantime::format_duration(*patience), list(missing))]
    Missing {
        /// How long was waited.
        patience: Duration,
        /// Who, and what happened last.
        missing: Vec<(Peer, String)>,
    },
    /// A peer runs something else.
    #[error("{peer} is refused, it runs {}", differences.join("; "))]
    Differs {
        /// Who.
        peer: Peer,
        /// In what.
        differences: Vec<String>,
    },
    /// A peer sees other recordings: they would be read twice or not at all.
    #[error(
        "{peer} sees other recordings, {there} there and {here} here; \
         every process must see the same files under the same paths"
    )]
    Files {
        /// Who.
        peer: Peer,
        /// How many are seen here.
        here: usize,
        /// How many are seen there.
        there: usize,
    },
    /// The run was told to end meanwhile.
    #[error("stopped while waiting for the other processes")]
    Stopped,
}

impl JoinError {
    /// Whether only a person can mend it: the same would happen again.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Differs { .. } | Self::Listen { .. })
    }
}

fn list(missing: &[(Peer, String)]) -> String {
    let each: Vec<_> = missing
        .iter()
        .map(|(peer, why)| format!("{peer} ({why}; is it started with -p {}?)", peer.index))
        .collect();
    each.join(", ")
}

/// A group that has met: everybody runs the same.
pub struct Group {
    pub(super) hosts: Hosts,
    /// By process; `None` for this one.
    pub(super) sockets: Vec<Option<TcpStream>>,
    /// Held while the group lives, so that no successor takes this process's
    /// place before it is gone.
    _place: TcpListener,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.hosts).finish()
    }
}

impl Group {
    /// Its processes.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }
}

/// Meets the other processes of `hosts`, waiting for them up to `patience`.
///
/// The process with the higher number calls; both say what they run, and either
/// refuses what differs.
///
/// # Errors
/// If somebody does not come, or runs something else.
pub fn join(
    hosts: &Hosts,
    passport: &Passport,
    patience: Duration,
    control: &Control,
) -> Result<Group, JoinError> {
    let meeting = Meeting {
        hosts,
        passport,
        patience,
        deadline: Instant::now() + patience,
        control,
        failure: Mutex::default(),
        places: Mutex::new((0..hosts.processes()).map(|_| Place::default()).collect()),
    };
    let listener = meeting.listen()?;
    std::thread::scope(|scope| {
        for index in 0..hosts.index() {
            let meeting = &meeting;
            scope.spawn(move || meeting.call(index));
        }
        meeting.receive(&listener);
    });
    if let Some(failure) = lock(&meeting.failure).take() {
        return Err(failure);
    }
    let places = std::mem::take(&mut *lock(&meeting.places));
    Ok(Group {
        hosts: hosts.clone(),
        sockets: places.into_iter().map(|place| place.socket).collect(),
        _place: listener,
    })
}

#[derive(Debug, Default)]
struct Place {
    socket: Option<TcpStream>,
    /// What happened last, while nobody is here.
    problem: Option<String>,
}

struct Meeting<'a> {
    hosts: &'a Hosts,
    passport: &'a Passport,
    patience: Duration,
    deadline: Instant,
    control: &'a Control,
    /// Why there will be no group; the first reason counts.
    failure: Mutex<Option<JoinError>>,
    places: Mutex<Vec<Place>>,
}

impl Meeting<'_> {
    fn fail(&self, error: JoinError) {
        lock(&self.failure).get_or_insert(error);
    }

    fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }

    /// Waits for the place that this process's line names: a predecessor may be
    /// on its way out.
    fn listen(&self) -> Result<TcpListener, JoinError> {
        let here = self.hosts.peer(self.hosts.index());
        loop {
            let bound = TcpListener::bind(&here.host).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            let error = match bound {
                Ok(listener) => return Ok(listener),
                Err(error) => error,
            };
            if self.control.is_stopping() {
                return Err(JoinError::Stopped);
            }
            if error.kind() != ErrorKind::AddrInUse || Instant::now() > self.deadline {
                return Err(JoinError::Listen { here, error });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes in the processes above this one, and waits until all are here.
    fn receive(&self, listener: &TcpListener) {
        let mut next_line = Instant::now() + PLAIN_LINE;
        while !self.has_failed() {
            let missing = self.missing();
            if missing.is_empty() {
                return;
            }
            if self.control.is_stopping() {
                self.fail(JoinError::Stopped);
                return;
            }
            if Instant::now() > self.deadline {
                let patience = self.patience;
                self.fail(JoinError::Missing { patience, missing });
                return;
            }
            if Instant::now() > next_line {
                next_line = Instant::now() + PLAIN_LINE;
                for (peer, why) in &missing {
                    tracing::info!("waiting for {peer}: {why}");
                }
            }
            match listener.accept() {
                Ok((socket, _)) => {
                    if let Err(error) = self.welcome(socket) {
                        tracing::warn!("a caller was turned away: {error}");
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn missing(&self) -> Vec<(Peer, String)> {
        let places = lock(&self.places);
        let missing = places
            .iter()
            .enumerate()
            .filter(|(index, place)| *index != self.hosts.index() && place.socket.is_none());
        missing
            .map(|(index, place)| {
                let why = place.problem.clone();
                let why = why.unwrap_or_else(|| "it has not called".to_owned());
                (self.hosts.peer(index), why)
            })
            .collect()
    }

    /// Answers a caller. Whoever says nothing that can be understood is no
    /// process of any group and changes nothing.
    fn welcome(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        let caller = Greeting::read(&mut socket)?;
        let refused = self.refusal(&caller);
        let reply = self.greeting(refused.clone());
        reply.write(&mut socket)?;
        if let Some(reason) = refused {
            self.compare(&caller);
            return Err(io::Error::other(reason));
        }
        self.seat(caller.index, socket)
    }

    /// Why `caller` cannot be let in, if it cannot.
    fn refusal(&self, caller: &Greeting) -> Option<String> {
        let index = caller.index;
        if index <= self.hosts.index() || index >= self.hosts.processes() {
            return Some(format!("it says that it is process {index}"));
        }
        let taken = lock(&self.places)
            .get(index)
            .is_some_and(|place| place.socket.is_some());
        if taken {
            return Some(format!("process {index} is here already"));
        }
        (caller.passport != *self.passport).then(|| "it runs something else".to_owned())
    }

    /// Calls process `index` until it answers.
    fn call(&self, index: usize) {
        let peer = self.hosts.peer(index);
        while !self.has_failed() {
            let problem = match self.attempt(&peer) {
                Ok(()) => return,
                Err(error) => error.to_string(),
            };
            if let Some(place) = lock(&self.places).get_mut(index) {
                place.problem = Some(problem);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn attempt(&self, peer: &Peer) -> io::Result<()> {
        let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
        for address in peer.host.to_socket_addrs()? {
            let mut socket = match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(socket) => socket,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            self.greeting(None).write(&mut socket)?;
            let answer = Greeting::read(&mut socket)?;
            if answer.index != peer.index {
                let other = answer.index;
                return Err(io::Error::other(format!("process {other} answers there")));
            }
            if self.compare(&answer) {
                return Ok(());
            }
            if let Some(reason) = answer.refused {
                return Err(io::Error::other(format!("it turns us away: {reason}")));
            }
            return self.seat(peer.index, socket);
        }
        Err(last)
    }

    fn greeting(&self, refused: Option<String>) -> Greeting {
        Greeting {
            index: self.hosts.index(),
            passport: self.passport.clone(),
            refused,
        }
    }

    /// True if `other` runs something else, which ends the meeting.
    fn compare(&self, other: &Greeting) -> bool {
        let peer = self.hosts.peer(other.index);
        let (here, there) = (self.passport, &other.passport);
        let differences = here.differences(there);
        if !differences.is_empty() {
            self.fail(JoinError::Differs { peer, differences });
        } else if here.files != there.files {
            self.fail(JoinError::Files {
                peer,
                here: here.files.count,
                there: there.files.count,
            });
        } else {
            return false;
        }
        true
    }

    /// The peer is here: from now on its connection is timely's.
    fn seat(&self, index: usize, socket: TcpStream) -> io::Result<()> {
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        socket.set_nodelay(true)?;
        if let Some(place) = lock(&self.places).get_mut(index) {
            place.socket = Some(socket);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
