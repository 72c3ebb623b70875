//! HTTP for operators: `/metrics` for Prometheus and `/healthz`.
//!
//! Runs on a thread of its own with its own small runtime, so that a slow or
//! hostile client can slow nothing but itself. Loopback only: there is no
//! authentication here.

pub mod outbox;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use crate::metrics::Metrics;

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
    /// The runtime could not be made.
    #[error("cannot start the HTTP server: {0}")]
    Runtime(#[from] io::Error),
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds `listen` (port 0 for any free one) and serves until dropped.
    ///
    /// # Errors
    /// If the address is taken or a thread cannot be started.
    pub fn start(listen: SocketAddr, metrics: Metrics) -> Result<Self, ServeError> {
        let bind = || {
            let listener = TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) = bind().map_err(|error| ServeError::Listen { listen, error })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        served = serve(listener, metrics) => if let Err(error) = served {
                            tracing::error!(%error, "the HTTP server ended");
                        },
                        // Stopping does not wait for clients that keep a connection.
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
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

async fn serve(listener: TcpListener, metrics: Metrics) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(metrics);
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

async fn render(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn get(server: &Server, path: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn metrics_and_health_are_served_and_the_port_is_free_afterwards() {
        let metrics = Metrics::new().unwrap();
        let server = Server::start(([127, 0, 0, 1], 0).into(), metrics.clone()).unwrap();
        metrics.predictions.inc();
        assert!(get(&server, "/metrics").contains("\nhepaflow_predictions_total 1\n"));
        assert!(get(&server, "/healthz").ends_with("ok\n"));
        assert!(get(&server, "/nothing").starts_with("HTTP/1.1 404"));

        let address = server.address();
        let taken = Server::start(address, metrics.clone()).unwrap_err();
        assert!(taken.to_string().contains(&address.to_string()), "{taken}");
        // A client that says nothing does not keep the server from stopping.
        let _silent = TcpStream::connect(address).unwrap();
        drop(server);
        Server::start(address, metrics).unwrap();
    }
}
