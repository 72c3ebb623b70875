//! Takes in connections: plain or TLS, never more than there are places, and
//! none for longer than its client deserves.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::auth::Certified;
use super::limits::{Places, Stalling};

/// A client has so long to send a request's head, the idle time before it
/// included.
const HEAD: Duration = Duration::from_secs(15);
/// And so long for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes that a request's head may have.
const HEAD_BYTES: usize = 16 << 10;

/// Serves until it is dropped.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Places::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a client that is gone already.
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(place) = places.take() else {
            continue;
        };
        let (router, tls) = (router.clone(), tls.clone());
        let busy = place.busy();
        place.hold(tokio::spawn(async move {
            // Errors here are the client's: it went away, or was too slow.
            let _ = connection(stream, peer, router, tls, busy).await;
        }));
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    busy: Arc<super::limits::Busy>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = Stalling::new(stream);
    match tls {
        Some(tls) => {
            let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await??;
            // Its chain was verified by the handshake.
            let chain = stream.get_ref().1.peer_certificates();
            let certified = chain.and_then(|chain| Certified::read(chain.first()?));
            talk(stream, (peer, certified), router, busy).await
        }
        None => talk(stream, (peer, None), router, busy).await,
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (peer, certified): (SocketAddr, Option<Certified>),
    router: Router,
    busy: Arc<super::limits::Busy>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(certified) = &certified {
            request.extensions_mut().insert(certified.clone());
        }
        let (router, busy) = (router.clone(), Arc::clone(&busy));
        async move {
            let held = busy.hold();
            let response: Response<_> = router.oneshot(request.map(axum::body::Body::new)).await?;
            // An answer that goes on for long, such as a live view, keeps its place.
            Ok::<_, std::convert::Infallible>(response.map(|body| held.around(body)))
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}
