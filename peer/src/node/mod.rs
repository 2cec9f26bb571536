//! The node: all meshes of one home, their links, and the mail in between.
//!
//! ```text
//!            ┌─────────────── Mesh (one per mesh) ──────────────┐
//! send ──► outbox ──► drain ──► link ═══ broker ═══ link ──► inbound ──► inbox ──► surfacer ──► events
//!              ▲                                               │
//!              └──────────────── receipts ◄────────────────────┘
//! ```
//!
//! What callers see is [`Node`]; what can be asked is in [`crate::api`]. A send is durable before it
//! is answered; `delivered` is said only on the recipient's own receipt.

mod admin;
#[cfg(test)]
mod close_tests;
mod drain;
mod events;
mod find;
mod groups;
mod identity;
mod inbound;
mod inbox;
mod join;
#[cfg(test)]
mod mail_tests;
mod mesh;
mod metrics;
mod outbox;
mod paths;
mod peers;
mod ping;
mod presence;
mod regroup;
mod roster;
mod run;
mod seal;
mod send;
mod sessions;
mod streams;
mod surface;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_util::future::join_all;
use meshwire_signaling::MeshId;
use meshwire_transport::direct::Adapter;
use meshwire_transport::net::{Net, OsNet};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::Duration;

pub use events::{Event, Misbehaviour};
pub use identity::Viewer;
pub use run::run;
pub(crate) use sessions::SessionHandle;
pub use streams::{PeerStream, StreamHandle, StreamInfo, StreamStats};

use crate::api::{ApiError, Done, ErrorKind, MeshStatus, Status};
use crate::core::outbox::OutboxState;
use crate::home::{Home, Lock};
use crate::keyring::Keyring;
use crate::path::PathMode;
use crate::store::{
    InboxFilter, MAX_INBOX_LIST, MAX_OUTBOX_LIST, MeshRow, OutboxFilter, PeerStore, SqliteStore,
    StoreError,
};
use identity::Caller;
use mesh::Mesh;
use surface::Surfacer;

/// Name and version, as brokers' logs show it.
pub(crate) const AGENT: &str = concat!("meshwire/", env!("CARGO_PKG_VERSION"));
/// Events that a slow listener may lag behind before it misses some.
const EVENTS: usize = 1_024;
/// How often expired messages are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);
/// Rows expired at a time.
const EXPIRE_BATCH: u32 = 500;
/// How often old rows are deleted (inventory C-026: hourly).
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

/// What the parts of a node share.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) store: Arc<dyn PeerStore>,
    pub(crate) keyring: Keyring,
    pub(crate) surfacer: Arc<Surfacer>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) direct: DirectPaths,
    pub(crate) streams: streams::Common,
}

/// How a node makes direct paths.
#[derive(Clone, Debug, Default)]
pub struct DirectPaths {
    /// The technique; without one everything goes over the relay.
    pub adapter: Option<Arc<dyn Adapter>>,
    /// What the owner allows.
    pub mode: PathMode,
}

impl Services {
    /// Tells whoever listens.
    pub(crate) fn tell(&self, event: Event) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }
}

#[derive(Debug)]
struct Inner {
    services: Arc<Services>,
    meshes: RwLock<BTreeMap<MeshId, Arc<Mesh>>>,
    tasks: Mutex<JoinSet<()>>,
    background: AtomicBool,
    lock: Mutex<Option<Lock>>,
}

/// What outlives a node that keeps nothing on disk: keys and store. Of those that share one, one may
/// run at a time. Clones are the same home.
#[derive(Clone, Debug)]
pub struct MemoryHome {
    keys: crate::keyring::Memory,
    store: Arc<dyn PeerStore>,
}

impl Default for MemoryHome {
    fn default() -> Self {
        let store = Arc::new(crate::store::MemoryStore::new());
        Self { keys: crate::keyring::Memory::default(), store }
    }
}

/// A node as its owner, or one of its sessions, sees it; cheap to clone. See the module's
/// documentation.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
    caller: Caller,
}

impl Node {
    /// The node of the home at `path`, made if missing, on the operating system's network.
    ///
    /// # Errors
    /// [`ApiError`]; `home_busy` if somebody else has the home.
    pub async fn at(path: &Path) -> Result<Self, ApiError> {
        let home = Home::open(path)?;
        let busy = || {
            let text = format!("another meshwire works with {}", path.display());
            ApiError::new(ErrorKind::Io, "home_busy", text)
        };
        let lock = home.try_lock()?.ok_or_else(busy)?;
        Self::open(Arc::new(OsNet), &home, lock, DirectPaths::default()).await
    }

