//! One mesh of a node: its identity, its link, and what is known of its members right now.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Features, HelloAckBody, feature};
use meshwire_signaling::seal::PairCache;
use meshwire_signaling::{Hash, InstanceId, MeshId, PublicKey, SecretKey, UnixMillis};
use meshwire_transport::link::{LinkEvent, MessageLink as _};
use meshwire_transport::net::random;
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use meshwire_transport::url::BaseUrl;
use tokio::sync::{Notify, mpsc, watch};

use super::events::{Event, Misbehaviour};
use super::find::Fresh;
use super::identity::Identity;
use super::paths::Paths;
use super::presence::Own;
use super::sessions::Sessions;
use super::streams::{self, Streams};
use super::views::{PeerView, Views};
use super::{AGENT, DirectPaths, Services};
use crate::api::{ApiError, ErrorKind, MeshInfo};
use crate::core::inbox::{Keys, Known};
use crate::core::outbox::OutboxState;
use crate::path::PathMode;
use crate::store::{MeshRow, OutboxFilter, PeerStore};

/// Pairs kept per half of the cache: enough for the peers that one node talks to in an hour.
const PAIRS: usize = 2_048;

/// How the link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Not tried yet.
    Connecting,
    /// Connected; what waited at the broker has come, and who is there is known.
    Up { drained: bool, roster: bool },
    /// Not connected.
    Down { reason: String, code: Option<String> },
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) services: Arc<Services>,
    pub(crate) row: MeshRow,
    /// The member's key.
    pub(crate) pairs: Arc<PairCache>,
    /// Our sessions in it.
    pub(crate) sessions: Sessions,
    /// What our identities say of themselves.
    pub(crate) own: Own,
    pub(crate) link: Arc<RelayLink>,
    /// The direct paths.
    pub(super) paths: Paths,
    /// The streams.
    pub(super) streams: Arc<Streams>,
    /// Wakes the drain.
    pub(crate) wake: Notify,
    /// Wakes the roster's refresh.
    pub(crate) refresh: Notify,
    /// Looks at the roster for those who ask for somebody unknown.
    pub(super) fresh: Fresh,
    /// Wakes what tells the broker of our sessions and presence.
    pub(crate) announce: Notify,
    /// Counts connections, so that tickets of an older one are told apart.
    pub(crate) generation: AtomicU64,
    /// Whether our presence was there already when this node first connected.
    was_there: OnceLock<bool>,
    state: watch::Sender<LinkState>,
    known: Mutex<HashMap<PublicKey, Known>>,
    /// Who is there; meaningful while the link is up.
    views: Views,
    /// Which lists of groups were taken over, by member.
    groups: Mutex<HashMap<PublicKey, Hash>>,
    /// What the broker can, by its last ack.
    broker: Mutex<Option<Features>>,
}

/// The hello counter in the node's store.
struct Counter(Arc<Services>, MeshId);

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        self.0.store.next_hello(&self.1).await.map_err(|e| CounterError(e.to_string()))
    }

    async fn renew(&self) -> Result<(), CounterError> {
        tracing::warn!(
            target: "meshwire::events::instance::renewed", mesh = %self.1.short(),
            "this home was copied or restored: starting a new outbox instance"
        );
        let fresh = InstanceId(random(self.0.net.as_ref()));
        self.0.store.renew_instance(&self.1, fresh).await.map_err(|e| CounterError(e.to_string()))
    }
}

impl Mesh {
    /// Opens the link. Must be called inside a tokio runtime.
    pub(crate) fn open(
        services: Arc<Services>,
        row: MeshRow,
        key: SecretKey,
    ) -> Result<(Arc<Self>, mpsc::Receiver<LinkEvent>), ApiError> {
        let base = row.broker_url.parse().map_err(|e: meshwire_transport::url::UrlError| {
            ApiError::new(ErrorKind::Invalid, "bad_broker_url", e.to_string())
        })?;
        let pairs = Arc::new(PairCache::new(key.clone(), PAIRS));
        let config = RelayConfig {
            base,
            pin: row.pin,
            mesh: row.mesh,
            broker: row.broker_key,
            identity: key,
            encoding: Encoding::MsgPack,
            features: features(&services.direct),
            requires: vec![feature::DEDUPE.to_owned(), feature::RECEIPTS.to_owned()],
            agent: AGENT.to_owned(),
            counter: Arc::new(Counter(services.clone(), row.mesh)),
        };
        let (link, events) = RelayLink::open(services.net.clone(), config);
        let paths = Paths::new(services.direct.adapter.clone(), services.direct.mode);
        let mesh = Self {
            paths,
            streams: Arc::default(),
            services,
            sessions: Sessions::new(row.mesh, pairs.clone()),
            own: Own::default(),
            row,
            pairs,
            link,
            wake: Notify::new(),
            refresh: Notify::new(),
            fresh: Fresh::default(),
            announce: Notify::new(),
            generation: AtomicU64::new(0),
            was_there: OnceLock::new(),
            state: watch::Sender::new(LinkState::Connecting),
            known: Mutex::default(),
            views: Views::default(),
            groups: Mutex::default(),
            broker: Mutex::default(),
        };
        Ok((Arc::new(mesh), events))
    }

