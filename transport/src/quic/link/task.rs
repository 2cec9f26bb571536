//! The two tasks behind a link: one reads its stream, one writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwire_signaling::Envelope;
use meshwire_signaling::frame::MessageState;
use quinn::SendStream;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::wire::{Broken, Bye, Frame, Reader, ReceiptFrame, Taken, kind, put};
use super::{Ends, FAREWELL, State};

use crate::link::{CLOSED, Handed, Inbound, LinkError, LinkEvent};
use crate::net::Net;
use crate::queue;
use crate::quic::conn::Stir;

/// Most bytes of frames in one write.
const BATCH: usize = 64 << 10;
/// How long the count of what was taken waits for a receipt to travel with.
const DELAY: Duration = Duration::from_millis(1);
/// Longest reason of a peer's farewell that is passed on, in characters.
const REASON: usize = 200;

type Done = oneshot::Sender<Result<Handed, LinkError>>;

/// What is to be written.
pub(super) enum Out {
    Envelope(Box<Envelope>, Done),
    Receipt(Box<ReceiptFrame>),
    Bye,
}

/// What both tasks share.
struct Both {
    state: Arc<watch::Sender<State>>,
    window: Arc<Semaphore>,
    /// Envelopes written and not known to be taken, oldest first.
    open: Mutex<VecDeque<Done>>,
    /// Envelopes of the peer that have been handed to the reader of the events.
    taken: AtomicU64,
    more_taken: Notify,
}