    /// The node of a home that this process has locked. Connects in the background.
    ///
    /// # Errors
    /// [`ApiError`] where the home's files are damaged.
    pub async fn open(
        net: Arc<dyn Net>,
        home: &Home,
        lock: Lock,
        direct: DirectPaths,
    ) -> Result<Self, ApiError> {
        let keyring = Keyring::open(home.keys())?;
        let store = SqliteStore::open(&home.database()).await.map_err(store_error)?;
        Self::assemble(net, keyring, Arc::new(store), Some(lock), direct).await
    }

    /// The node of a home without any file. Connects in the background.
    ///
    /// # Errors
    /// [`ApiError`] where the home's parts do not fit together.
    pub async fn in_memory(
        net: Arc<dyn Net>,
        home: &MemoryHome,
        direct: DirectPaths,
    ) -> Result<Self, ApiError> {
        let keyring = Keyring::Memory(home.keys.clone());
        let node = Self::assemble(net, keyring, home.store.clone(), None, direct).await?;
        node.inner.background.store(true, Ordering::Relaxed);
        Ok(node)
    }

    async fn assemble(
        net: Arc<dyn Net>,
        keyring: Keyring,
        store: Arc<dyn PeerStore>,
        lock: Option<Lock>,
        direct: DirectPaths,
    ) -> Result<Self, ApiError> {
        let (events, _) = broadcast::channel(EVENTS);
        let (surfacer, held) =
            Surfacer::restore(net.clone(), store.clone(), events.clone()).await?;
        let streams = streams::Common::default();
        let services =
            Arc::new(Services { net, store, keyring, surfacer, events, direct, streams });
        let inner = Inner {
            services: services.clone(),
            meshes: RwLock::default(),
            tasks: Mutex::default(),
            background: false.into(),
            lock: Mutex::new(lock),
        };
        let node = Self { inner: Arc::new(inner), caller: Caller::Owner };
        // First: sessions that are over by now wait for it.
        node.spawn(surface::run(services.surfacer.clone(), held));
        for row in services.store.mesh_list().await.map_err(store_error)? {
            node.start(row).await?;
        }
        node.spawn(maintain(services));
        Ok(node)
    }

