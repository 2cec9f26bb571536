//! How much one listener does at once (inventory C-005).
//!
//! What comes from sessions has less room than there is: each on its own, and all of them together,
//! so that none keeps another or the home's owner out.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use meshwire_signaling::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use super::failure::Failure;
use crate::api::ErrorKind;

/// Largest request: a message of 64 KiB, as JSON may sixfold it. (C-005 has 1 MiB, its code 256 KiB.)
pub(super) const MAX_BODY: usize = 512 * 1024;
/// Most of a body that is too large that is read before the refusal, so that a client which
/// writes first and reads then gets to see it.
pub(super) const MAX_REFUSED_BODY: usize = 8 * MAX_BODY;
/// Longest time for a request's head, and for a connection to stay idle, on the socket.
pub(super) const HEAD: Duration = Duration::from_secs(30);
/// The same on TCP, where anybody on this machine can hold a connection.
pub(super) const TCP_HEAD: Duration = Duration::from_secs(5);
/// Longest time for a request's body.
pub(super) const BODY: Duration = Duration::from_secs(15);
/// Most connections: every request and stream below has one, and as many may idle.
pub(super) const CONNECTIONS: usize = 448;
/// Most connections on TCP that have not shown the token; the oldest makes room for a new one.
pub(super) const STRANGERS: usize = 32;

/// What some callers may have at once.
#[derive(Clone, Copy, Debug)]
struct Quota {
    /// Requests under way.
    requests: usize,
    /// Streams of events.
    streams: usize,
    /// Streams to peers, those that are being opened or waited for among them.
    sockets: usize,
    /// Requests per second, sustained.
    rate: f64,
    /// Requests at once after a pause.
    burst: f64,
    /// Whose it is, for people.
    whose: &'static str,
}

/// All callers.
const ALL: Quota = Quota {
    requests: 64,
    streams: 32,
    sockets: 128,
    rate: 100.0,
    burst: 1_000.0,
    whose: "of this node",
};
/// All sessions: what is left is the owner's.
const SESSIONS: Quota = Quota {
    requests: 48,
    streams: 24,
    sockets: 96,
    rate: 80.0,
    burst: 800.0,
    whose: "of all sessions",
};
/// One session.
const SESSION: Quota = Quota {
    requests: 8,
    streams: 2,
    sockets: 16,
    rate: 20.0,
    burst: 200.0,
    whose: "of this session",
};

/// Requests per time: a token bucket that is full at first.
#[derive(Debug)]
struct Bucket {
    quota: Quota,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(quota: Quota, now: Instant) -> Self {
        Self { quota, tokens: quota.burst, at: now }
    }

    /// Whether one more request is fine now; [`Self::take`] takes it.
    fn has(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * self.quota.rate).min(self.quota.burst);
        self.at = self.at.max(now);
        self.tokens >= 1.0
    }

    fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

/// What some callers share.
#[derive(Debug)]
struct Share {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    sockets: Arc<Semaphore>,
    bucket: Bucket,
}

impl Share {
    fn new(quota: Quota, now: Instant) -> Self {
        let places = |n| Arc::new(Semaphore::new(n));
        Self {
            requests: places(quota.requests),
            streams: places(quota.streams),
            sockets: places(quota.sockets),
            bucket: Bucket::new(quota, now),
        }
    }
}

/// Who asks, as far as it counts here.
#[derive(Debug)]
pub(super) enum Asker<'a, S> {
    /// The home's owner.
    Owner,
    /// This session, which lives as long as its handle.
    Session(PublicKey, &'a Arc<S>),
    /// Who shows a session's token that is none.
    Nobody,
}

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A question and its answer.
    Request,
    /// A stream of events.
    Stream,
    /// A stream to a peer.
    Socket,
}

/// A request's or stream's place, until the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Place(#[allow(dead_code)] Arc<Vec<OwnedSemaphorePermit>>);

/// What goes on at a listener. `S` is what lives as long as a session.
#[derive(Debug)]
pub(super) struct Limits<S> {
    all: Share,
    sessions: Share,
    each: HashMap<PublicKey, (Weak<S>, Share)>,
}

impl<S> Limits<S> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            all: Share::new(ALL, now),
            sessions: Share::new(SESSIONS, now),
            each: HashMap::new(),
        }
    }

    /// Lets one more request or stream begin.
    ///
    /// # Errors
    /// `rate_limited`, `daemon_busy`, `too_many_streams`; nothing was taken then.
    pub(super) fn admit(
        &mut self,
        who: &Asker<'_, S>,
        kind: Kind,
        now: Instant,
    ) -> Result<Place, Failure> {
        // The narrowest first: that is what to tell of.
        let mut shares = Vec::with_capacity(3);
        if let Asker::Session(key, session) = who {
            if !self.each.contains_key(key) {
                self.each.retain(|_, (session, _)| session.strong_count() > 0);
            }
            let fresh = || (Arc::downgrade(session), Share::new(SESSION, now));
            shares.push(&mut self.each.entry(*key).or_insert_with(fresh).1);
        }
        if !matches!(who, Asker::Owner) {
            shares.push(&mut self.sessions);
        }
        shares.push(&mut self.all);
        for share in &mut shares {
            if !share.bucket.has(now) {
                return Err(too_fast(&share.bucket.quota));
            }
        }
        // Who asks in vain for a place has asked all the same.
        for share in &mut shares {
            share.bucket.take();
        }
        let places = shares.iter().map(|share| {
            let of = match kind {
                Kind::Request => &share.requests,
                Kind::Stream => &share.streams,
                Kind::Socket => &share.sockets,
            };
            of.clone().try_acquire_owned().map_err(|_| full(&share.bucket.quota, kind))
        });
        Ok(Place(Arc::new(places.collect::<Result<_, _>>()?)))
    }

    /// Every request's place, and every socket's: free when the last one has ended, whoever still waits for its
    /// answer.
    pub(super) fn idle(&self) -> impl Future<Output = ()> + use<S> {
        let (requests, sockets) = (self.all.requests.clone(), self.all.sockets.clone());
        async move {
            let all = |places| u32::try_from(places).unwrap_or(u32::MAX);
            // Nobody closes them.
            let _requests = requests.acquire_many(all(ALL.requests)).await;
            let _sockets = sockets.acquire_many(all(ALL.sockets)).await;
        }
    }
}

