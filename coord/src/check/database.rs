//! The database: whole, and of a version that this program can bring up to date.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::Check;
use crate::config::DATABASE_FILE;
use crate::store::{MIGRATIONS, StoreError};

const NAME: &str = "database";
const MIGRATIONS_NAME: &str = "migrations";
/// Longest wait for a lock: the broker's own transactions are far shorter.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a database for reading; its broker may be running.
pub(crate) async fn open(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .create_if_missing(false)
        .busy_timeout(PATIENCE);
    Ok(options.connect().await?)
}

/// What is wrong inside a database, if anything is.
pub(crate) async fn quick_check(db: &mut SqliteConnection) -> Result<Option<String>, StoreError> {
    let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(db).await?;
    let said: String = row.try_get(0)?;
    Ok((said != "ok").then_some(said))
}

/// Database and migrations.
pub(super) async fn check(data: &Path) -> Vec<Check> {
    let path = data.join(DATABASE_FILE);
    match std::fs::metadata(&path) {
        Ok(meta) if meta.len() > 0 => {}
        // An empty file is what a first start leaves that went no further.
        _ => {
            return vec![
                Check::ok(NAME, "made at the first start"),
                Check::ok(MIGRATIONS_NAME, "all of them apply at the first start"),
            ];
        }
    }
    let shown = path.display();
    let restore = "stop the broker and start it with a backup (docs/operations.md)";
    let mut db = match open(&path).await {
        Ok(db) => db,
        Err(e) => return vec![Check::fail(NAME, format!("{shown}: {e}"), restore)],
    };
    let whole = match quick_check(&mut db).await {
        Ok(None) => Check::ok(NAME, format!("{shown} is whole")),
        Ok(Some(wrong)) => Check::fail(NAME, format!("{shown} is damaged: {wrong}"), restore),
        Err(e) => Check::fail(NAME, format!("{shown}: {e}"), restore),
    };
    let mut all = vec![whole];
    if all.iter().all(|c| c.advice.is_none()) {
        all.push(match applied(&mut db).await {
            Ok(applied) => migrations(&applied),
            Err(e) => Check::fail(MIGRATIONS_NAME, format!("{shown}: {e}"), restore),
        });
    }
    // It was only read: there is nothing that closing it could lose.
    let _ = db.close().await;
    all
}

/// A migration that was applied: whether to its end, and the digest of its text.
struct Applied {
    success: bool,
    checksum: Vec<u8>,
}

async fn applied(db: &mut SqliteConnection) -> Result<BTreeMap<i64, Applied>, StoreError> {
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'";
    if sqlx::query(table).fetch_optional(&mut *db).await?.is_none() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query("SELECT version, success, checksum FROM _sqlx_migrations");
    let rows = rows.fetch_all(db).await?;
    let read = |row: &sqlx::sqlite::SqliteRow| {
        let one = Applied { success: row.try_get("success")?, checksum: row.try_get("checksum")? };
        Ok((row.try_get("version")?, one))
    };
    rows.iter().map(read).collect()
}

fn migrations(applied: &BTreeMap<i64, Applied>) -> Check {
    const NAME: &str = MIGRATIONS_NAME;
    let newer = applied.keys().find(|v| MIGRATIONS.iter().all(|m| m.version != **v));
    if let Some(version) = newer {
        let found = format!("a newer meshwire has used this database (migration {version})");
        return Check::fail(NAME, found, "run that version, or start from a backup made before it");
    }
    if let Some((version, _)) = applied.iter().find(|(_, a)| !a.success) {
        let found = format!("migration {version} was begun and not ended");
        return Check::fail(NAME, found, "start from a backup made before the upgrade");
    }
    let drifted = MIGRATIONS
        .iter()
        .find(|m| applied.get(&m.version).is_some_and(|a| a.checksum != *m.checksum));
    if let Some(m) = drifted {
        let found = format!("migration {} was another one when it was applied", m.version);
        return Check::fail(NAME, found, "run the version of meshwire that made this database");
    }
    match MIGRATIONS.iter().filter(|m| !applied.contains_key(&m.version)).count() {
        0 => Check::ok(NAME, format!("all {} are applied", applied.len())),
        n => Check::warn(
            NAME,
            format!("{n} will be applied at the start"),
            "make a backup first: an older meshwire cannot go on with what they leave",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    fn all() -> BTreeMap<i64, Applied> {
        let one = |m: &sqlx::migrate::Migration| {
            (m.version, Applied { success: true, checksum: m.checksum.to_vec() })
        };
        MIGRATIONS.iter().map(one).collect()
    }

    #[test]
    fn migrations_are_told_apart() {
        assert_eq!(migrations(&all()).outcome, Outcome::Ok);
        assert_eq!(migrations(&BTreeMap::new()).outcome, Outcome::Warn, "some are to come");
        let failed = |change: fn(&mut BTreeMap<i64, Applied>), says: &str| {
            let mut applied = all();
            change(&mut applied);
            let check = migrations(&applied);
            assert_eq!(check.outcome, Outcome::Fail, "{check:?}");
            assert!(check.found.contains(says), "{check:?}");
        };
        let newer = |a: &mut BTreeMap<i64, Applied>| {
            a.insert(i64::MAX, Applied { success: true, checksum: vec![] });
        };
        failed(newer, "newer meshwire");
        failed(|a| a.values_mut().for_each(|a| a.success = false), "not ended");
        failed(|a| a.values_mut().for_each(|a| a.checksum[0] ^= 1), "another one");
    }

    #[tokio::test]
    async fn what_a_broker_made_is_whole_and_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DATABASE_FILE);
        // Still open: a broker may be running.
        let _store = crate::store::SqliteStore::open(&path, true).await.unwrap();
        let found = check(folder.path()).await;
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|c| c.outcome == Outcome::Ok), "{found:?}");
    }
}
