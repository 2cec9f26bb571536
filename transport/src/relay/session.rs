//! One connection after its hello: a reader and a writer that do not wait for each other.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{ErrorFrame, Frame, HelloAckBody, close};
use meshwire_signaling::limits::STALE_AFTER;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tracing::debug;

use super::backoff::Next;
use super::connect::Loss;
use super::driver::closed;
use super::records::Records;
use super::state::Pending;
use super::wire::{self, Incoming, Ws};
use crate::link::{Inbound, LinkError, LinkEvent};
use crate::net::Net;
use crate::text::clean;

/// Frames that are fed before one flush, for a flush per frame costs about ten times as much
/// (tokio-tungstenite 0.30 over loopback); more would only delay the first of them.
const BATCH: usize = 64;
/// Records of streams that are fed after them: few, for frames wait until they are written.
const RECORDS: usize = 2;
/// A broker that takes longer to answer a frame, while its socket is fine, has lost it. Twice what a
/// request may take; sending again is harmless, for the broker deduplicates.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may come before the node pings. Half the broker's interval: a lease counts from
/// the last thing heard, so that a node which stops for a minute must have been heard just before.
const PING_AFTER: Duration = Duration::from_secs(15);
/// How long nothing may come after records of streams have left, until the node pings.
const RECORDS_PING: Duration = Duration::from_secs(5);
/// And from when that ping was written until the connection is given up: streams wait for it, and fail when they hear
/// nothing for a minute. Behind what the system keeps unsent (`net::os`), a line of 128 kbit/s takes the ping along in
/// half that time.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(15);
/// And from when the record left, should the ping not get out at all.
const RECORDS_STUCK: Duration = Duration::from_secs(30);
/// How long a connection may take to show that it lives, once that is in doubt.
const DOUBT: Duration = Duration::from_secs(1);
/// How long a closing link waits for the broker's last answers.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// It broke, or had to be given up.
    Lost(Loss),
    /// The link is closed, or nobody reads its events any more.
    Closed,
}

/// What a connection needs.
pub(super) struct Session<'a> {
    pub(super) net: &'a dyn Net,
    pub(super) encoding: Encoding,
    pub(super) ack: HelloAckBody,
    pub(super) pending: Arc<Pending>,
    pub(super) records: &'a Records,
    pub(super) frames: mpsc::Receiver<Frame>,
    pub(super) events: &'a mpsc::Sender<LinkEvent>,
    pub(super) max_frame: usize,
}

impl Session<'_> {
    /// Runs until the end.
    pub(super) async fn run(self, ws: Ws, closing: &mut watch::Receiver<bool>) -> End {
        let (sink, stream) = ws.split();
        let (ping, unheard) = (Notify::new(), Unheard::default());
        let mut writer = Writer {
            sink,
            encoding: self.encoding,
            frames: self.frames,
            pending: &self.pending,
            records: self.records,
            buffer: Bytes::new(),
            ping: &ping,
            unheard: &unheard,
            net: self.net,
            max_frame: self.max_frame,
        };
        let mut reader = Reader {
            net: self.net,
            stream,
            encoding: self.encoding,
            pending: &self.pending,
            records: self.records,
            events: self.events,
            ping: &ping,
            unheard: &unheard,
            told: Told::default(),
        };
        let mut reading = pin!(reader.run(self.ack));
        let mut writing = pin!(async {
            match writer.run().await {
                Ok(()) => std::future::pending().await,
                Err(loss) => loss,
            }
        });
        // The writer ends by itself when the link is closed; this bounds how long that may take.
        let mut overtime = pin!(async {
            closed(closing).await;
            sleep(CLOSE_WAIT).await;
        });
        tokio::select! {
            biased;
            end = &mut reading => end,
            loss = &mut writing => End::Lost(loss),
            () = &mut overtime => End::Closed,
        }
    }
}

