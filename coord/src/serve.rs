//! Starting, serving and stopping a broker.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use meshwire_signaling::frame::{EXPORTER_LABEL, ErrorFrame, close};
use meshwire_signaling::invite::AdminToken;
use meshwire_signaling::limits::{CLAIM_LEASE, ms};
use meshwire_signaling::{Hash, MeshId, PublicKey, SecretKey};
use meshwire_transport::net::{BoxStream, Listener, Net, random};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::{
    self, BrokerConfig, BrokerError, DATABASE_FILE, Database, KEY_FILE, Mutant, NEWS_BURST, Policy,
    Tls,
};
use crate::core::p2p::Rates;
use crate::core::rate::RateLimiter;
use crate::health::{self, Health};
use crate::http::{self, Binding, Near, Place};
use crate::metrics::Metrics;
use crate::store::{MemoryStore, SqliteStore, Store};
use crate::tls;
use crate::turn::TurnDesk;
use crate::writer::Writer;
use crate::ws::{self, Registry};

/// Name and version, as hellos and `/v2/broker` show it.
pub(crate) const AGENT: &str = concat!("meshwire-broker/", env!("CARGO_PKG_VERSION"));
/// The setting that holds the admin token's digest.
pub(crate) const ADMIN_SETTING: &str = "admin_token_sha256";
/// Longest TLS handshake or wait for request headers.
const OPENING: Duration = Duration::from_secs(10);
/// Interval of the expiry sweep: half a lease, as the claim sweep of inventory A-096.
const SWEEP: Duration = Duration::from_secs(CLAIM_LEASE.as_secs() / 2);
/// Members whose rate is remembered; full buckets make room.
const RATE_KEYS: usize = 100_000;
/// Unexpected answers and confirmations allowed per send: an honest node confirms one receipt for
/// each, and repeats some after a lost connection.
const ANSWERS_PER_SEND: u64 = 4;

/// What all connections share.
pub(crate) struct Inner {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) writer: Writer,
    pub(crate) key: SecretKey,
    pub(crate) policy: Policy,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) registry: Registry,
    pub(crate) next_conn: AtomicU64,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) mutant: Option<Mutant>,
    /// Something in front passes connections on: where they come from is not known.
    pub(crate) behind_proxy: bool,
    /// Features that a test of an older broker holds back.
    pub(crate) withheld: Vec<String>,
    rates: Mutex<RateLimiter<(MeshId, PublicKey)>>,
    answers: Mutex<RateLimiter<(MeshId, PublicKey)>>,
    news: Mutex<RateLimiter<(MeshId, PublicKey)>>,
    negotiations: Mutex<Rates>,
    pub(crate) bulk: ws::Exchange,
    pub(crate) turn: Option<Arc<dyn TurnDesk>>,
    started: Instant,
}

