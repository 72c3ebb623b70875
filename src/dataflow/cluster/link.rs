use std::any::Any;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use prometheus::IntCounter;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::{AllocatorBuilder, Hooks};

use super::Group;
use crate::metrics::Metrics;

/// A connection to a peer that counts what passes.
struct Link {
    socket: TcpStream,
    sent: IntCounter,
    received: IntCounter,
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.socket.read(buffer)?;
        self.received.inc_by(read as u64);
        Ok(read)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.socket.write(bytes)?;
        self.sent.inc_by(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Stream for Link {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            sent: self.sent.clone(),
            received: self.received.clone(),
        })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }
}

/// What timely is started with: one builder a local worker, and a guard that
/// ends the connections.
type Allocators = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// Timely's channels over the connections of a group. Timely's own way of making
/// connections waits for ever, writes to stdout and trusts whoever calls, so it
/// is given connections that are made already.
pub(crate) fn allocators(
    group: &mut Group,
    workers: usize,
    metrics: &Metrics,
) -> io::Result<Allocators> {
    let links = std::mem::take(&mut group.sockets)
        .into_iter()
        .map(|socket| {
            socket.map(|socket| Link {
                socket,
                sent: metrics.group_bytes_sent.clone(),
                received: metrics.group_bytes_received.clone(),
            })
        })
        .collect();
    let hooks = Hooks::default();
    let local = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
    let index = group.hosts.index();
    let (builders, guard) =
        initialize_networking_from_sockets(local, links, index, workers, hooks)?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    Ok((builders, Box::new(guard)))
}
