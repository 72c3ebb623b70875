//! What one client may cost the others: places for connections, requests a
//! second, and patience with one that does not read.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};

/// Connections at once, well below the usual limit of 1,024 descriptors a
/// process, since recordings and the store need theirs.
const CONNECTIONS: usize = 400;
/// A client that reads nothing for so long is cut off.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests that an address may make at once, and a second in the long run.
const BURST: f64 = 300.0;
const RATE: f64 = 60.0;
/// Addresses that are remembered.
const ADDRESSES: usize = 4096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places that connections take. When all are taken, a newcomer gets that
/// of the client which has kept one longest without a request under way: clients
/// that trickle their requests push out each other, and nobody else.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    held: BTreeMap<u64, (Arc<Busy>, Option<JoinHandle<()>>)>,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    busy: Arc<Busy>,
}

/// Requests of one connection that are under way.
#[derive(Debug, Default)]
pub(super) struct Busy(AtomicUsize);

/// One such request, until its answer is sent.
#[derive(Debug)]
pub(super) struct Held(Arc<Busy>);

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// A place, if need be another's; None if all have requests under way.
    pub(super) fn take(&self) -> Option<Place> {
        let mut taken = lock(&self.0);
        taken
            .held
            .retain(|_, (_, task)| task.as_ref().is_none_or(|task| !task.is_finished()));
        if taken.held.len() >= CONNECTIONS {
            let mut idle = taken.held.iter();
            let idle = idle.find(|(_, (busy, task))| task.is_some() && busy.is_idle());
            let number = idle.map(|(number, _)| *number)?;
            if let Some((_, Some(task))) = taken.held.remove(&number) {
                task.abort();
            }
        }
        let (number, busy) = (taken.next, Arc::<Busy>::default());
        taken.next += 1;
        taken.held.insert(number, (Arc::clone(&busy), None));
        Some(Place {
            places: self.clone(),
            number,
            busy,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for (_, task) in self.held.values() {
            task.iter().for_each(JoinHandle::abort);
        }
    }
}

impl Place {
    pub(super) fn busy(&self) -> Arc<Busy> {
        Arc::clone(&self.busy)
    }

    /// The place is free when `task` has ended.
    pub(super) fn hold(self, task: JoinHandle<()>) {
        if let Some((_, held)) = lock(&self.places.0).held.get_mut(&self.number) {
            *held = Some(task);
        }
    }
}

impl Busy {
    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    pub(super) fn hold(self: &Arc<Self>) -> Held {
        self.0.fetch_add(1, Ordering::AcqRel);
        Held(Arc::clone(self))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Held {
    /// Keeps the place until `body` is sent or given up.
    pub(super) fn around(self, body: Body) -> Body {
        Body::new(HeldBody { body, _held: self })
    }
}

struct HeldBody {
    body: Body,
    _held: Held,
}

impl HttpBody for HeldBody {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A connection on which writing may take only so long: whoever opens a live
/// view and does not read it is not served for ever.
#[derive(Debug)]
pub(super) struct Stalling<S> {
    stream: S,
    /// Runs while a write waits.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            patience: None,
        }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.patience = None;
            return result;
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        match patience.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, result)
    }
}

/// How often each address may ask: so many at once, and a steady rate behind it.
#[derive(Debug)]
pub(super) struct Rates {
    buckets: Mutex<HashMap<IpAddr, (f64, Instant)>>,
    burst: f64,
    rate: f64,
}

impl Rates {
    /// For requests of any kind.
    pub(super) fn of_requests() -> Self {
        Self::new(BURST, RATE)
    }

    /// For attempts to log in: ten, then one every six seconds.
    pub(super) fn of_logins() -> Self {
        Self::new(10.0, 1.0 / 6.0)
    }

    fn new(burst: f64, rate: f64) -> Self {
        Self {
            buckets: Mutex::default(),
            burst,
            rate,
        }
    }

    /// Whether it may; counts it if so.
    pub(super) fn allow(&self, address: IpAddr) -> bool {
        self.allow_at(address, Instant::now())
    }

    fn allow_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut buckets = lock(&self.buckets);
        let filled = |left: f64, since: Instant| {
            self.burst
                .min(left + self.rate * now.saturating_duration_since(since).as_secs_f64())
        };
        if buckets.len() >= ADDRESSES && !buckets.contains_key(&address) {
            // Those whose bucket is full again are as good as new.
            buckets.retain(|_, (left, since)| filled(*left, *since) < self.burst);
            if buckets.len() >= ADDRESSES {
                return false;
            }
        }
        let (left, since) = buckets.entry(address).or_insert((self.burst, now));
        *left = filled(*left, *since);
        *since = now;
        let allowed = *left >= 1.0;
        if allowed {
            *left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_ask_in_a_burst_and_then_at_a_steady_rate() {
        let rates = Rates::new(3.0, 2.0);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let begin = Instant::now();
        let asked =
            |address, after: f64| rates.allow_at(address, begin + Duration::from_secs_f64(after));
        assert_eq!([0.0; 4].map(|at| asked(one, at)), [true, true, true, false]);
        assert!(asked(other, 0.0), "another address has its own");
        assert_eq!([0.6, 0.6].map(|at| asked(one, at)), [true, false]);
    }

    #[tokio::test]
    async fn the_place_of_who_idles_longest_goes_to_a_newcomer_and_never_that_of_a_busy_one() {
        let places = Places::new();
        let task = || tokio::spawn(std::future::pending::<()>());
        let first = places.take().unwrap();
        let held = first.busy().hold();
        first.hold(task());
        let second = places.take().unwrap();
        let (number, busy) = (second.number, second.busy());
        second.hold(task());
        for _ in 2..=CONNECTIONS {
            places.take().unwrap().hold(task());
        }
        let taken = lock(&places.0);
        assert_eq!(taken.held.len(), CONNECTIONS);
        assert!(taken.held.contains_key(&0), "the busy one stayed");
        assert!(!taken.held.contains_key(&number), "the idle one went");
        drop((held, busy));
    }
}