impl Inner {
    /// Milliseconds since the start, on the monotonic clock.
    pub(crate) fn tick(&self) -> u64 {
        let since = self.net.now().saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a send of a member's rate, or says when there will be one.
    pub(crate) fn take_tokens(
        &self,
        mesh: MeshId,
        member: PublicKey,
        tokens: u64,
    ) -> Result<(), u64> {
        let now = self.tick();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.take_many(&(mesh, member), tokens, now)
    }

    /// Takes one change that everybody is told of, or says when there will be one.
    pub(crate) fn take_news(&self, mesh: MeshId, member: PublicKey) -> Result<(), u64> {
        let now = self.tick();
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.take(&(mesh, member), now)
    }

    /// Looks at how fast members negotiate, with the time now.
    pub(crate) fn negotiations(
        &self,
        take: impl FnOnce(&mut Rates, u64) -> Result<(), ErrorFrame>,
    ) -> Result<(), ErrorFrame> {
        let now = self.tick();
        take(&mut self.negotiations.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Takes one answer that nothing else bounds; false if a member gives too many.
    pub(crate) fn take_answer(&self, mesh: MeshId, member: PublicKey) -> bool {
        let now = self.tick();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.take(&(mesh, member), now).is_ok()
    }
}

/// A running broker.
pub struct Broker {
    addr: SocketAddr,
    url: String,
    key: PublicKey,
    pin: Option<Hash>,
    admin_token: Option<AdminToken>,
    stop: watch::Sender<bool>,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
    sweeping: JoinHandle<()>,
    watching: JoinHandle<()>,
    leasing: JoinHandle<()>,
    stop_leasing: oneshot::Sender<()>,
    writing: JoinHandle<()>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("url", &self.url).field("key", &self.key).finish()
    }
}

impl Broker {
    /// Migrates the database, then listens.
    ///
    /// # Errors
    /// [`BrokerError`]: what is wrong with the setup.
    pub async fn start(net: Arc<dyn Net>, config: BrokerConfig) -> Result<Self, BrokerError> {
        make_folder(&config.data)?;
        let mutant = Mutant::from_env();
        let key = load_key(&config.data.join(KEY_FILE), net.as_ref())?;
        let identity = match &config.tls {
            Tls::BehindProxy => None,
            Tls::Auto if config.listen.ip().is_loopback() => None,
            Tls::Auto => Some(tls::self_signed(&config.data)?),
            Tls::Files { cert, key } => Some(tls::load(cert, key)?),
        };
        let store: Arc<dyn Store> = match config.database {
            Database::Memory => Arc::new(MemoryStore::default()),
            Database::Sqlite => {
                let path = config.data.join(DATABASE_FILE);
                private_file(&path)?;
                Arc::new(SqliteStore::open(&path, mutant != Some(Mutant::SyncOff)).await?)
            }
        };
        Self::serve(net, config, store, key, identity).await
    }

    /// Listens without any file of its own: with a store and a key that outlive it, and without TLS.
    /// `config` says the rest; its data folder is neither made nor read.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        net: Arc<dyn Net>,
        config: BrokerConfig,
        store: Arc<dyn Store>,
        key: SecretKey,
    ) -> Result<Self, BrokerError> {
        let (database, tls) = (Database::Memory, Tls::BehindProxy);
        let config = BrokerConfig { database, tls, ..config };
        Self::serve(net, config, store, key, None).await
    }

    async fn serve(
        net: Arc<dyn Net>,
        config: BrokerConfig,
        store: Arc<dyn Store>,
        key: SecretKey,
        identity: Option<tls::Identity>,
    ) -> Result<Self, BrokerError> {
        let mutant = Mutant::from_env();
        let (writer, writing) = Writer::start(store.clone(), mutant);
        writer.run(|tx| Box::pin(async move { tx.release_all().await })).await?;
        let addr = config.listen;
        let listening = |error| BrokerError::Listen { addr, error };
        let listener = net.tcp_bind(addr).await.map_err(listening)?;
        let addr = listener.local_addr().map_err(listening)?;
        // After the port is ours: a token that is never printed would be lost.
        let pin = identity.as_ref().and_then(|i| i.pin);
        let token = AdminToken::new(random(net.as_ref()), key.public(), pin);
        let known = store.setting(ADMIN_SETTING).await?.is_some();
        let admin_token = (!known || config.new_admin_token).then_some(token);
        if let Some(token) = &admin_token {
            let digest = token.digest();
            writer
                .run(move |tx| Box::pin(async move { tx.set(ADMIN_SETTING, &digest.0).await }))
                .await?;
        }
        let scheme = if identity.is_some() { "https" } else { "http" };
        check_public_url(config.public_url.as_deref(), scheme, &config.tls)?;
        let health = Health::new(&config);
        let url = config.public_url.unwrap_or_else(|| format!("{scheme}://{addr}"));
        let (stop, stopping) = watch::channel(false);
        let inner = Arc::new(Inner {
            started: net.now(),
            rates: Mutex::new(RateLimiter::new(config.policy.rate, RATE_KEYS)),
            answers: Mutex::new(RateLimiter::new(
                config.policy.rate.saturating_mul(ANSWERS_PER_SEND),
                RATE_KEYS,
            )),
            news: Mutex::new(RateLimiter::with_burst(
                config.policy.news,
                config.policy.news.saturating_mul(NEWS_BURST),
                RATE_KEYS,
            )),
            negotiations: Mutex::new(Rates::new(config.policy.signals)),
            bulk: ws::Exchange::new(&config.policy),
            turn: config.turn,
            registry: Registry::new(config.policy.sockets_per_mesh, ms(config.policy.lease)),
            policy: config.policy,
            metrics: Metrics::default(),
            health,
            next_conn: AtomicU64::new(1),
            key,
            store,
            writer,
            mutant,
            behind_proxy: config.tls == Tls::BehindProxy,
            withheld: config::withheld(),
            stopping,
            net,
        });
        ws::restore(&inner).await?;
        let acceptor = identity.map(|i| TlsAcceptor::from(i.config));
        let serving = tokio::spawn(accept(inner.clone(), listener, acceptor));
        let sweeping = tokio::spawn(sweep(inner.clone()));
        let watching = tokio::spawn(health::watch(inner.clone()));
        let (stop_leasing, stopped) = oneshot::channel();
        let leasing = tokio::spawn(ws::leases(inner.clone(), stopped));
        let key = inner.key.public();
        Ok(Self {
            addr,
            url,
            key,
            pin,
            admin_token,
            stop,
            inner,
            serving,
            sweeping,
            watching,
            leasing,
            stop_leasing,
            writing,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How others reach it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The pin of its self-signed certificate, if it has one.
    #[must_use]
    pub fn pin(&self) -> Option<Hash> {
        self.pin
    }

    /// The admin token, at the first start or when a new one was asked for.
    #[must_use]
    pub fn admin_token(&self) -> Option<&AdminToken> {
        self.admin_token.as_ref()
    }

    /// Stops: takes no more, tells everybody, lets what was submitted be committed and answered.
    pub async fn shutdown(self) {
        let drain = self.inner.policy.drain;
        let _ = self.stop.send(true);
        self.serving.abort();
        self.sweeping.abort();
        self.watching.abort();
        let gone = async {
            while self.inner.registry.len() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(drain, gone).await.is_err() {
            self.inner.registry.close_all(close::GOING_AWAY, "shutting down");
        }
        let _ = self.serving.await;
        let _ = self.sweeping.await;
        let _ = self.watching.await;
        // Nobody comes or goes any more: who is there now is remembered for the next run.
        drop(self.stop_leasing);
        let _ = timeout(drain, self.leasing).await;
        // The writer ends once nobody can submit any more; stragglers lose that chance here.
        drop(self.inner);
        let _ = timeout(drain, self.writing).await;
    }
}

/// Whether the address that others are told fits how the broker speaks.
pub(crate) fn check_public_url(
    url: Option<&str>,
    scheme: &str,
    tls: &Tls,
) -> Result<(), BrokerError> {
    let Some(url) = url else { return Ok(()) };
    let fits = *tls == Tls::BehindProxy || url.split_once("://").is_some_and(|u| u.0 == scheme);
    if fits {
        return Ok(());
    }
    let text = format!(
        "the public URL {url} does not fit: this broker speaks {scheme} at that address; give \
         {scheme}://…, or --behind-proxy if something in front of it ends TLS"
    );
    Err(BrokerError::Config(text))
}

async fn accept(inner: Arc<Inner>, listener: Box<dyn Listener>, tls: Option<TlsAcceptor>) {
    let room = Arc::new(Semaphore::new(inner.policy.sockets));
    let router = http::router(inner.clone());
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, or a connection that ended before it began.
                tracing::warn!(error = %e, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (router, tls) = (router.clone(), tls.clone());
        tokio::spawn(async move {
            let place = Place(Arc::new(permit));
            let near = Near(from.ip().is_loopback());
            if let Err(e) = connection(stream, tls, router, place, near).await {
                tracing::debug!(%from, error = %e, "connection ended");
            }
        });
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: BoxStream,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    place: Place,
    near: Near,
) -> Result<(), Failed> {
    let (stream, binding): (BoxStream, _) = match tls {
        None => (stream, None),
        Some(acceptor) => {
            let stream = timeout(OPENING, acceptor.accept(stream)).await??;
            let exporter =
                stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None)?;
            (Box::new(stream), Some(Hash(exporter)))
        }
    };
    let router = router.layer(axum::Extension(Binding(binding)));
    let router = router.layer(axum::Extension(place)).layer(axum::Extension(near));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades()
        .await?;
    Ok(())
}

async fn sweep(inner: Arc<Inner>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        // A batch at a time, so that others get their turn in between, until nothing is left.
        while sweep_once(&inner).await {}
    }
}

/// Sweeps one batch; whether there is more to do.
async fn sweep_once(inner: &Inner) -> bool {
    let now = inner.net.unix_ms();
    match inner.writer.run(move |tx| Box::pin(async move { tx.sweep(now).await })).await {
        Ok(swept) => {
            inner.metrics.sweeps.inc();
            inner.metrics.expired.inc_by(swept.expired);
            if swept.expired + swept.forgotten > 0 {
                tracing::debug!(expired = swept.expired, forgotten = swept.forgotten, "swept");
            }
            swept.more
        }
        Err(e) => {
            tracing::error!(error = %e, "sweep failed");
            false
        }
    }
}

fn make_folder(path: &Path) -> Result<(), BrokerError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| BrokerError::File { path: path.to_owned(), error })
}

/// Makes sure that a file exists and that only its owner can read it.
fn private_file(path: &Path) -> Result<(), BrokerError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| BrokerError::File { path: path.to_owned(), error })
}

/// Loads the broker's key, making it at the first start. A broker that lost its key could not
/// countersign for its meshes any more: a damaged file is an error, never a new key.
fn load_key(path: &Path, net: &dyn Net) -> Result<SecretKey, BrokerError> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let key = SecretKey::from_seed(&random(net));
    tls::write_private(path, hex::encode(key.seed().as_slice()).as_bytes())?;
    Ok(key)
}

/// The broker's key, if the file is there.
pub(crate) fn read_key(path: &Path) -> Result<Option<SecretKey>, BrokerError> {
    let broken = |text: &str| BrokerError::Config(format!("{}: {text}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let mut seed = [0; 32];
            hex::decode_to_slice(text.trim(), &mut seed)
                .map_err(|_| broken("is no key: 64 hex characters; restore it from a backup"))?;
            Ok(Some(SecretKey::from_seed(&seed)))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BrokerError::File { path: path.to_owned(), error }),
    }
}