    /// Starts working for a mesh.
    async fn start(&self, row: MeshRow) -> Result<Arc<Mesh>, ApiError> {
        let services = &self.inner.services;
        let key = self.inner.services.keyring.load(&row.mesh)?.ok_or_else(|| {
            let text = format!("the key for mesh {} is missing: restore the home", row.name);
            ApiError::new(ErrorKind::Io, "missing_key", text)
        })?;
        if key.public() != row.self_key {
            let text = format!("the key for mesh {} is another one: restore the home", row.name);
            return Err(ApiError::new(ErrorKind::Io, "wrong_key", text));
        }
        // What a crash left behind goes out again (inventory appendix 7, defect 11).
        services.store.reset_inflight(&row.mesh).await.map_err(store_error)?;
        services.store.unsend(&row.mesh, None).await.map_err(store_error)?;
        let (mesh, events) = Mesh::open(services.clone(), row, key)?;
        presence::restore(&mesh, &mesh.row.self_key).await.map_err(store_error)?;
        sessions::restore(&mesh).await?;
        self.inner
            .meshes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(mesh.id(), mesh.clone());
        self.spawn(inbound::run(mesh.clone(), events));
        self.spawn(drain::run(mesh.clone()));
        self.spawn(paths::run(mesh.clone()));
        self.spawn(roster::run(mesh.clone()));
        self.spawn(presence::run(mesh.clone()));
        self.spawn(sessions::keep(mesh.clone()));
        self.spawn(sessions::reap(mesh.clone()));
        self.spawn(streams::keep(mesh.clone()));
        services.streams.look();
        Ok(mesh)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn services(&self) -> &Arc<Services> {
        &self.inner.services
    }

    fn meshes(&self) -> Vec<Arc<Mesh>> {
        self.inner.meshes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether this node stays, as `meshwire up` starts it.
    fn is_background(&self) -> bool {
        self.inner.background.load(Ordering::Relaxed)
    }

    /// What happens, from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.services.events.subscribe()
    }

    /// How the node is.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub async fn status(&self, _: Done) -> Result<Status, ApiError> {
        let mut meshes = Vec::new();
        for mesh in self.scope(None)? {
            meshes.push(mesh_status(self, &mesh).await.map_err(store_error)?);
        }
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            background: self.is_background(),
            meshes,
        })
    }

    /// Waits until every broker is connected, what waited there has come and the outbox has left;
    /// for a broker that cannot be reached, until that is known; at most for `patience`.
    pub async fn settle(&self, patience: Duration) {
        let all = async {
            for mesh in self.meshes() {
                if mesh.settled().await {
                    mesh.drained().await;
                }
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Tells the brokers that this node goes on purpose, so that nobody waits for it.
    async fn leave(&self) {
        for mesh in self.meshes() {
            // Nothing is passed on for who has left.
            streams::close(&mesh).await;
            if let Err(e) = mesh.link.bye().await {
                tracing::debug!(mesh = %mesh.id().short(), error = %e, "left without a word");
            }
        }
    }

    /// Closes links and store and gives the home back, whoever still has a clone. What was accepted
    /// is on disk and goes out at the next start.
    pub async fn close(&self) {
        // Side by side: each says goodbye to all its peers, and waits a little until they have heard.
        let meshes = self.meshes();
        join_all(meshes.iter().map(|mesh| mesh.close())).await;
        if let Some(adapter) = &self.services().direct.adapter {
            adapter.close().await;
        }
        let mut tasks =
            std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        self.services().store.close().await;
        drop(self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// How a mesh is, with the mail of whoever asks.
async fn mesh_status(node: &Node, mesh: &Mesh) -> Result<MeshStatus, StoreError> {
    let services = node.services();
    let author = node.session().map(|s| s.key());
    let count = async |states: &[OutboxState]| {
        let filter = OutboxFilter {
            mesh: Some(mesh.id()),
            states: states.to_vec(),
            author,
            without_pings: true,
            limit: MAX_OUTBOX_LIST,
            ..OutboxFilter::default()
        };
        services.store.outbox_list(&filter).await.map(|rows| rows.len() as u64)
    };
    let unread = InboxFilter {
        mesh: Some(mesh.id()),
        viewer: node.reader(false),
        unread: true,
        limit: MAX_INBOX_LIST,
        ..InboxFilter::default()
    };
    let (link, reason) = mesh.link_words();
    let paths = mesh.paths.counts();
    Ok(MeshStatus {
        direct: paths.direct,
        turn: paths.turn,
        path_rtt_us: mesh.paths.median_rtt_us(),
        queued: count(&[OutboxState::Pending, OutboxState::Inflight]).await?,
        unconfirmed: count(&[OutboxState::Relayed, OutboxState::Sent]).await?,
        unread: services.store.inbox_list(&unread, None).await?.len() as u64,
        members: services.store.members(Some(&mesh.id())).await?.len() as u64,
        online: mesh.online_count(),
        mesh: mesh.info(),
        link,
        reason,
    })
}

/// Expires messages and deletes what is past its time.
async fn maintain(services: Arc<Services>) {
    let mut expire = tokio::time::interval(EXPIRE_EVERY);
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    loop {
        let done = tokio::select! {
            biased;
            _ = expire.tick() => expire_once(&services).await,
            _ = prune.tick() => {
                services.store.prune(services.net.unix_ms()).await.map(drop)
            }
        };
        if let Err(e) = done {
            tracing::error!(error = %e, "the store fails");
        }
    }
}

async fn expire_once(services: &Services) -> Result<(), StoreError> {
    for row in services.store.expire(services.net.unix_ms(), EXPIRE_BATCH).await? {
        services.tell(Event::Outbox {
            mesh: row.mesh,
            id: row.id,
            author: row.author,
            state: row.state,
            reason: row.reason,
        });
    }
    Ok(())
}

/// Longest wait that one request may ask for.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// How long a request waits.
fn within(ms: Option<u64>, default: Duration) -> Duration {
    ms.map_or(default, Duration::from_millis).min(MAX_WAIT)
}

fn invalid(code: &str, text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Invalid, code, text)
}

/// A store's error as callers see it.
pub(crate) fn store_error(e: StoreError) -> ApiError {
    let (kind, code) = match &e {
        StoreError::NotFound(_) => (ErrorKind::NotFound, "message_not_found"),
        StoreError::Ambiguous { .. } => (ErrorKind::Ambiguous, "message_ambiguous"),
        StoreError::UnknownMesh(_) => (ErrorKind::NotFound, "mesh_not_found"),
        StoreError::MeshExists(_) => (ErrorKind::Exists, "mesh_exists"),
        StoreError::Idempotency(conflict) => {
            return ApiError::new(ErrorKind::Exists, conflict.word(), e.to_string());
        }
        StoreError::NotRequeueable { .. } => (ErrorKind::Invalid, "not_requeueable"),
        _ => (ErrorKind::Io, "store"),
    };
    ApiError::new(kind, code, e.to_string())
}
