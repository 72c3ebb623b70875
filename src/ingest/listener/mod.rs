//! A DICOM listener: scanners and archives push cines to it (C-STORE), and ask
//! whether it is there (C-ECHO).
//!
//! Success is answered only when the instance, its name and its folder are
//! synced to disk; then [`OnStored`] is told, which opens it as a stream of the
//! running dataflow. Every association has a thread of its own, a limit on its
//! number, on silence, on the size of a PDU and of an instance, and an
//! allow-list of AE titles before it. The peer's words never become file names
//! or log lines; AE titles and addresses name machines and are logged.
//!
//! What this room does not do: decode, or decide when a file may be deleted.
//! Instances stay in the folder, and a run that is started again reads those
//! whose windows have no prediction yet.

mod association;
pub(super) mod command;
mod encryption;
mod spool;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::{TlsError, server_tls};
use crate::metrics::ListenerMetrics;
use association::Desk;
use encryption::Encryption;
use spool::Spool;

/// Told of every new instance once it is on disk, on the association's thread;
/// must return at once.
pub type OnStored = Arc<dyn Fn(PathBuf) + Send + Sync>;

/// How a listener behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The source's name in the pipeline file.
    pub name: String,
    /// Where to listen; port 0 takes any that is free.
    pub address: SocketAddr,
    /// The title that peers must call.
    pub ae_title: String,
    /// The titles that may call; empty lets everyone in.
    pub allow: Vec<String>,
    /// Where instances are kept, made if it is not there.
    pub folder: PathBuf,
    /// Associations at once; more are turned away.
    pub associations: usize,
    /// The largest instance, in bytes.
    pub largest: u64,
    /// A peer that is silent for this long is cut off.
    pub timeout: Duration,
    /// With it, nothing is taken that is not encrypted.
    pub tls: Option<ListenerTls>,
}

/// How a listener encrypts: TLS 1.2 or 1.3 (PS3.15 annex B). The files are PEM,
/// and are read when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// The listener's certificate and those above it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of whose certificates a peer must show one; without them,
    /// peers need none.
    pub clients: Option<PathBuf>,
}

/// A listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address is taken, or not one of this machine's.
    #[error("source `{name}`: cannot listen on {address}: {error}; choose another `listen`")]
    Address {
        /// The source.
        name: String,
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("source `{name}`: {error}")]
    Tls {
        /// The source.
        name: String,
        /// Which file, and why.
        error: TlsError,
    },
    /// The folder cannot be made, read or cleared.
    #[error(
        "source `{name}`: cannot use the folder {}: {error}; correct `folder` or its permissions", folder.display()
    )]
    Folder {
        /// The source.
        name: String,
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
}

/// A listener, which ends when this is dropped: associations are cut off, and
/// what they had not finished was never acknowledged.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stopping: AtomicBool,
    /// Sockets of the associations under way, to cut them off.
    open: Mutex<HashMap<u64, TcpStream>>,
    next: AtomicU64,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        // No code that could panic runs under the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Begins to listen, and gives the instances that an earlier run left.
    ///
    /// # Errors
    /// If the address, the folder or a certificate cannot be used.
    pub fn start(
        config: &ListenerConfig,
        on_stored: OnStored,
        metrics: ListenerMetrics,
    ) -> Result<(Self, Vec<PathBuf>), ListenerError> {
        let of_folder = |error| ListenerError::Folder {
            name: config.name.clone(),
            folder: config.folder.clone(),
            error,
        };
        let of_address = |error| ListenerError::Address {
            name: config.name.clone(),
            address: config.address,
            error,
        };
        let tls = config.tls.as_ref();
        let tls = tls.map(|tls| server_tls(&tls.certificate, &tls.key, tls.clients.as_deref()));
        let tls = tls.transpose().map_err(|error| ListenerError::Tls {
            name: config.name.clone(),
            error,
        })?;
        let encryption = tls.map(|tls| Encryption::new(tls, config.timeout));
        let encryption = encryption.transpose().map_err(of_address)?;
        let spool = Spool::open(&config.folder).map_err(of_folder)?;
        let left = spool.instances().map_err(of_folder)?;
        let socket = TcpListener::bind(config.address).map_err(of_address)?;
        let address = socket.local_addr().map_err(of_address)?;
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            next: AtomicU64::new(0),
        });
        tracing::info!(source = config.name, %address, ae_title = config.ae_title, encrypted = config.tls.is_some(), "listening for DICOM");
        let reception = Reception {
            config: config.clone(),
            encryption,
            spool,
            on_stored,
            metrics,
            shared: Arc::clone(&shared),
        };
        let accepting = std::thread::Builder::new()
            .name("dicom-accept".to_owned())
            .spawn(move || Arc::new(reception).accept(&socket))
            .map_err(of_address)?;
        let listener = Self {
            shared,
            address,
            accepting: Some(accepting),
        };
        Ok((listener, left))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for socket in self.shared.open().values() {
            // A socket that is closed already is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Accepting waits for a caller: be one.
        let mut here = self.address;
        if here.ip().is_unspecified() {
            here.set_ip(match here {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let called = TcpStream::connect_timeout(&here, Duration::from_secs(1));
        if let (Ok(_), Some(accepting)) = (called, self.accepting.take()) {
            let _ = accepting.join();
        }
    }
}

/// What the accepting thread and the associations share.
struct Reception {
    config: ListenerConfig,
    encryption: Option<Encryption>,
    spool: Spool,
    on_stored: OnStored,
    metrics: ListenerMetrics,
    shared: Arc<Shared>,
}

impl Reception {
    fn accept(self: Arc<Self>, socket: &TcpListener) {
        loop {
            let accepted = socket.accept();
            if self.shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((socket, peer)) => self.admit(socket, peer),
                Err(error) => {
                    // Out of file descriptors, for one: it may pass.
                    tracing::warn!(source = self.config.name, %error, "cannot accept a peer");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut open = self.shared.open();
            if open.len() >= self.config.associations {
                self.metrics.turned_away.inc();
                tracing::warn!(
                    source = self.config.name,
                    %peer,
                    limit = self.config.associations,
                    "turned away: too many associations at once"
                );
                return;
            }
            let Ok(handle) = socket.try_clone() else {
                return;
            };
            open.insert(number, handle);
        }
        self.metrics.associations.inc();
        let serving = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("dicom".to_owned())
            .spawn(move || {
                serving.serve(socket, peer);
                serving.leave(number);
            });
        if let Err(error) = spawned {
            tracing::error!(source = self.config.name, %error, "cannot start a thread");
            self.leave(number);
        }
    }

    fn serve(&self, socket: TcpStream, peer: SocketAddr) {
        let desk = Desk {
            config: &self.config,
            spool: &self.spool,
            on_stored: &self.on_stored,
            metrics: &self.metrics,
        };
        let served = match &self.encryption {
            Some(encryption) => encryption.serve(socket, |plain| desk.serve(plain)),
            None => desk.serve(socket),
        };
        if let Err(error) = served
            && !self.shared.stopping.load(Ordering::SeqCst)
        {
            self.metrics.broken.inc();
            tracing::warn!(source = self.config.name, %peer, %error, "an association broke off");
        }
    }

    fn leave(&self, number: u64) {
        self.shared.open().remove(&number);
        self.metrics.associations.dec();
    }
}
