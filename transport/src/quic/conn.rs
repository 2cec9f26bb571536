//! A connection to a peer, and what is known of the way that it takes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meshwire_signaling::Hash;
use meshwire_signaling::limits::HELLO_TIMEOUT;
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::link::Offered;
use super::link::wire::MESSAGES;
use super::node::{STREAMS, WINDOW};
use super::records::{Flight, OfferedStream, RECORDS};
use crate::stream::Pulse;

/// What records leave of a connection's window to messages.
const MESSAGES_ROOM: u64 = 2 << 20;
/// Streams that a peer may have open, once it uses them. quinn keeps about 100 bytes for each, used or not.
const MOST_STREAMS: u32 = 2048;

/// How a pair of addresses came about: whether it is direct, and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// To an address of the peer's own.
    Host,
    /// To the address that a STUN server saw, or that the peer's router forwards.
    Reflexive,
    /// To an address that was learnt from the peer's checks: its NAT makes another one per peer.
    PeerReflexive,
    /// From or to a port that was guessed: one side's NAT makes another one per peer, the other's lets
    /// in nothing else.
    Guessed,
    /// Through a TURN server.
    Relayed,
}

/// Where a connection's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Our end: an own address, or one of a TURN server.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// What it took.
    pub kind: PairKind,
    /// The peer has not been heard for longer than it is ever silent.
    pub silent: bool,
}

impl Pair {
    /// Whether no server is in between.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.kind != PairKind::Relayed
    }
}

/// A connection's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// QUIC's estimate of the round trip.
    pub rtt: Duration,
    /// The way; none when it has just been lost.
    pub pair: Option<Pair>,
    /// Bytes of the largest packet known to pass.
    pub mtu: u16,
    /// UDP payload bytes sent.
    pub sent_bytes: u64,
    /// UDP payload bytes received.
    pub received_bytes: u64,
    /// Packets lost.
    pub lost_packets: u64,
}

/// A stream that the peer has opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Accepted {
    /// For messages.
    Messages(Box<Offered>),
    /// For the records of a stream.
    Records(OfferedStream),
    /// For something else: its first byte, and the rest.
    Other(u8, SendStream, RecvStream),
}

/// A connection to a peer that has proven to hold the pinned key. Clones are the same connection; it
/// closes when the last one is gone.
#[derive(Clone)]
pub struct QuicConn(Arc<Inner>);

struct Inner {
    quinn: quinn::Connection,
    peer: Hash,
    pair: watch::Receiver<Option<Pair>>,
    stir: Arc<Stir>,
    flight: OnceLock<Arc<Flight>>,
    /// Streams that the peer may have open.
    streams: AtomicU32,
    /// It has carried a stream of records.
    wide: AtomicBool,
    /// When a record of any stream last came.
    pulse: Pulse,
}

/// Tells whoever looks after a resting connection that something is said over it.
#[derive(Debug, Default)]
pub(super) struct Stir {
    resting: AtomicBool,
    stirred: Notify,
}

impl Stir {
    /// Something is said. Costs nothing while the connection does not rest.
    pub(super) fn stir(&self) {
        if self.resting.load(Ordering::Relaxed) && self.resting.swap(false, Ordering::AcqRel) {
            self.stirred.notify_one();
        }
    }

    /// Whether whatever is said from now on is to be told.
    pub(super) fn set_resting(&self, resting: bool) {
        self.resting.store(resting, Ordering::Release);
    }

    /// Resolves when something was said since [`Self::set_resting`].
    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.quinn.close(VarInt::from_u32(0), b"dropped");
    }
}

impl fmt::Debug for QuicConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicConn({}, {:?})", self.0.peer.short(), *self.0.pair.borrow())
    }
}

impl QuicConn {
    pub(super) fn new(
        quinn: quinn::Connection,
        peer: Hash,
        pair: watch::Receiver<Option<Pair>>,
        stir: Arc<Stir>,
    ) -> Self {
        Self(Arc::new(Inner {
            quinn,
            peer,
            pair,
            stir,
            flight: OnceLock::new(),
            streams: AtomicU32::new(STREAMS),
            wide: AtomicBool::new(false),
            pulse: Pulse::default(),
        }))
    }