    pub(crate) fn id(&self) -> MeshId {
        self.row.mesh
    }

    pub(crate) fn store(&self) -> &dyn PeerStore {
        self.services.store.as_ref()
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.services.net.unix_ms()
    }

    pub(crate) fn info(&self) -> MeshInfo {
        MeshInfo {
            mesh: self.row.mesh,
            name: self.row.name.clone(),
            broker_url: self.row.broker_url.clone(),
            key: self.row.self_key,
            member_name: self.row.self_name.clone(),
            role: self.row.role,
            already_member: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Up { .. })
    }

    /// The link came up; `ack` is the broker's verified one.
    pub(crate) fn went_up(&self, ack: Option<&HelloAckBody>) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if let Some(ack) = ack {
            let features = Some(ack.features.clone());
            *self.broker.lock().unwrap_or_else(PoisonError::into_inner) = features;
        }
        let resumed = ack.is_some_and(|a| a.lease.as_ref().is_some_and(|l| l.resumed));
        if !resumed {
            self.own.forgotten(&self.row.self_key);
        }
        // Only the first says what was before this node.
        let _ = self.was_there.set(resumed);
        self.state.send_replace(LinkState::Up { drained: false, roster: false });
        self.services.tell(Event::Link { mesh: self.id(), up: true, reason: None });
        self.wake.notify_one();
        self.refresh.notify_one();
        self.announce.notify_one();
    }

    pub(crate) fn went_down(&self, reason: String, code: Option<String>) {
        let event = Event::Link { mesh: self.id(), up: false, reason: Some(reason.clone()) };
        self.state.send_replace(LinkState::Down { reason, code });
        self.services.tell(event);
    }

    pub(crate) fn note_drained(&self) {
        self.state.send_if_modified(|s| match s {
            LinkState::Up { drained, .. } => !std::mem::replace(drained, true),
            _ => false,
        });
    }

    pub(crate) fn note_roster(&self) {
        self.state.send_if_modified(|s| match s {
            LinkState::Up { roster, .. } => !std::mem::replace(roster, true),
            _ => false,
        });
    }

    /// The link's state in words, and why it is not up.
    pub(crate) fn link_words(&self) -> (String, Option<String>) {
        match &*self.state.borrow() {
            LinkState::Connecting => ("connecting".to_owned(), None),
            LinkState::Up { .. } => ("up".to_owned(), None),
            LinkState::Down { reason, .. } => ("down".to_owned(), Some(reason.clone())),
        }
    }

    /// Changes with every coming and going of the link.
    pub(super) fn watch_link(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Whether we reach the broker over loopback. Of the peer the broker says it with each step.
    pub(super) fn over_loopback(&self) -> bool {
        self.row.broker_url.parse::<BaseUrl>().is_ok_and(|base| base.is_loopback())
    }

    /// Waits until the link is up with nothing waiting at the broker (true), or known to be down.
    pub(crate) async fn settled(&self) -> bool {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|s| {
            matches!(s, LinkState::Up { drained: true, roster: true } | LinkState::Down { .. })
        });
        matches!(settled.await.as_deref(), Ok(LinkState::Up { .. }))
    }

    /// Waits until the link is up.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] or [`ErrorKind::Denied`] once it is known to be down.
    pub(crate) async fn up(&self) -> Result<(), ApiError> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|s| !matches!(s, LinkState::Connecting)).await;
        match settled.as_deref() {
            Ok(LinkState::Down { reason, code }) => {
                let (kind, word) = match code.as_deref() {
                    Some(code) if !code.starts_with("close_") => (ErrorKind::Denied, code),
                    _ => (ErrorKind::Unreachable, "broker_unreachable"),
                };
                Err(ApiError::new(kind, word, format!("mesh {}: {reason}", self.row.name)))
            }
            _ => Ok(()),
        }
    }

    /// Waits until the outbox has nothing that waits for a path.
    pub(crate) async fn drained(&self) {
        let mut events = self.services.events.subscribe();
        loop {
            let filter = OutboxFilter {
                mesh: Some(self.id()),
                states: vec![OutboxState::Pending, OutboxState::Inflight],
                limit: 1,
                ..OutboxFilter::default()
            };
            if !self.store().outbox_list(&filter).await.is_ok_and(|rows| !rows.is_empty()) {
                return;
            }
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
                return;
            }
        }
    }

    /// Whether the broker has a feature, one of [`feature`]; unknown before the first connection.
    pub(crate) fn broker_has(&self, feature: &str) -> Option<bool> {
        let features = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        features.as_ref().map(|f| f.contains_key(feature))
    }

    /// The member, as whom this node speaks where no session does.
    pub(crate) fn member_identity(&self) -> Identity {
        Identity { kind: IdentityKind::Member, pairs: self.pairs.clone(), attestation: None }
    }

    /// Whether we speak as this key: as the member, a live session, or one that has ended and whose
    /// mail has not settled.
    pub(crate) fn speaks_as(&self, key: &PublicKey) -> bool {
        *key == self.row.self_key || self.sessions.speaker(key).is_some()
    }

    /// The pairs of an identity that we speak as, or of a session that has ended lately.
    pub(crate) fn pairs_of(&self, key: &PublicKey) -> Option<Arc<PairCache>> {
        if *key == self.row.self_key {
            return Some(self.pairs.clone());
        }
        let session = self.sessions.get(key).or_else(|| self.sessions.lately(key))?;
        Some(session.pairs().clone())
    }

    /// Our identity with this key, as far as we [speak as](Self::speaks_as) it.
    pub(crate) fn identity(&self, key: &PublicKey) -> Option<Identity> {
        if *key == self.row.self_key {
            return Some(self.member_identity());
        }
        self.sessions.speaker(key).map(|session| session.identity(self.now()))
    }

    /// The keys that mail may be for: the member's and those of the live sessions.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.sessions.keys()
    }

    /// Whether this was a session of ours that has ended, within the last 30 days.
    pub(crate) fn ended(&self, key: &PublicKey) -> bool {
        self.sessions.has_ended(key)
    }

    /// What is known of a member's presence; none while we are down, or if nothing is.
    pub(crate) fn peer_view(&self, member: &PublicKey) -> Option<PeerView> {
        if self.is_up() { Some(self.views.get(member).unwrap_or_default()) } else { None }
    }

    /// Who is there, or was when we were last up.
    pub(crate) fn views(&self) -> &Views {
        &self.views
    }

    /// Notes what the broker says of a member: the whole of it.
    pub(crate) fn note_peer(&self, member: PublicKey, view: PeerView) {
        self.views.put(member, view);
    }

    /// Whether just this list of a member's groups was taken over before.
    pub(crate) fn groups_known(&self, member: &PublicKey, listed: &Hash) -> bool {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(member) == Some(listed)
    }

    /// Notes that this list of a member's groups was taken over.
    pub(crate) fn note_groups(&self, member: PublicKey, listed: Hash) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).insert(member, listed);
    }

    pub(crate) fn online_count(&self) -> Option<u64> {
        self.is_up().then(|| self.views.count_online())
    }

    /// What the roster has of a member, from memory or store.
    pub(crate) async fn known(&self, key: &PublicKey) -> Option<Known> {
        let cached = |m: &Mutex<HashMap<PublicKey, Known>>| {
            m.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
        };
        if let Some(known) = cached(&self.known) {
            return Some(known);
        }
        let row = self.store().member(&self.id(), key).await.ok().flatten()?;
        let known = Known { key: row.key, name: row.name, fingerprint: row.fingerprint };
        self.remember(known.clone());
        Some(known)
    }

    pub(crate) fn remember(&self, known: Known) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(known.key, known);
    }

    /// Counts and logs what honest ones do not do.
    pub(crate) fn misbehaved(&self, what: Misbehaviour, detail: &str) {
        tracing::warn!(
            target: "meshwire::events::misbehaviour",
            mesh = %self.id().short(), what = what.as_str(), "{detail}"
        );
        self.services.tell(Event::Misbehaviour { mesh: self.id(), what });
    }

    /// Ends the link. Who was not there before this node came has left with it: nobody is to wait
    /// for a verb that had the home for a moment.
    pub(crate) async fn close(&self) {
        streams::close(self).await;
        if self.was_there.get() == Some(&false)
            && let Err(e) = self.link.bye().await
        {
            tracing::debug!(mesh = %self.id().short(), error = %e, "left without a word");
        }
        self.paths.close().await;
        self.link.close().await;
    }
}

/// What this node can.
fn features(direct: &DirectPaths) -> Features {
    let p2p = direct.adapter.is_some() && direct.mode != PathMode::RelayOnly;
    let all = [feature::GATE, feature::GROUPS, feature::STREAMS];
    let all = all.into_iter().chain(p2p.then_some(feature::P2P));
    all.map(|f| (f.to_owned(), BTreeMap::new())).collect()
}