impl Both {
    /// The link is lost, unless it was closed.
    fn fall(&self) {
        self.state.send_if_modified(|s| {
            let up = *s == State::Up;
            if up {
                *s = State::Down;
            }
            up
        });
        // Their tickets say that the link is down.
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

pub(super) struct Reading {
    both: Arc<Both>,
    stir: Arc<Stir>,
    net: Arc<dyn Net>,
    ends: Ends,
    events: queue::Sender<LinkEvent>,
    resolved: u64,
}

pub(super) struct Writing {
    both: Arc<Both>,
    told: u64,
}

pub(super) fn halves(
    net: Arc<dyn Net>,
    ends: Ends,
    state: &Arc<watch::Sender<State>>,
    window: &Arc<Semaphore>,
    events: queue::Sender<LinkEvent>,
    stir: &Arc<Stir>,
) -> (Reading, Writing) {
    let both = Arc::new(Both {
        state: Arc::clone(state),
        window: Arc::clone(window),
        open: Mutex::default(),
        taken: AtomicU64::new(0),
        more_taken: Notify::new(),
    });
    let stir = Arc::clone(stir);
    let reading = Reading { both: Arc::clone(&both), stir, net, ends, events, resolved: 0 };
    (reading, Writing { both, told: 0 })
}

impl Reading {
    pub(super) async fn run(mut self, mut reader: Reader) {
        let both = Arc::clone(&self.both);
        let mut state = both.state.subscribe();
        let fallen = async {
            let _ = state.wait_for(|s| *s == State::Down).await;
            // A peer that takes no more may still have sent something.
            sleep(FAREWELL).await;
        };
        let (reason, code) = tokio::select! {
            biased;
            read = self.read(&mut reader) => match read {
                Ok(reason) => (reason, Some(CLOSED.to_owned())),
                Err(Some(broken)) => (broken, None),
                // Nobody reads the events any more.
                Err(None) => (String::new(), None),
            },
            () = fallen => ("the peer takes no more messages".to_owned(), None),
        };
        both.fall();
        let _ = self.events.send(LinkEvent::Down { reason, code, retry_in: None }).await;
    }

    /// Reads until the end; says why that was.
    async fn read(&mut self, reader: &mut Reader) -> Result<String, Option<Broken>> {
        while let Some(frame) = reader.next().await.map_err(Some)? {
            self.stir.stir();
            match frame {
                Frame::Envelope(envelope) => self.envelope(*envelope).await.ok_or(None)?,
                Frame::Taken(n) => self.taken(n).map_err(Some)?,
                Frame::Receipt(ReceiptFrame { from, id, receipt }) => {
                    let event = LinkEvent::Receipt { from, id, receipt };
                    self.events.send(event).await.map_err(|_| None)?;
                }
                Frame::Bye(reason) => return Ok(reason.chars().take(REASON).collect()),
                Frame::Hello(_) => return Err(Some("a second hello".to_owned())),
                Frame::Unknown => {}
            }
        }
        Ok("the peer has closed the link".to_owned())
    }

    async fn envelope(&self, envelope: Envelope) -> Option<()> {
        let target = envelope.header().ok().and_then(|h| h.target.key());
        let to = target.unwrap_or(self.ends.own);
        let inbound = Inbound { to, envelope, accepted_at: self.net.unix_ms(), attempt: 1 };
        self.events.send(LinkEvent::Envelope(Box::new(inbound))).await.ok()?;
        self.both.taken.fetch_add(1, Ordering::Release);
        self.both.more_taken.notify_one();
        Some(())
    }

    fn taken(&mut self, n: u64) -> Result<(), Broken> {
        let news = n.saturating_sub(self.resolved);
        let mut open = self.both.open.lock().unwrap_or_else(PoisonError::into_inner);
        let news = usize::try_from(news).ok().filter(|news| *news <= open.len());
        let news = news.ok_or("the peer has taken more than it was sent")?;
        for done in open.drain(..news) {
            let handed = Handed { state: MessageState::Sent, duplicate: false, full: Vec::new() };
            let _ = done.send(Ok(handed));
        }
        self.resolved = self.resolved.max(n);
        self.both.window.add_permits(news);
        Ok(())
    }
}

impl Writing {
    pub(super) async fn run(mut self, mut stream: SendStream, mut queue: queue::Receiver<Out>) {
        let both = Arc::clone(&self.both);
        let mut state = both.state.subscribe();
        tokio::select! {
            biased;
            () = self.write(&mut stream, &mut queue) => {}
            _ = state.wait_for(|s| *s == State::Down) => {}
        }
        // Whoever waits for room hears it now.
        queue.close();
        both.fall();
    }

    async fn write(&mut self, stream: &mut SendStream, queue: &mut queue::Receiver<Out>) {
        let mut due: Option<Instant> = None;
        let mut bytes = Vec::new();
        loop {
            let mut last = false;
            tokio::select! {
                biased;
                out = queue.recv() => {
                    last = self.put(&mut bytes, out);
                    while !last && bytes.len() < BATCH
                        && let Some(out) = queue.try_recv()
                    {
                        last = self.put(&mut bytes, Some(out));
                    }
                }
                () = self.both.more_taken.notified(), if due.is_none() => {
                    due = Some(Instant::now() + DELAY);
                    continue;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            due = None;
            self.put_taken(&mut bytes);
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
            if last {
                let _ = stream.finish();
                let _ = timeout(FAREWELL, stream.stopped()).await;
                return;
            }
        }
    }

    /// Says whether that was the last one.
    fn put(&self, bytes: &mut Vec<u8>, out: Option<Out>) -> bool {
        match out {
            Some(Out::Envelope(envelope, done)) => {
                put(bytes, kind::ENVELOPE, &*envelope);
                self.both.open.lock().unwrap_or_else(PoisonError::into_inner).push_back(done);
                false
            }
            Some(Out::Receipt(frame)) => {
                put(bytes, kind::RECEIPT, &*frame);
                false
            }
            Some(Out::Bye) | None => {
                put(bytes, kind::BYE, &Bye { reason: "the other end is closed".to_owned() });
                true
            }
        }
    }

    fn put_taken(&mut self, bytes: &mut Vec<u8>) {
        let n = self.both.taken.load(Ordering::Acquire);
        if n > self.told {
            self.told = n;
            put(bytes, kind::TAKEN, &Taken { n });
        }
    }
}
