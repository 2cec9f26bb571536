//! Messages over a QUIC connection: one stream per mesh, see [`wire`] for its frames.
//!
//! The stream is reliable and ordered, so there are no acks of single envelopes: a count of those that
//! the peer has handed to its reader resolves tickets and opens the window. A peer that does not read
//! stops its half of the stream, and this side's senders with it. Small frames that wait together
//! leave in one write.
//!
//! A link does not come back: when its connection is lost, tickets that are open say
//! [`LinkError::Down`], and the next connection brings a new link. Nothing is stored: an envelope
//! answered with [`Answer::Later`] or [`Answer::Refused`] leaves its author to another path.

mod task;
pub(super) mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::limits::{HELLO_TIMEOUT, MAX_BODY};
use meshwire_signaling::{Envelope, EnvelopeId, MeshId, PublicKey};
use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use self::task::Out;
use self::wire::{Frame, Hello, Reader, ReceiptFrame, kind, put};
use super::conn::QuicConn;
use crate::link::{Answer, LinkError, LinkEvent, MessageLink, PathKind, Ticket};
use crate::net::Net;
use crate::queue;

/// Envelopes that have left and are not taken over yet.
const WINDOW: usize = 256;
/// Frames that wait to be written.
const QUEUE: usize = 64;
/// Events that wait to be read.
const EVENTS: usize = 64;
/// How long a send waits for room. A peer that reads nothing for so long is no use; the message has
/// other ways.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long closing waits for the peer to have everything. While it does, a path that is dead for one side
/// may look alive to the other.
const FAREWELL: Duration = Duration::from_secs(1);
/// Messages go before bulk.
const PRIORITY: i32 = 100;

/// Whose messages a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The mesh.
    pub mesh: MeshId,
    /// Our member key.
    pub own: PublicKey,
    /// The peer's.
    pub peer: PublicKey,
}

/// A link that the peer wants to open. Dropping it refuses.
pub struct Offered {
    conn: QuicConn,
    ends: Ends,
    send: SendStream,
    reader: Reader,
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offered({:?})", self.ends)
    }
}

