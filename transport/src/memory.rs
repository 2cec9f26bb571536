//! A path within one process: two ends, each handing envelopes straight into the other's events.
//!
//! It is the double that tests of everything above a link use, so it can be cut and mended on
//! demand ([`MemoryLink::sever`], [`MemoryLink::restore`]). What was in the other end's events before
//! a cut stays there. Nothing is stored: a ticket says `sent`, and an envelope answered with
//! [`Answer::Later`] comes again only if its author sends it again.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::{MAX_BODY, STALE_AFTER};
use meshwire_signaling::{Envelope, EnvelopeId, PublicKey};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::link::{Answer, Handed, Inbound, LinkError, LinkEvent, MessageLink, PathKind, Ticket};

/// What a cut link says of its next try; it really comes back with [`MemoryLink::restore`].
const RETRY_IN: Duration = Duration::from_secs(1);

struct Side {
    key: PublicKey,
    /// Into this side's events; none once either side is closed.
    events: Mutex<Option<mpsc::Sender<LinkEvent>>>,
    closed: AtomicBool,
}

struct Both {
    sides: [Side; 2],
    up: watch::Sender<bool>,
}

/// One end.
pub struct MemoryLink {
    both: Arc<Both>,
    me: usize,
}

/// An end and its events.
pub type MemoryEnd = (Arc<MemoryLink>, mpsc::Receiver<LinkEvent>);

/// Two connected ends, `a`'s and `b`'s; each holds up to `capacity` events that nobody has read.
#[must_use]
pub fn pair(a: PublicKey, b: PublicKey, capacity: usize) -> (MemoryEnd, MemoryEnd) {
    let side = |key| {
        let (tx, rx) = mpsc::channel(capacity.max(1));
        // There is room for one.
        let _ = tx.try_send(LinkEvent::Up(None));
        (Side { key, events: Mutex::new(Some(tx)), closed: AtomicBool::new(false) }, rx)
    };
    let ((side_a, events_a), (side_b, events_b)) = (side(a), side(b));
    let both = Arc::new(Both { sides: [side_a, side_b], up: watch::Sender::new(true) });
    let end = |me| Arc::new(MemoryLink { both: both.clone(), me });
    ((end(0), events_a), (end(1), events_b))
}

impl Side {
    fn events(&self) -> Option<mpsc::Sender<LinkEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_events(&self) -> Option<mpsc::Sender<LinkEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Tells this side what happened to the link.
    async fn tell(&self, event: LinkEvent) {
        if let Some(events) = self.events() {
            // Whoever has dropped its events does not want to know.
            let _ = events.send(event).await;
        }
    }
}

impl MemoryLink {
    fn mine(&self) -> &Side {
        &self.both.sides[self.me]
    }

    fn theirs(&self) -> &Side {
        &self.both.sides[1 - self.me]
    }

    /// Cuts the connection: both ends go down. Waits until both can be told.
    pub async fn sever(&self) {
        if self.both.up.send_replace(false) {
            let down =
                || LinkEvent::Down { reason: "cut".into(), code: None, retry_in: Some(RETRY_IN) };
            tokio::join!(self.mine().tell(down()), self.theirs().tell(down()));
        }
    }

    /// Mends the connection, unless an end has been closed. Waits until both can be told.
    pub async fn restore(&self) {
        let closed = self.mine().is_closed() || self.theirs().is_closed();
        if !closed && !self.both.up.send_replace(true) {
            let up = || LinkEvent::Up(None);
            tokio::join!(self.mine().tell(up()), self.theirs().tell(up()));
        }
    }

    fn down(&self) -> LinkError {
        if self.mine().is_closed() { LinkError::Closed } else { LinkError::Down }
    }

    fn check(&self) -> Result<(), LinkError> {
        if self.is_up() { Ok(()) } else { Err(self.down()) }
    }

    /// Hands the other end an event. Two readers that wait for each other's room would wait for
    /// ever; here, as on the relay, that ends with the connection's patience.
    async fn push(&self, event: LinkEvent) -> Result<(), LinkError> {
        self.check()?;
        let mut up = self.both.up.subscribe();
        let events = self.theirs().events().ok_or_else(|| self.down())?;
        tokio::select! {
            biased;
            _ = up.wait_for(|up| !*up) => Err(self.down()),
            sent = timeout(STALE_AFTER, events.send(event)) => match sent {
                Ok(Ok(())) => Ok(()),
                _ => Err(LinkError::Down),
            },
        }
    }
}

impl fmt::Debug for MemoryLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mine, theirs) = (self.mine().key.short(), self.theirs().key.short());
        write!(f, "MemoryLink({mine} to {theirs}, up: {})", self.is_up())
    }
}

