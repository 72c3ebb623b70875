//! HTTP: the dashboard, the API, metrics and health.
//!
//! Runs on threads of its own with its own small runtime, so that a slow or
//! hostile client can slow nothing but itself. On a loopback address it needs no
//! login; any other takes TLS, and tokens or certificates with roles (see `auth.rs`). What a client may cost
//! is bounded in `limits.rs`.
//!
//! ```text
//! accept ─▶ TLS ─▶ limits ─▶ guard ─┬─▶ assets     the dashboard's files
//!                                   ├─▶ live       pictures and numbers, as they come
//!                                   ├─▶ api        /api/v1, described by OpenAPI
//!                                   └─▶ health     /metrics, /livez, /readyz
//! ```

mod accept;
pub mod api;
mod assets;
mod auth;
mod health;
mod ids;
mod limits;
mod live;
mod picture;
mod problem;
mod router;
mod site;
pub mod tokens;

pub mod outbox;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use auth::Access;
use ids::Ids;
use site::Site;
pub use site::{CloseSource, NewStream, OpenStream, ServedModel, ServedSource, Subject};
use tokens::{TokenError, Tokens};

use crate::config::{KeyError, ServeConfig, TlsError, server_tls};

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else has the port, or it may not be used.
    #[error(
        "cannot listen on {listen}: {error}; choose another address in the pipeline file's [serve]"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// An address that others can reach, without what protects it.
    #[error(
        "{0} can be reached from other machines: [serve] needs `certificate`, `key`, and `tokens` or `clients` with `roles`"
    )]
    Unprotected(SocketAddr),
    /// The key behind opaque names cannot be read or made.
    #[error(transparent)]
    Ids(#[from] KeyError),
    /// The tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The runtime could not be made.
    #[error("cannot start the HTTP server: {0}")]
    Runtime(#[from] io::Error),
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    tls: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds the address (port 0 for any free one) and serves until dropped.
    ///
    /// # Errors
    /// If the address is taken or unprotected, a file that the configuration names
    /// cannot be used, or a thread cannot be started.
    pub fn start(config: &ServeConfig, subject: Subject) -> Result<Self, ServeError> {
        let listen = config.listen;
        // A name counts only where an authority vouches for it.
        let roles = config.clients.as_ref().map(|_| config.roles.clone());
        let roles = roles.unwrap_or_default();
        let knows_callers = config.tokens.is_some() || !roles.is_empty();
        let protected = config.tls.is_some() && knows_callers;
        if !listen.ip().is_loopback() && !protected {
            return Err(ServeError::Unprotected(listen));
        }
        let tokens = config.tokens.as_deref().map(Tokens::load).transpose()?;
        let tls = config.tls.as_ref();
        let tls =
            tls.map(|(certificate, key)| server_tls(certificate, key, config.clients.as_deref()));
        let tls = tls.transpose()?.map(TlsAcceptor::from);
        let ids = Ids::open(&subject.ids)?;
        let bind = || {
            let listener = TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) = bind().map_err(|error| ServeError::Listen { listen, error })?;
        let is_tls = tls.is_some();
        let access = Access::new((tokens, roles), address, is_tls, config.hosts.clone());
        let router = router::router(Arc::new(Site::new(subject, access, ids)), is_tls);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(4)
            .thread_name("http")
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("http-main".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        served = accept::accept(listener, router, tls) => if let Err(error) = served {
                            tracing::error!(%error, "the HTTP server ended");
                        },
                        _ = stopped => {}
                    }
                });
                // Stopping does not wait for clients that keep a connection.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            address,
            tls: is_tls,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a person types to see the dashboard.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}/", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
