//! Takes the encryption off what a peer sends: TLS on the outer side, and on the
//! inner side a plain socket for the association.
//!
//! The library that speaks with peers offers TLS of its own. It waits for ever for
//! one that hangs up in the middle of its first message, and with a core at work;
//! so what it is given here is always plain.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::association::Broken;

/// Encrypted connections of one listener, on a thread of their own.
pub(super) struct Encryption {
    acceptor: TlsAcceptor,
    runtime: Runtime,
    /// A peer has so long for its handshake, and to take the last answer.
    patience: Duration,
}

impl Encryption {
    pub(super) fn new(tls: Arc<ServerConfig>, patience: Duration) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dicom-tls")
            .enable_all()
            .build()?;
        Ok(Self {
            acceptor: TlsAcceptor::from(tls),
            runtime,
            patience,
        })
    }

    /// Has `speak` converse with the peer at the other end of `socket` through a
    /// plain socket, which closes when either side does.
    pub(super) fn serve(
        &self,
        socket: TcpStream,
        speak: impl FnOnce(TcpStream) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let (inner, relay) = self.begin(socket).map_err(|_| Broken::Unencrypted)?;
        let spoken = speak(inner);
        // The last answer is on its way; a peer that does not take it has lost it.
        let abort = relay.abort_handle();
        // Timers are made inside the runtime.
        let ended = async { timeout(self.patience, relay).await };
        if self.runtime.block_on(ended).is_err() {
            abort.abort();
        }
        spoken
    }

    fn begin(&self, socket: TcpStream) -> io::Result<(TcpStream, JoinHandle<()>)> {
        socket.set_nonblocking(true)?;
        let (inner, outer) = UnixStream::pair()?;
        outer.set_nonblocking(true)?;
        let relay = self.runtime.block_on(async {
            let socket = tokio::net::TcpStream::from_std(socket)?;
            let peer = timeout(self.patience, self.acceptor.accept(socket)).await??;
            let outer = tokio::net::UnixStream::from_std(outer)?;
            io::Result::Ok(tokio::spawn(relay(peer, outer)))
        })?;
        // The association's library takes no other kind of stream. What it asks of
        // it, reading, writing and timeouts, these sockets do as well.
        Ok((TcpStream::from(OwnedFd::from(inner)), relay))
    }
}

/// Carries bytes both ways until the association has ended. A peer that hangs up
/// before is told to it as the end of what it reads.
async fn relay(
    peer: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    inner: tokio::net::UnixStream,
) {
    let (mut from_peer, mut to_peer) = split(peer);
    let (mut from_inner, mut to_inner) = split(inner);
    // Errors are the end of a connection, by whoever ended it.
    let asked = async {
        let _ = copy(&mut from_peer, &mut to_inner).await;
        let _ = to_inner.shutdown().await;
    };
    let answered = async {
        let _ = copy(&mut from_inner, &mut to_peer).await;
        let _ = to_peer.shutdown().await;
    };
    tokio::pin!(answered);
    tokio::select! {
        () = asked => answered.await,
        () = &mut answered => {}
    }
}