    /// When a record of any stream last came over it.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.0.pulse
    }

    /// For whoever says something.
    pub(super) fn stir(&self) -> &Arc<Stir> {
        &self.0.stir
    }

    /// Room for records.
    pub(super) fn flight(&self) -> &Arc<Flight> {
        let most = u64::from(WINDOW) - MESSAGES_ROOM;
        self.0.flight.get_or_init(|| Arc::new(Flight::new(most)))
    }

    /// Bytes that may be under way, as QUIC's congestion control has it.
    #[must_use]
    pub fn congestion_window(&self) -> u64 {
        self.0.quinn.stats().path.cwnd
    }

    /// QUIC's estimate of the round trip.
    pub(super) fn rtt(&self) -> Duration {
        self.0.quinn.rtt()
    }

    /// Lets the peer have as much under way as streams of records want. It stays so: quinn takes nothing back that it
    /// has granted, so that whoever let streams come and go would be granted more each time.
    pub(super) fn widen(&self) {
        if !self.0.wide.swap(true, Ordering::Relaxed) {
            self.0.quinn.set_receive_window(VarInt::from_u32(WINDOW));
        }
    }

    /// Lets the peer open more streams than the `used` ones that it has.
    pub(super) fn make_room(&self, used: usize) {
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        let wanted = used
            .min(MOST_STREAMS)
            .saturating_add(1)
            .saturating_mul(2)
            .next_power_of_two()
            .clamp(STREAMS, MOST_STREAMS);
        if self.0.streams.fetch_max(wanted, Ordering::Relaxed) < wanted {
            self.0.quinn.set_max_concurrent_bi_streams(VarInt::from_u32(wanted));
        }
    }

    /// SHA-256 of the SPKI of the peer's key.
    #[must_use]
    pub fn peer(&self) -> Hash {
        self.0.peer
    }

    /// Opens a stream; waits while the peer allows no more. The peer notices it with the first byte,
    /// which says what it is for (1: messages, 2: records of a stream).
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.0.stir.stir();
        self.0.quinn.open_bi().await
    }

    /// The next stream that the peer opens, by its first byte. Streams that say nothing in time, or
    /// nonsense, are passed over.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn accept(&self) -> Result<Accepted, ConnectionError> {
        loop {
            let (send, mut recv) = self.0.quinn.accept_bi().await?;
            self.0.stir.stir();
            let mut kind = [0];
            match timeout(HELLO_TIMEOUT, recv.read_exact(&mut kind)).await {
                Ok(Ok(())) if kind == [MESSAGES] => {
                    if let Ok(offered) = Offered::read(self, send, recv).await {
                        return Ok(Accepted::Messages(Box::new(offered)));
                    }
                }
                Ok(Ok(())) if kind == [RECORDS] => {
                    if let Some(offered) = OfferedStream::read(self, send, recv).await {
                        return Ok(Accepted::Records(offered));
                    }
                }
                Ok(Ok(())) => return Ok(Accepted::Other(kind[0], send, recv)),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// The way that packets take, as it changes; while something is said it is repeated every few
    /// seconds, when [`Self::stats`] may have something new, too.
    #[must_use]
    pub fn pair(&self) -> watch::Receiver<Option<Pair>> {
        self.0.pair.clone()
    }

    /// The numbers of now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stats = self.0.quinn.stats();
        Stats {
            rtt: stats.path.rtt,
            pair: *self.0.pair.borrow(),
            mtu: stats.path.current_mtu,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
        }
    }

    /// Resolves when the connection is over, and says why.
    pub async fn closed(&self) -> ConnectionError {
        self.0.quinn.closed().await
    }

    /// Closes it for all.
    pub fn close(&self, reason: &str) {
        self.0.quinn.close(VarInt::from_u32(0), reason.as_bytes());
    }
}