impl Offered {
    /// Reads what the peer says at the beginning.
    pub(super) async fn read(
        conn: &QuicConn,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<Self, LinkError> {
        let mut reader = Reader::new(recv);
        let hello = hello(&mut reader).await?;
        let ends = Ends { mesh: hello.mesh, own: hello.to, peer: hello.from };
        Ok(Self { conn: conn.clone(), ends, send, reader })
    }

    /// Whose messages these are, as the peer says. Whoever accepts makes sure that the connection's
    /// key belongs to `peer`, and that `own` is ours.
    #[must_use]
    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// Accepts it.
    ///
    /// # Errors
    /// [`LinkError::Down`]: the connection is lost.
    pub async fn accept(
        mut self,
        net: Arc<dyn Net>,
    ) -> Result<(Arc<QuicLink>, queue::Receiver<LinkEvent>), LinkError> {
        let mut bytes = Vec::new();
        put(&mut bytes, kind::HELLO, &own_hello(&self.ends));
        self.send.write_all(&bytes).await.map_err(|_| LinkError::Down)?;
        Ok(QuicLink::start(self.conn, net, self.ends, self.send, self.reader))
    }
}

fn own_hello(ends: &Ends) -> Hello {
    Hello { mesh: ends.mesh, from: ends.own, to: ends.peer }
}

async fn hello(reader: &mut Reader) -> Result<Hello, LinkError> {
    let first = timeout(HELLO_TIMEOUT, reader.next()).await.map_err(|_| LinkError::TimedOut)?;
    match first {
        Ok(Some(Frame::Hello(hello))) => Ok(hello),
        Ok(Some(other)) => Err(LinkError::Unexpected(format!("{other:?} instead of a hello"))),
        Ok(None) | Err(_) => Err(LinkError::Down),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Closed,
}

/// A path for one mesh's messages between two nodes. It keeps its connection open.
pub struct QuicLink {
    conn: QuicConn,
    ends: Ends,
    out: queue::Sender<Out>,
    window: Arc<Semaphore>,
    state: Arc<watch::Sender<State>>,
    reading: AbortHandle,
}

impl fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, peer) = (self.ends.own.short(), self.ends.peer.short());
        write!(f, "QuicLink({own} to {peer}, up: {})", self.is_up())
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl QuicLink {
    /// The connection that it runs on.
    #[must_use]
    pub fn conn(&self) -> &QuicConn {
        &self.conn
    }

    /// Opens a link on a connection, and waits until the peer has accepted it.
    ///
    /// # Errors
    /// [`LinkError::Down`]: the connection is lost, or the peer does not want it.
    /// [`LinkError::TimedOut`], [`LinkError::Unexpected`]: it answers nothing, or something else.
    pub async fn open(
        conn: &QuicConn,
        net: Arc<dyn Net>,
        ends: Ends,
    ) -> Result<(Arc<Self>, queue::Receiver<LinkEvent>), LinkError> {
        let (mut send, recv) = conn.open_bi().await.map_err(|_| LinkError::Down)?;
        let mut bytes = vec![wire::MESSAGES];
        put(&mut bytes, kind::HELLO, &own_hello(&ends));
        send.write_all(&bytes).await.map_err(|_| LinkError::Down)?;
        let mut reader = Reader::new(recv);
        let theirs = hello(&mut reader).await?;
        if (theirs.mesh, theirs.from, theirs.to) != (ends.mesh, ends.peer, ends.own) {
            let text = "the peer's hello is for another link".to_owned();
            return Err(LinkError::Unexpected(text));
        }
        Ok(Self::start(conn.clone(), net, ends, send, reader))
    }

    fn start(
        conn: QuicConn,
        net: Arc<dyn Net>,
        ends: Ends,
        send: SendStream,
        reader: Reader,
    ) -> (Arc<Self>, queue::Receiver<LinkEvent>) {
        // The stream is ours alone and open; a closed one would say so at the first write.
        let _ = send.set_priority(PRIORITY);
        let (out, unwritten) = queue::channel(QUEUE);
        let (events, inbox) = queue::channel(EVENTS);
        let _ = events.try_send(LinkEvent::Up(None));
        let state = Arc::new(watch::Sender::new(State::Up));
        let window = Arc::new(Semaphore::new(WINDOW));
        let (read, write) = task::halves(net, ends, &state, &window, events, conn.stir());
        let reading = tokio::spawn(read.run(reader)).abort_handle();
        let holding = conn.clone();
        tokio::spawn(async move {
            write.run(send, unwritten).await;
            // Not before: what was handed over leaves even when everybody else lets go.
            drop(holding);
        });
        (Arc::new(Self { conn, ends, out, window, state, reading }), inbox)
    }

    fn check(&self) -> Result<(), LinkError> {
        match *self.state.borrow() {
            State::Up => Ok(()),
            State::Down => Err(LinkError::Down),
            State::Closed => Err(LinkError::Closed),
        }
    }

    /// Does `work`, unless the link ends first or patience does.
    async fn unless_over<T>(&self, work: impl Future<Output = Option<T>>) -> Result<T, LinkError> {
        self.check()?;
        let mut state = self.state.subscribe();
        let done = tokio::select! {
            biased;
            _ = state.wait_for(|s| *s != State::Up) => None,
            done = timeout(PATIENCE, work) => done.ok().flatten(),
        };
        match done {
            Some(done) => Ok(done),
            None => Err(self.check().err().unwrap_or(LinkError::Down)),
        }
    }
}

#[async_trait]
impl MessageLink for QuicLink {
    fn kind(&self) -> PathKind {
        PathKind::Quic
    }

    fn is_up(&self) -> bool {
        *self.state.borrow() == State::Up
    }

    /// `accepted_at` at the other end is its own time of arrival.
    async fn send(&self, envelope: Envelope) -> Result<Ticket, LinkError> {
        self.check()?;
        let (len, max) = (envelope.body.len(), MAX_BODY);
        if len > max {
            return Err(LinkError::TooLarge { len, max });
        }
        self.conn.stir().stir();
        let (done, ticket) = Ticket::new();
        self.unless_over(async {
            self.window.acquire().await.ok()?.forget();
            self.out.send(Out::Envelope(Box::new(envelope), done)).await.ok()
        })
        .await?;
        Ok(ticket)
    }

    async fn answer(&self, answer: Answer) -> Result<(), LinkError> {
        match answer {
            Answer::Final { from, id, receipt } | Answer::Gone { from, id, receipt, .. } => {
                let frame = ReceiptFrame { from, id, receipt };
                self.unless_over(async { self.out.send(Out::Receipt(Box::new(frame))).await.ok() })
                    .await
            }
            // Without a receipt there is nothing that the author could believe.
            Answer::Refused { .. } | Answer::Later { .. } => self.check(),
        }
    }

    /// The peer keeps no receipts: one that is lost with the connection is made again when the
    /// envelope comes again.
    async fn confirm(&self, _: PublicKey, _: EnvelopeId, _: PublicKey) -> Result<(), LinkError> {
        self.check()
    }

    async fn close(&self) {
        if self.state.send_replace(State::Closed) == State::Up {
            let _ = timeout(FAREWELL, async {
                let _ = self.out.send(Out::Bye).await;
                // Until the writer has written, and the peer has it all.
                self.out.closed().await;
            })
            .await;
        }
        self.reading.abort();
    }
}
