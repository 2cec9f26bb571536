//! Streams over a QUIC connection: one bidirectional QUIC stream each, on every connection.
//!
//! ```text
//! QUIC stream = 2 (1 byte) id (16 bytes) record*     the acceptor's half; the other half has neither 2 nor id
//! record      = length (u16 BE, 44 to 32,768) bytes
//! ```
//!
//! The acceptor of the stream opens the QUIC stream: it knows that the opener knows the id. Whoever does not
//! know it resets with code 1. A length that no record has ends the QUIC stream with code 2; the stream goes on
//! over its other links. The core's own window is what holds a sender; QUIC's are above it, so that what
//! has come is always read at once.

mod flight;
mod framing;
mod task;

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use meshwire_signaling::StreamId;
use meshwire_signaling::limits::HELLO_TIMEOUT;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

pub(super) use self::flight::Flight;
use self::task::Ride;
use super::conn::{Accepted, QuicConn};
use crate::link::PathKind;
use crate::stream::{LinkId, Live};

/// A QUIC stream's first byte: records.
pub(super) const RECORDS: u8 = 2;
/// Nobody here knows the stream.
const UNKNOWN: u32 = 1;
/// What came is no record.
const MALFORMED: u32 = 2;
/// How long the last records may take when the stream is over.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bulk goes after messages.
const PRIORITY: i32 = 0;

/// A stream that a connection carries; dropping it takes the stream off the connection, and leaves the stream to its other
/// links.
pub struct Carried {
    live: Live,
    link: LinkId,
    task: AbortHandle,
    ended: watch::Receiver<()>,
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Carried({:?}, {:?})", self.live, self.link)
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.task.abort();
        self.live.link_down(self.link);
    }
}

impl Carried {
    /// The link that it is for the stream.
    #[must_use]
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// Resolves when the connection carries the stream no more: either is over, or the peer does not want it.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Resolves as [`Self::ended`], also if this is dropped; with the stream and the link that it was.
    fn gone(&self, id: StreamId) -> impl Future<Output = (StreamId, LinkId)> + use<> {
        let (link, mut ended) = (self.link, self.ended.clone());
        async move {
            while ended.changed().await.is_ok() {}
            (id, link)
        }
    }

    /// Whether the connection carries the stream no more.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.has_changed().is_err()
    }

    fn start(
        conn: &QuicConn,
        live: &Live,
        streams: impl Future<Output = Option<(SendStream, RecvStream)>> + Send + 'static,
    ) -> Self {
        let link = LinkId::fresh();
        let (end, ended) = watch::channel(());
        let ride =
            Ride { conn: conn.clone(), live: live.clone(), link, woken: Arc::new(Notify::new()) };
        let task = tokio::spawn(async move {
            if let Some((send, recv)) = streams.await {
                run(ride, send, recv).await;
            }
            drop(end);
        });
        Self { live: live.clone(), link, task: task.abort_handle(), ended }
    }
}

/// Carries the stream until either side has had enough.
async fn run(ride: Ride, mut send: SendStream, mut recv: RecvStream) {
    ride.conn.widen();
    // However this ends: who is stopped while it begins must leave no link behind.
    let _down = Down(&ride);
    // Both are ours alone and open.
    let _ = send.set_priority(PRIORITY);
    let woken = Arc::clone(&ride.woken);
    let wake = Arc::new(move || woken.notify_one());
    ride.live.link_up(ride.link, PathKind::Quic, Some(ride.conn.rtt()), wake);
    ride.live.link_pulse(ride.link, ride.conn.pulse().clone());
    let writer = ride.clone();
    let mut writing = Writing(tokio::spawn(async move {
        let all = writer.write(&mut send).await.is_ok();
        // What the other half still brings counts.
        writer.live.link_down(writer.link);
        all
    }));
    let over = async {
        ride.live.over().await;
        sleep(FAREWELL).await;
    };
    tokio::select! {
        biased;
        () = ride.read(&mut recv) => {}
        Ok(true) = &mut writing.0 => {}
        () = over => {}
    }
}

/// Takes the link off the stream.
struct Down<'a>(&'a Ride);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        self.0.live.link_down(self.0.link);
    }
}

/// The writing task, which ends with the reading one.
struct Writing(JoinHandle<bool>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.abort();
    }
}
/// A stream of ours that the peer wants to carry over the connection. Dropping it says that nobody knows the stream.
pub struct OfferedStream {
    conn: QuicConn,
    id: StreamId,
    streams: Option<(SendStream, RecvStream)>,
}

impl fmt::Debug for OfferedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfferedStream({:?})", self.id)
    }
}

impl Drop for OfferedStream {
    fn drop(&mut self) {
        if let Some((mut send, mut recv)) = self.streams.take() {
            // Neither was closed before.
            let _ = send.reset(VarInt::from_u32(UNKNOWN));
            let _ = recv.stop(VarInt::from_u32(UNKNOWN));
        }
    }
}

impl OfferedStream {
    /// Reads which stream it is; none if the peer does not say it in time.
    pub(super) async fn read(
        conn: &QuicConn,
        send: SendStream,
        mut recv: RecvStream,
    ) -> Option<Self> {
        let mut id = [0; 16];
        timeout(HELLO_TIMEOUT, recv.read_exact(&mut id)).await.ok()?.ok()?;
        Some(Self { conn: conn.clone(), id: StreamId(id), streams: Some((send, recv)) })
    }

    /// Which stream, as the peer says.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Takes it. Whoever does makes sure that `live` is the stream of that id, and one with this very peer.
    #[must_use]
    pub fn accept(mut self, live: &Live) -> Carried {
        let streams = self.streams.take();
        Carried::start(&self.conn, live, std::future::ready(streams))
    }
}

impl QuicConn {
    /// Carries a stream whose acceptor we are, from now on. The peer is to run [`Self::serve_streams`].
    #[must_use]
    pub fn carry(&self, live: &Live) -> Carried {
        let (conn, id) = (self.clone(), live.id());
        Carried::start(self, live, async move {
            let (mut send, recv) = conn.open_bi().await.ok()?;
            let mut head = [RECORDS; 17];
            head[1..].copy_from_slice(&id.0);
            send.write_all(&head).await.ok()?;
            Some((send, recv))
        })
    }

    /// Takes every stream that the peer wants to carry and `find` knows, until the connection is over. `find` is
    /// to know streams with this very peer alone: another one's could be held up by it. Other kinds of streams are
    /// refused.
    pub async fn serve_streams(&self, find: impl Fn(&StreamId) -> Option<Live>) {
        let mut carried: HashMap<StreamId, Carried> = HashMap::new();
        let mut ends = FuturesUnordered::new();
        // Kept over the turns: what a QUIC stream has said so far would be lost with it.
        let mut accepting = pin!(self.accept());
        loop {
            let accepted = tokio::select! {
                accepted = &mut accepting => accepted,
                Some((id, link)) = ends.next() => {
                    // Another one may have taken its place.
                    if carried.get(&id).is_some_and(|c| c.link() == link) {
                        carried.remove(&id);
                        self.make_room(carried.len());
                    }
                    continue;
                }
            };
            let Ok(accepted) = accepted else { return };
            accepting.set(self.accept());
            let Accepted::Records(offered) = accepted else { continue };
            let Some(live) = find(&offered.id()) else { continue };
            let id = offered.id();
            // One for each stream: a peer that offers it again has given up the one before.
            carried.remove(&id);
            self.make_room(carried.len() + 1);
            let one = offered.accept(&live);
            ends.push(one.gone(id));
            carried.insert(id, one);
        }
    }
}
