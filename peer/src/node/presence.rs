//! What our identities say of themselves: kept on disk, told to the broker, and what decides which
//! mail surfaces.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwire_signaling::attest::capability;
use meshwire_signaling::frame::{About, SetPresence as Change, Status, feature};
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use tokio::sync::Notify;
use tokio::time::Duration;

use super::mesh::Mesh;
use super::{Node, invalid, store_error};
use crate::api::{ApiError, Presence, SetPresence};
use crate::core::gate::Addressee;
use crate::store::{PeerStore, PresenceRow, StoreError};

/// Longest time that a status may be set for: a year.
const MAX_STATUS_MS: u64 = 366 * 86_400_000;
/// Longest sleep: the wall clock, by which a status ends, may jump.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Said {
    row: PresenceRow,
    announced: bool,
}

/// What each of our identities in a mesh says of itself; nothing for those that never did.
#[derive(Debug, Default)]
pub(crate) struct Own {
    said: Mutex<HashMap<PublicKey, Said>>,
    /// Held from reading what an identity says until the new word is kept.
    turn: tokio::sync::Mutex<()>,
    /// Wakes [`run`].
    changed: Notify,
}

impl Own {
    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the identity says; the broker has not heard of it.
    fn put(&self, row: PresenceRow) {
        self.lock().insert(row.key, Said { row, announced: false });
        self.changed.notify_one();
    }

    /// What an identity says, and whether the broker has heard of it.
    fn get(&self, key: &PublicKey) -> Option<(PresenceRow, bool)> {
        self.lock().get(key).map(|s| (s.row.clone(), s.announced))
    }

    /// What an identity says, as others would see it.
    pub(crate) fn about(&self, key: &PublicKey) -> About {
        self.get(key).map(|(row, _)| about(&row)).unwrap_or_default()
    }

    /// Whether an identity wants to be listed.
    pub(crate) fn visible(&self, key: &PublicKey) -> bool {
        self.get(key).is_none_or(|(row, _)| row.visible)
    }

    /// The broker knows nothing of it any more: its presence had ended there.
    pub(crate) fn forgotten(&self, key: &PublicKey) {
        if let Some(said) = self.lock().get_mut(key) {
            said.announced = false;
        }
    }

    pub(crate) fn remove(&self, key: &PublicKey) {
        self.lock().remove(key);
    }

    fn unannounced(&self) -> Vec<PresenceRow> {
        self.lock().values().filter(|s| !s.announced).map(|s| s.row.clone()).collect()
    }

    fn note_announced(&self, row: &PresenceRow) {
        // It may say something else by now.
        if let Some(said) = self.lock().get_mut(&row.key)
            && said.row == *row
        {
            said.announced = true;
        }
    }

    /// Those whose status is over at `now`, as they are then.
    fn over(&self, now: UnixMillis) -> Vec<PresenceRow> {
        let said = self.lock();
        let ended = said.values().filter(|s| s.row.status_until.is_some_and(|t| t <= now));
        ended
            .map(|s| PresenceRow { status: Status::Idle, status_until: None, ..s.row.clone() })
            .collect()
    }

    /// When the next status is over.
    fn next_end(&self) -> Option<UnixMillis> {
        self.lock().values().filter_map(|s| s.row.status_until).min()
    }
}

fn about(row: &PresenceRow) -> About {
    About { status: row.status, summary: row.summary.clone(), profile: row.profile.clone() }
}

fn silent(mesh: MeshId, key: PublicKey) -> PresenceRow {
    PresenceRow {
        mesh,
        key,
        status: Status::Idle,
        status_until: None,
        summary: None,
        profile: None,
        visible: true,
    }
}

/// What our identities were doing when the last run of the node ended, as far as it goes on.
pub(super) async fn statuses(
    store: &dyn PeerStore,
    now: UnixMillis,
) -> Result<Vec<(Addressee, Status)>, ApiError> {
    let mut who = Vec::new();
    for mesh in store.mesh_list().await.map_err(store_error)? {
        who.push(Addressee { mesh: mesh.mesh, key: mesh.self_key });
    }
    for session in store.session_list(None).await.map_err(store_error)? {
        who.push(Addressee { mesh: session.mesh, key: session.key });
    }
    let mut out = Vec::new();
    for who in who {
        let row = store.presence_get(&who.mesh, &who.key).await.map_err(store_error)?;
        // Its time may have run out while no node ran.
        let row = row.filter(|r| r.status_until.is_none_or(|t| t > now));
        out.extend(row.map(|r| (who, r.status)));
    }
    Ok(out)
}

impl Node {
    /// Changes what the caller's identity says of itself, in one mesh or in all; with nothing to
    /// change, says what it says.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn set_presence(&self, ask: SetPresence) -> Result<Vec<Presence>, ApiError> {
        let changes = ask.status.is_some()
            || ask.summary.is_some()
            || ask.profile.is_some()
            || ask.visible.is_some();
        if changes {
            self.may(capability::PRESENCE)?;
        }
        let meshes = self.scope(ask.mesh.as_deref())?;
        check(&ask, self.session().is_some())?;
        let mut out = Vec::new();
        for mesh in meshes {
            let key = self.author(&mesh)?.key();
            if changes {
                let _turn = mesh.own.turn.lock().await;
                let row = mesh.own.get(&key).map_or_else(|| silent(mesh.id(), key), |(row, _)| row);
                say(&mesh, changed(row, &ask, mesh.now())).await.map_err(store_error)?;
            }
            announce(&mesh).await;
            let (row, announced) =
                mesh.own.get(&key).unwrap_or_else(|| (silent(mesh.id(), key), true));
            out.push(Presence {
                mesh_name: mesh.row.name.clone(),
                key,
                status: row.status,
                status_until: row.status_until,
                summary: row.summary,
                profile: row.profile,
                visible: row.visible,
                announced,
            });
        }
        Ok(out)
    }
}

