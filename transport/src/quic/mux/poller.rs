//! Waiting for room to send.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::UdpPoller;

use super::{Mux, Socket};

type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Waits until all full sockets have room again. Which of them a connection wants changes with its
/// route; they are seldom full, and not for long.
pub(super) struct Poller {
    mux: Arc<Mux>,
    waits: Mutex<Vec<(Arc<Socket>, Wait)>>,
}

impl Poller {
    pub(super) fn new(mux: Arc<Mux>) -> Self {
        Self { mux, waits: Mutex::default() }
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poller")
    }
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waits = this.waits.get_mut().unwrap_or_else(PoisonError::into_inner);
        let own = this.mux.own();
        for socket in this.mux.sockets().chain(own.iter().map(|(_, socket)| socket)) {
            let waits_already = waits.iter().any(|(other, _)| Arc::ptr_eq(other, socket));
            if !waits_already && socket.full.load(Ordering::Acquire) {
                let io = Arc::clone(&socket.io);
                waits.push((Arc::clone(socket), Box::pin(async move { io.writable().await })));
            }
        }
        waits.retain_mut(|(socket, wait)| {
            let pending = wait.as_mut().poll(cx).is_pending();
            if !pending {
                socket.full.store(false, Ordering::Release);
            }
            pending
        });
        if waits.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