/// Since when records have left without anything coming, and when a ping was written behind the first of them.
#[derive(Default)]
struct Unheard(watch::Sender<Option<(Instant, Option<Instant>)>>);

impl Unheard {
    fn left(&self, now: Instant) {
        self.0.send_if_modified(|since| {
            let first = since.is_none();
            since.get_or_insert((now, None));
            first
        });
    }

    fn pinged(&self, now: Instant) {
        self.0.send_if_modified(|since| {
            let first = since.as_mut().filter(|(_, pinged)| pinged.is_none());
            first.map(|(_, pinged)| *pinged = Some(now)).is_some()
        });
    }

    fn heard(&self) {
        // Who waits for the first one to leave is the one who says this.
        self.0.send_if_modified(|since| {
            *since = None;
            false
        });
    }

    fn since(&self) -> Option<Instant> {
        self.0.borrow().map(|(since, _)| since)
    }

    /// When the connection is given up, if nothing comes.
    fn until(&self) -> Option<Instant> {
        let (since, pinged) = (*self.0.borrow())?;
        let stuck = since + RECORDS_STUCK;
        Some(pinged.map_or(stuck, |at| stuck.min(at + RECORDS_TIMEOUT)))
    }
}

struct Writer<'a> {
    sink: SplitSink<Ws, Message>,
    encoding: Encoding,
    frames: mpsc::Receiver<Frame>,
    pending: &'a Pending,
    records: &'a Records,
    /// Of the last record.
    buffer: Bytes,
    ping: &'a Notify,
    unheard: &'a Unheard,
    net: &'a dyn Net,
    max_frame: usize,
}

impl Writer<'_> {
    /// Writes until the last handle on `frames` is gone, then says goodbye.
    async fn run(&mut self) -> Result<(), Loss> {
        loop {
            let first = tokio::select! {
                biased;
                () = self.ping.notified() => (true, None),
                frame = self.frames.recv() => match frame {
                    Some(frame) => (false, Some(frame)),
                    None => break,
                },
                // Last: all else is little and does not wait.
                () = self.records.ready() => (false, None),
            };
            in_time(self.batch(first)).await?;
        }
        let goodbye = CloseFrame { code: close::NORMAL.into(), reason: "".into() };
        in_time(self.sink.send(Message::Close(Some(goodbye)))).await
    }

    async fn batch(
        &mut self,
        (ping, mut next): (bool, Option<Frame>),
    ) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        if ping {
            self.sink.send(Message::Ping(Bytes::new())).await?;
            self.unheard.pinged(self.net.now());
            return Ok(());
        }
        for _ in 0..BATCH {
            let Some(frame) = next.take().or_else(|| self.frames.try_recv().ok()) else { break };
            let message = wire::encode(self.encoding, &frame);
            let (len, max) = (message.len(), self.max_frame);
            match frame {
                // The broker would close the connection, and again after every reconnect.
                Frame::Send(send) if len > max => {
                    self.pending.refuse(send.req, LinkError::TooLarge { len, max });
                }
                _ => self.sink.feed(message).await?,
            }
        }
        for _ in 0..RECORDS {
            let Some(message) = self.records.next(&mut self.buffer) else { break };
            self.unheard.left(self.net.now());
            self.sink.feed(Message::Binary(message)).await?;
        }
        self.sink.flush().await
    }
}

/// A write that takes longer than the watchdog will not end at all.
async fn in_time<E: std::fmt::Display>(
    write: impl Future<Output = Result<(), E>>,
) -> Result<(), Loss> {
    match timeout(STALE_AFTER, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(Loss::new(format!("the connection broke: {e}"))),
        Err(_) => Err(Loss::new("the broker does not read any more")),
    }
}

/// What the broker said before it closed.
#[derive(Default)]
struct Told {
    hint: Option<Duration>,
    error: Option<ErrorFrame>,
}

