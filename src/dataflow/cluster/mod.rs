//! Several processes that run one graph together: a *group*.
//!
//! ```text
//! hosts.txt ─▶ join: greet, compare, connect ─▶ timely's own channels ─▶ the graph
//!                                                  │
//!                        post: beats, epochs, endings, claims of content
//!                                                  │
//!                                            watch ─▶ who is lost, and why
//! ```
//!
//! Every process has one port, its line of the host file. Processes greet each
//! other there ([`join`]); what they run is compared, and the same connections
//! then carry timely's messages. Timely gives exact progress and stops when a
//! connection breaks; what it does not notice, a peer that is stopped or cut
//! off, is noticed by beats that pass through the graph itself (`post.rs`) and
//! by a thread that misses them (`watch.rs`). There is no recovery inside: a
//! group ends as a whole, and the next one goes on from the store's ledger.
//!
//! Whoever can reach a port of the group could take part in it: the ports belong
//! on a network of their own.

mod greeting;
mod hosts;
mod join;
mod link;
mod passport;
mod post;
mod watch;

pub use hosts::{HostError, Hosts};
pub use join::{Group, JoinError, join};
pub use passport::{Files, Passport};
pub use watch::{Lost, Reason};

pub(super) use link::allocators;
pub(super) use post::{Claims, Post};
pub(super) use watch::{Pulse, Watch};

/// One process of a group, as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number, from 0: its line in the host file.
    pub index: usize,
    /// `host:port`.
    pub host: String,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.index, self.host)
    }
}

/// The process at the other end of the connection that a thread of timely's
/// serves, by the thread's name; `None` for any other thread.
///
/// Such a thread panics when its connection breaks, and this is how a panic hook
/// knows whose it was.
///
/// ```
/// use hepaflow::dataflow::cluster::peer_of_thread;
/// assert_eq!(peer_of_thread("timely:recv-2"), Some(2));
/// assert_eq!(peer_of_thread("timely:work-2"), None);
/// ```
pub fn peer_of_thread(name: &str) -> Option<usize> {
    let number = name
        .strip_prefix("timely:recv-")
        .or_else(|| name.strip_prefix("timely:send-"))?;
    number.parse().ok()
}