fn full(quota: &Quota, kind: Kind) -> Failure {
    let Quota { requests, streams, sockets, whose, .. } = quota;
    let (code, text) = match kind {
        Kind::Request => (
            "daemon_busy",
            format!("{requests} requests {whose} are under way: ask again when one has ended"),
        ),
        Kind::Stream => {
            ("too_many_streams", format!("{streams} streams {whose} are open: close one first"))
        }
        Kind::Socket => (
            "too_many_streams",
            format!("{sockets} streams {whose} are open or waited for: close one first"),
        ),
    };
    Failure::new(ErrorKind::Busy, code, text)
}

fn too_fast(quota: &Quota) -> Failure {
    let Quota { rate, burst, whose, .. } = quota;
    let text =
        format!("more requests {whose} than {rate} a second, and {burst} at once: slow down");
    Failure::new(ErrorKind::Busy, "rate_limited", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    type World = (Limits<()>, Instant);

    fn world() -> World {
        let start = Instant::now();
        (Limits::new(start), start)
    }

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    /// How many are let in one after the other.
    fn taken((limits, start): &mut World, who: &Asker<'_, ()>, ms: u64) -> usize {
        let at = *start + Duration::from_millis(ms);
        (0..5_000).take_while(|_| limits.admit(who, Kind::Request, at).is_ok()).count()
    }

    /// Places until there are none.
    fn all((limits, start): &mut World, who: &Asker<'_, ()>, kind: Kind) -> Vec<Place> {
        (0..5_000).map_while(|_| limits.admit(who, kind, *start).ok()).collect()
    }

    #[test]
    fn a_thousand_at_once_and_a_hundred_a_second() {
        let mut world = world();
        let taken = |world: &mut World, ms| taken(world, &Asker::Owner, ms);
        assert_eq!(taken(&mut world, 0), 1_000);
        assert_eq!(taken(&mut world, 5), 0);
        assert_eq!(taken(&mut world, 505), 50);
        assert_eq!(taken(&mut world, 400), 0, "a clock that steps back");
        assert_eq!(taken(&mut world, 3_600_000), 1_000, "never more");
    }

    #[test]
    fn sessions_are_slowed_down_one_by_one_and_together() {
        let mut world = world();
        let lives = Arc::new(());
        let session = |n| Asker::Session(key(n), &lives);
        assert_eq!(taken(&mut world, &session(1), 0), 200);
        assert_eq!(taken(&mut world, &session(1), 1_000), 20);
        // Others are not slowed down by it, until all sessions have had their share.
        assert_eq!(taken(&mut world, &session(2), 1_000), 200);
        assert_eq!(taken(&mut world, &session(3), 1_000), 200);
        assert_eq!(taken(&mut world, &Asker::Nobody, 1_000), 800 - 420 - 120);
        assert_eq!(taken(&mut world, &session(4), 1_000), 0);
        assert!(taken(&mut world, &Asker::Owner, 1_000) >= 200, "what is left is the owner's");
    }

    #[test]
    fn sessions_have_few_places_and_the_owner_keeps_some() {
        for (kind, one, together, everybody) in
            [(Kind::Request, 8, 48, 64), (Kind::Stream, 2, 24, 32), (Kind::Socket, 16, 96, 128)]
        {
            let mut world = world();
            let lives = Arc::new(());
            let mut held = Vec::new();
            for n in 0..20 {
                let places = all(&mut world, &Asker::Session(key(n), &lives), kind);
                assert_eq!(places.len(), one.min(together - held.len()), "{kind:?}");
                held.extend(places);
            }
            assert_eq!(held.len(), together);
            let owner = all(&mut world, &Asker::Owner, kind);
            assert_eq!(owner.len(), everybody - together);
            // They come back when the last who needs one is done.
            let kept = held.pop().unwrap();
            let task = kept.clone();
            drop(kept);
            assert!(all(&mut world, &Asker::Session(key(0), &lives), kind).is_empty());
            drop((task, held));
            assert_eq!(all(&mut world, &Asker::Session(key(0), &lives), kind).len(), one);
        }
    }

    #[test]
    fn nothing_is_kept_of_sessions_that_ended() {
        let mut world = world();
        for n in 0..100 {
            let lives = Arc::new(());
            assert!(world.0.admit(&Asker::Session(key(n), &lives), Kind::Request, world.1).is_ok());
        }
        assert_eq!(world.0.each.len(), 1);
    }
}