struct Reader<'a> {
    net: &'a dyn Net,
    stream: SplitStream<Ws>,
    encoding: Encoding,
    pending: &'a Pending,
    records: &'a Records,
    events: &'a mpsc::Sender<LinkEvent>,
    ping: &'a Notify,
    unheard: &'a Unheard,
    told: Told,
}

impl Reader<'_> {
    async fn run(&mut self, ack: HelloAckBody) -> End {
        if let Some(end) = self.emit(LinkEvent::Up(Some(Box::new(ack)))).await {
            return end;
        }
        let mut heard = self.net.now();
        let mut left = self.unheard.0.subscribe();
        let mut pinged = false;
        let mut proof: Option<Instant> = None;
        loop {
            let deadline = self.deadline(heard, pinged);
            let deadline = proof.map_or(deadline, |proof| proof.min(deadline));
            let incoming = tokio::select! {
                biased;
                incoming = wire::next(&mut self.stream, self.encoding) => incoming,
                () = self.pending.doubted(), if proof.is_none() => {
                    self.ping.notify_one();
                    proof = Some(self.net.now() + DOUBT);
                    continue;
                }
                Ok(()) = left.changed() => continue,
                () = sleep_until(deadline) => {
                    if proof.is_some_and(|proof| self.net.now() >= proof) {
                        let loss = Loss::new("the network has changed, and nothing is heard");
                        return End::Lost(Loss { next: Next::Now, ..loss });
                    }
                    if let Some(loss) = self.overdue(heard) {
                        return End::Lost(loss);
                    }
                    if !pinged && self.net.now() >= self.ping_at(heard) {
                        self.ping.notify_one();
                        pinged = true;
                    }
                    continue;
                }
            };
            if let Some(end) = self.on_incoming(incoming).await {
                return end;
            }
            // Only now: waiting for the events' reader is no silence of the broker.
            heard = self.net.now();
            self.unheard.heard();
            pinged = false;
            proof = None;
        }
    }

    /// When to look at the clock again.
    fn deadline(&self, heard: Instant, pinged: bool) -> Instant {
        let quiet = if pinged { heard + STALE_AFTER } else { self.ping_at(heard) };
        let frames = self.pending.waits_since().map(|since| since + ANSWER_TIMEOUT);
        [frames, self.unheard.until()].into_iter().flatten().fold(quiet, Instant::min)
    }

    /// When a ping is due: sooner once records have left.
    fn ping_at(&self, heard: Instant) -> Instant {
        let quiet = heard + PING_AFTER;
        self.unheard.since().map_or(quiet, |since| quiet.min(since + RECORDS_PING))
    }

    fn overdue(&self, heard: Instant) -> Option<Loss> {
        let now = self.net.now();
        if now >= heard + STALE_AFTER {
            return Some(Loss::new(format!("nothing heard for {} s", STALE_AFTER.as_secs())));
        }
        if self.unheard.until().is_some_and(|until| now >= until) {
            return Some(Loss::new("streams' records were not answered by anything"));
        }
        let late = self.pending.waits_since().is_some_and(|since| now >= since + ANSWER_TIMEOUT);
        late.then(|| Loss::new("the broker left a frame unanswered"))
    }

    async fn on_incoming(&mut self, incoming: Incoming) -> Option<End> {
        match incoming {
            Incoming::Alive => None,
            Incoming::Carry(_) if !self.records.is_up() => {
                Some(End::Lost(Loss::new("the connection broke: the broker sent no frame")))
            }
            Incoming::Carry(message) => {
                if let Err(e) = self.records.receive(&message) {
                    debug!(target: "meshwire::events::relay", event = "no_record", error = %e);
                }
                None
            }
            Incoming::Unknown(kind) => {
                debug!(target: "meshwire::events::relay", event = "unknown_type", kind);
                None
            }
            Incoming::Frame(frame) => self.on_frame(*frame).await,
            Incoming::Broken(why) => {
                Some(End::Lost(Loss::new(format!("the connection broke: {why}"))))
            }
            Incoming::Closed(frame) => {
                let mut loss = Loss::closed(frame);
                loss.hint = self.told.hint;
                if let Some(e) = self.told.error.take() {
                    let code = Some(clean(&e.code));
                    let reason = format!("{}: {}", loss.reason, e.message);
                    loss = Loss { code, next: loss.next, hint: loss.hint, ..Loss::new(reason) };
                }
                Some(End::Lost(loss))
            }
        }
    }

    async fn on_frame(&mut self, frame: Frame) -> Option<End> {
        if !matches!(frame, Frame::Error(_)) {
            // An error that things went on after is not why a later close comes.
            self.told.error = None;
        }
        match frame {
            Frame::Message(m) => {
                let inbound = Inbound {
                    to: m.to,
                    envelope: m.envelope,
                    accepted_at: m.accepted_at,
                    attempt: m.attempt,
                };
                self.emit(LinkEvent::Envelope(Box::new(inbound))).await
            }
            Frame::Receipt(r) => {
                self.emit(LinkEvent::Receipt { from: r.from, id: r.id, receipt: r.receipt }).await
            }
            Frame::Drained(_) => self.emit(LinkEvent::Drained).await,
            Frame::Presence(p) => self.emit(LinkEvent::Presence(Box::new(p))).await,
            Frame::PeerChanged(c) => self.emit(LinkEvent::PeerChanged(Box::new(c.peer))).await,
            Frame::Resync(_) => self.emit(LinkEvent::Resync).await,
            Frame::P2pOffer(f) => self.emit(LinkEvent::P2p(Box::new(f.into()))).await,
            Frame::P2pAnswer(f) => self.emit(LinkEvent::P2p(Box::new(f.into()))).await,
            Frame::P2pCandidate(f) => self.emit(LinkEvent::P2p(Box::new(f.into()))).await,
            Frame::P2pBye(f) => self.emit(LinkEvent::P2p(Box::new(f.into()))).await,
            Frame::TurnServers(ref t) => self.answered(t.req, frame),
            Frame::Unbound(u) => {
                self.emit(LinkEvent::Unbound { key: u.key, reason: u.reason }).await
            }
            Frame::RecipientsChanged(ref c) => self.answered(c.req, frame),
            Frame::Disconnected(ref d) => self.answered(d.req, frame),
            Frame::Accepted(ref a) => self.answered(a.req, frame),
            Frame::Peers(ref p) => self.answered(p.req, frame),
            Frame::Invites(ref i) => self.answered(i.req, frame),
            Frame::Ok(ref o) => self.answered(o.req, frame),
            Frame::Bound(ref b) => self.answered(b.req, frame),
            Frame::Error(ErrorFrame { req: Some(req), .. }) => self.answered(req, frame),
            Frame::Error(e) => {
                debug!(target: "meshwire::events::relay", event = "error", code = e.code);
                self.told.hint = e.retry_after_ms.map(Duration::from_millis).or(self.told.hint);
                self.told.error = Some(e);
                None
            }
            Frame::Goaway(g) => {
                debug!(target: "meshwire::events::relay", event = "goaway", reason = g.reason);
                self.told.hint = Some(Duration::from_millis(g.retry_after_ms));
                None
            }
            other => {
                debug!(target: "meshwire::events::relay", event = "senseless", kind = other.kind());
                None
            }
        }
    }

    fn answered(&self, req: u64, frame: Frame) -> Option<End> {
        let kind = frame.kind();
        if !self.pending.answer(req, frame) {
            debug!(target: "meshwire::events::relay", event = "unasked", kind, req);
        }
        None
    }

    /// Waits for the events' reader, but no longer than the broker waits for us.
    async fn emit(&self, event: LinkEvent) -> Option<End> {
        match timeout(STALE_AFTER, self.events.send(event)).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(End::Closed),
            Err(_) => Some(End::Lost(Loss::new("this node did not read what came in"))),
        }
    }
}