/// Refuses what the broker would refuse, before anything is kept.
fn check(ask: &SetPresence, session: bool) -> Result<(), ApiError> {
    let said =
        About { status: Status::Idle, summary: ask.summary.clone(), profile: ask.profile.clone() };
    if let Some(fault) = said.fault() {
        return Err(invalid("too_long", fault));
    }
    if session && ask.visible.is_some() {
        let text = "only a member is hidden or not, with all its sessions: ask the home's owner";
        return Err(invalid("members_only", text));
    }
    match (ask.status, ask.status_for_ms) {
        (None, Some(_)) => Err(invalid("no_status", "say which status is to last that long")),
        (_, Some(0)) => Err(invalid("bad_duration", "a status lasts at least 1 ms")),
        (_, Some(ms)) if ms > MAX_STATUS_MS => {
            Err(invalid("bad_duration", "a status lasts at most 366 days"))
        }
        _ => Ok(()),
    }
}

fn changed(mut row: PresenceRow, ask: &SetPresence, now: UnixMillis) -> PresenceRow {
    if let Some(status) = ask.status {
        row.status = status;
        row.status_until = match status {
            // What it goes back to anyhow.
            Status::Idle => None,
            _ => ask.status_for_ms.map(|ms| now.saturating_add(ms)),
        };
    }
    if let Some(summary) = &ask.summary {
        row.summary = Some(summary.clone()).filter(|s| !s.is_empty());
    }
    if let Some(profile) = &ask.profile {
        row.profile = Some(profile.clone()).filter(|p| *p != Default::default());
    }
    row.visible = ask.visible.unwrap_or(row.visible);
    row
}

/// Keeps what an identity says, and surfaces what its status lets through.
async fn say(mesh: &Mesh, row: PresenceRow) -> Result<(), StoreError> {
    mesh.store().presence_put(&row).await?;
    let who = Addressee { mesh: row.mesh, key: row.key };
    let status = row.status;
    mesh.own.put(row);
    mesh.services.surfacer.set_status(who, status).await;
    mesh.announce.notify_one();
    Ok(())
}

/// Takes up what an identity said before this node started.
pub(super) async fn restore(mesh: &Mesh, key: &PublicKey) -> Result<(), StoreError> {
    if let Some(row) = mesh.store().presence_get(&mesh.id(), key).await? {
        mesh.own.put(row);
    }
    Ok(())
}

/// Ends statuses whose time is over, as that comes. Runs until it is dropped.
pub(super) async fn run(mesh: Arc<Mesh>) {
    loop {
        let wait = match expire(&mesh).await {
            Ok(()) => mesh.own.next_end().map(|end| {
                let left = Duration::from_millis(end.saturating_sub(mesh.now()).max(1));
                left.min(LOOK_AGAIN)
            }),
            Err(e) => {
                tracing::error!(error = %e, "the end of a status cannot be written");
                Some(RETRY)
            }
        };
        let due = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = mesh.own.changed.notified() => {}
            () = due => {}
        }
    }
}

async fn expire(mesh: &Mesh) -> Result<(), StoreError> {
    let _turn = mesh.own.turn.lock().await;
    for row in mesh.own.over(mesh.now()) {
        say(mesh, row).await?;
    }
    Ok(())
}

/// Tells the broker what it has not heard yet; false if something is left and the link still up.
pub(super) async fn announce(mesh: &Mesh) -> bool {
    if mesh.broker_has(feature::LEASE) == Some(false) {
        // It would not know the request; what is said decides only what surfaces here.
        return true;
    }
    let generation = mesh.generation();
    let mut all = true;
    for row in mesh.own.unannounced() {
        let session = mesh.sessions.get(&row.key);
        let member = row.key == mesh.row.self_key;
        if !mesh.is_up() || !(member || session.is_some_and(|s| s.is_bound(generation))) {
            continue;
        }
        let change = Change {
            req: 0,
            key: row.key,
            status: Some(row.status),
            summary: Some(row.summary.clone().unwrap_or_default()),
            profile: Some(row.profile.clone().unwrap_or_default()),
            visible: member.then_some(row.visible),
        };
        match mesh.link.set_presence(change).await {
            Ok(()) => mesh.own.note_announced(&row),
            Err(e) => {
                tracing::warn!(
                    target: "meshwire::events::presence::not_announced",
                    mesh = %mesh.id().short(), key = %row.key.short(), error = %e
                );
                all = false;
            }
        }
    }
    all || !mesh.is_up()
}

impl Mesh {
    /// Which of the link's connections this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(std::sync::atomic::Ordering::Acquire)
    }
}
