//! Datagrams on their way out, joined where they go to the same place and have one size: the system
//! then takes them in one call (segmentation offload).

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::socket::Udp;

/// Most bytes in one call: the system's own limit is that of one IP packet.
const BYTES: usize = 60_000;

thread_local! {
    static BURST: RefCell<Burst> = RefCell::default();
}

/// Runs `f` with this thread's burst and sends what is left in it. `f` must not call this again.
/// Gives how many datagrams the system did not take.
pub(super) fn with_burst(f: impl FnOnce(&mut Burst)) -> u64 {
    BURST.with_borrow_mut(|burst| {
        f(burst);
        burst.flush();
        burst.target = None; // a burst keeps no socket open
        std::mem::take(&mut burst.lost)
    })
}

#[derive(Debug)]
struct Target {
    socket: Arc<Udp>,
    to: SocketAddr,
    local: Option<IpAddr>,
}

/// Datagrams to one target.
#[derive(Debug, Default)]
pub(super) struct Burst {
    target: Option<Target>,
    data: Vec<u8>,
    /// The size of all but the last, which may be shorter.
    segment: usize,
    count: usize,
    /// A shorter one is in: nothing may follow it.
    last: bool,
    lost: u64,
}

impl Burst {
    /// Adds the datagram that `write` appends.
    pub(super) fn push(
        &mut self,
        socket: &Arc<Udp>,
        to: SocketAddr,
        local: Option<IpAddr>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let same = self
            .target
            .as_ref()
            .is_some_and(|t| t.to == to && t.local == local && Arc::ptr_eq(&t.socket, socket));
        if !same {
            self.flush();
            self.target = Some(Target { socket: socket.clone(), to, local });
        } else if self.last || self.count >= socket.max_segments() {
            self.flush();
        }
        let start = self.data.len();
        write(&mut self.data);
        let length = self.data.len() - start;
        if length == 0 {
            return;
        }
        if self.count > 0 && (length > self.segment || self.data.len() > BYTES) {
            let tail = self.data.split_off(start);
            self.flush();
            self.data.extend(tail);
        }
        if self.count == 0 {
            self.segment = length;
        } else {
            self.last = length < self.segment;
        }
        self.count += 1;
    }

    fn flush(&mut self) {
        if let Some(Target { socket, to, local }) = &self.target
            && self.count > 0
            && socket.send(*to, *local, &self.data, self.segment).is_err()
        {
            self.lost += u64::try_from(self.count).unwrap_or(u64::MAX);
        }
        self.data.clear();
        self.count = 0;
        self.last = false;
    }
}
