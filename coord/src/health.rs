//! Whether the database answers (inventory B-167 to B-169).
//!
//! Whoever asks gets an answer that is at most [`FRESH`] old, and questions that come together share
//! one look: health checks cannot load the database. One task looks by itself as well, so that
//! trouble is logged and measured when nobody asks. The broker never ends because the database fails.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::config::{BrokerConfig, Database};
use crate::serve::Inner;
use crate::store::StoreError;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait for the database; after it, it counts as down.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks while all is well, and the longest wait otherwise (inventory B-169).
const CALM: Duration = Duration::from_secs(30);
/// The wait after the first failure; it doubles (inventory B-169).
const WORRIED: Duration = Duration::from_millis(500);

/// How the database was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It answers and has this version's migrations.
    Ok,
    /// It answers, but was migrated by another version.
    Behind,
    /// It does not answer.
    Down,
}

/// A value that is looked up at most every [`FRESH`].
#[derive(Debug)]
struct Cached<T>(Mutex<Option<(Instant, T)>>);

impl<T: Copy> Cached<T> {
    fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The value, and whether `look` has just found it.
    async fn get(&self, now: impl Fn() -> Instant, look: impl Future<Output = T>) -> (T, bool) {
        let mut kept = self.0.lock().await;
        if let Some((at, value)) = *kept
            && now().saturating_duration_since(at) < FRESH
        {
            return (value, false);
        }
        let value = look.await;
        *kept = Some((now(), value));
        (value, true)
    }
}

/// What is known of the database, and where it is.
#[derive(Debug)]
pub(crate) struct Health {
    state: Cached<State>,
    depth: Cached<Option<u64>>,
    data: PathBuf,
    database: Option<PathBuf>,
}

impl Health {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        let file = || config.data.join(crate::config::DATABASE_FILE);
        Self {
            state: Cached::new(),
            depth: Cached::new(),
            data: config.data.clone(),
            database: (config.database == Database::Sqlite).then(file),
        }
    }

    /// Size of the database and its log, in bytes; 0 where there is no file.
    fn database_bytes(&self) -> u64 {
        let Some(path) = &self.database else { return 0 };
        let size = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
        size(path).saturating_add(size(&path.with_extension("db-wal")))
    }
}

/// How the database is, at most [`FRESH`] ago.
pub(crate) async fn database(inner: &Inner) -> State {
    let look = async {
        let asked = timeout(PATIENCE, inner.store.ready()).await;
        let (state, why) = match asked {
            Ok(Ok(())) => (State::Ok, None),
            Ok(Err(e @ StoreError::Migrate(_))) => (State::Behind, Some(e.to_string())),
            Ok(Err(e)) => (State::Down, Some(e.to_string())),
            Err(_) => (State::Down, Some("it does not answer".to_owned())),
        };
        let healthy = i64::from(state == State::Ok);
        let before = inner.metrics.db_healthy.set(healthy);
        match why {
            Some(why) => tracing::warn!(error = %why, "the database is not fit to serve"),
            None if before == 0 => tracing::debug!("the database answers"),
            None => {}
        }
        state
    };
    inner.health.state.get(|| inner.net.now(), look).await.0
}

/// Brings the gauges up to date that are read and not counted.
pub(crate) async fn measure(inner: &Inner) {
    database(inner).await;
    let look = async {
        let depth = timeout(PATIENCE, inner.store.queue_depth()).await;
        depth.ok().and_then(Result::ok)
    };
    let (depth, looked) = inner.health.depth.get(|| inner.net.now(), look).await;
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let metrics = &inner.metrics;
    // An unknown depth keeps the last known one; db_healthy tells that it is old.
    if let (Some(depth), true) = (depth, looked) {
        metrics.queue_depth.set(signed(depth));
    }
    metrics.database_bytes.set(signed(inner.health.database_bytes()));
    if let Some(free) = free_bytes(&inner.health.data) {
        metrics.free_bytes.set(signed(free));
    }
    metrics.uptime.set(signed(inner.tick() / 1_000));
}

/// Free space for this process where a path is, in bytes; none where that cannot be told.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Looks at the database for ever.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let mut failures = 0_u32;
    loop {
        let state = database(&inner).await;
        failures = if state == State::Ok { 0 } else { failures.saturating_add(1) };
        sleep(next_look(failures)).await;
    }
}

/// The wait before the next look, after so many failures in a row.
fn next_look(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => CALM,
        Some(n) => WORRIED.saturating_mul(2_u32.saturating_pow(n)).min(CALM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_sooner_after_a_failure_and_then_later_again() {
        let waits: Vec<u128> = (0..9).map(|n| next_look(n).as_millis()).collect();
        assert_eq!(waits, [30_000, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(next_look(u32::MAX), CALM);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_within_a_second_share_one_look() {
        let cached = Cached::new();
        let ask = async |n: u8| cached.get(Instant::now, async move { n }).await;
        assert_eq!(ask(1).await, (1, true));
        assert_eq!(ask(2).await, (1, false));
        tokio::time::advance(FRESH).await;
        assert_eq!(ask(3).await, (3, true));
    }
}
