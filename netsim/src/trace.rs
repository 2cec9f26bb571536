//! What the engine tells about packets, and its books.

use std::fmt;

use crate::packet::View;
use crate::reason::Reason;
use crate::time::Time;

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A host sent it.
    Sent,
    /// The engine made it: an ICMP answer, a duplicate, a fragment, a reset.
    Made,
    /// A router passed it on; addresses are those after translation.
    Forwarded,
    /// A host got it.
    Delivered,
    /// A router that it was addressed to took it.
    Absorbed,
    /// It went nowhere.
    Dropped(Reason),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent => f.write_str("sent"),
            Self::Made => f.write_str("made"),
            Self::Forwarded => f.write_str("forwarded"),
            Self::Delivered => f.write_str("delivered"),
            Self::Absorbed => f.write_str("absorbed"),
            Self::Dropped(reason) => write!(f, "dropped({reason})"),
        }
    }
}

/// One line of a trace. Its text is `ns place source destination protocol length event`.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// When.
    pub at: Time,
    /// Name of the host, router or network where it happened.
    pub place: &'a str,
    /// The packet's bytes at that place.
    pub packet: &'a [u8],
    /// What.
    pub event: Event,
}

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, place, packet, event } = self;
        let Ok(view) = View::parse(packet) else {
            return write!(f, "{at} {place} - - - {} {event}", packet.len());
        };
        let (from, to) = view.ports();
        let source = std::net::SocketAddr::new(view.ip.source, from);
        let destination = std::net::SocketAddr::new(view.ip.destination, to);
        let protocol = view.ip.protocol;
        write!(f, "{at} {place} {source} {destination} {protocol} {} {event}", packet.len())
    }
}

/// The engine's books: `entered + made = delivered + absorbed + dropped + in flight`, at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Packets that hosts sent.
    pub entered: u64,
    /// Packets that the engine made.
    pub made: u64,
    /// Packets that hosts got.
    pub delivered: u64,
    /// Packets that routers took for themselves.
    pub absorbed: u64,
    dropped: [u64; Reason::ALL.len()],
}

impl Ledger {
    /// Packets dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        let at = Reason::ALL.iter().position(|r| *r == reason);
        at.and_then(|i| self.dropped.get(i)).copied().unwrap_or(0)
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub(crate) fn count(&mut self, event: Event) {
        match event {
            Event::Sent => self.entered += 1,
            Event::Made => self.made += 1,
            Event::Forwarded => {}
            Event::Delivered => self.delivered += 1,
            Event::Absorbed => self.absorbed += 1,
            Event::Dropped(reason) => {
                let at = Reason::ALL.iter().position(|r| *r == reason);
                if let Some(n) = at.and_then(|i| self.dropped.get_mut(i)) {
                    *n += 1;
                }
            }
        }
    }
}