#[async_trait]
impl MessageLink for MemoryLink {
    fn kind(&self) -> PathKind {
        PathKind::Memory
    }

    fn is_up(&self) -> bool {
        *self.both.up.borrow()
    }

    /// `accepted_at` at the other end is the author's `sent_at`: this link has no clock.
    async fn send(&self, envelope: Envelope) -> Result<Ticket, LinkError> {
        self.check()?;
        let (len, max) = (envelope.body.len(), MAX_BODY);
        if len > max {
            return Err(LinkError::TooLarge { len, max });
        }
        let header = envelope.header().ok();
        let target = header.as_ref().and_then(|h| h.target.key());
        let inbound = Inbound {
            to: target.unwrap_or(self.theirs().key),
            envelope,
            accepted_at: header.map_or(0, |h| h.sent_at),
            attempt: 1,
        };
        self.push(LinkEvent::Envelope(Box::new(inbound))).await?;
        let (done, ticket) = Ticket::new();
        let _ =
            done.send(Ok(Handed { state: MessageState::Sent, duplicate: false, full: Vec::new() }));
        Ok(ticket)
    }

    async fn answer(&self, answer: Answer) -> Result<(), LinkError> {
        match answer {
            Answer::Final { from, id, receipt } | Answer::Gone { from, id, receipt, .. } => {
                self.push(LinkEvent::Receipt { from, id, receipt }).await
            }
            // Without a receipt there is nothing that the author could believe.
            Answer::Refused { .. } | Answer::Later { .. } => self.check(),
        }
    }

    async fn confirm(&self, _: PublicKey, _: EnvelopeId, _: PublicKey) -> Result<(), LinkError> {
        self.check()
    }

    async fn close(&self) {
        self.mine().closed.store(true, Ordering::Release);
        self.both.up.send_replace(false);
        self.mine().take_events();
        if let Some(theirs) = self.theirs().take_events() {
            let reason = "the other end is closed".to_owned();
            let down = LinkEvent::Down { reason, code: None, retry_in: None };
            // Closing must not wait for a reader that may never read.
            tokio::spawn(async move { theirs.send(down).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::{SecretKey, Signature};

    fn envelope(n: u8) -> Envelope {
        Envelope {
            v: 2,
            header: vec![n].into(),
            body: vec![].into(),
            sig: Signature([0; 64]),
            proof: None,
            wraps: vec![],
        }
    }

    fn ends(capacity: usize) -> (MemoryEnd, MemoryEnd) {
        let key = |n| SecretKey::from_seed(&[n; 32]).public();
        pair(key(1), key(2), capacity)
    }

    #[tokio::test]
    async fn a_cut_link_refuses_tells_both_ends_and_works_again_when_mended() {
        let ((a, mut at_a), (b, mut at_b)) = ends(8);
        a.send(envelope(1)).await.unwrap().await.unwrap();
        b.sever().await;
        assert_eq!(a.send(envelope(2)).await.unwrap_err(), LinkError::Down);
        assert_eq!(b.send(envelope(2)).await.unwrap_err(), LinkError::Down);
        a.restore().await;
        a.send(envelope(3)).await.unwrap().await.unwrap();
        let seen = |e: Option<LinkEvent>| match e.unwrap() {
            LinkEvent::Up(_) => "up".to_owned(),
            LinkEvent::Down { retry_in, .. } => format!("down {}", retry_in.is_some()),
            LinkEvent::Envelope(e) => format!("envelope {}", e.envelope.header.0[0]),
            other => format!("{other:?}"),
        };
        let mut all = Vec::new();
        for _ in 0..5 {
            all.push(seen(at_b.recv().await));
        }
        assert_eq!(all, ["up", "envelope 1", "down true", "up", "envelope 3"]);
        for expected in ["up", "down true", "up"] {
            assert_eq!(seen(at_a.recv().await), expected);
        }
    }

    #[tokio::test]
    async fn a_send_that_waits_for_room_ends_with_the_connection() {
        let ((a, _at_a), (b, _at_b)) = ends(1);
        let waiting = tokio::spawn({
            let a = a.clone();
            async move { a.send(envelope(1)).await.map(drop) }
        });
        tokio::task::yield_now().await;
        a.close().await;
        assert_eq!(waiting.await.unwrap(), Err(LinkError::Closed));
        assert_eq!(b.send(envelope(2)).await.unwrap_err(), LinkError::Down);
    }

    #[tokio::test(start_paused = true)]
    async fn two_readers_that_wait_for_each_other_do_not_wait_for_ever() {
        let ((a, _at_a), (b, _at_b)) = ends(1);
        let (left, right) = tokio::join!(a.send(envelope(1)), b.send(envelope(2)));
        assert_eq!((left.unwrap_err(), right.unwrap_err()), (LinkError::Down, LinkError::Down));
    }
}
