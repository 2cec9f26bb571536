//! A look into a store's file without changing it, beside whoever works with it.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, query, query_scalar};

use super::super::rows::MeshRow;
use super::super::{StoreError, StoreResult};
use super::convert::mesh_row;
use super::{BUSY_TIMEOUT, MIGRATIONS, SqliteStore, damaged};

/// What a store's file says about itself.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// Its schema's version; none before the first migration.
    pub(crate) schema: Option<i64>,
    /// The newest version that this program knows.
    pub(crate) known: i64,
    /// Its meshes.
    pub(crate) meshes: Vec<MeshRow>,
}

impl SqliteStore {
    /// Checks the file at `path` and reads its meshes; writes nothing to it.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Corrupt`], [`StoreError::Newer`],
    /// [`StoreError::Database`].
    pub(crate) async fn inspect(path: &Path) -> StoreResult<Inspection> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(BUSY_TIMEOUT);
        let mut db = options.connect().await.map_err(|e| damaged(path, e))?;
        let found = look(&mut db, path).await;
        // It was only read: nothing is lost if closing fails.
        let _ = db.close().await;
        found
    }
}

async fn look(db: &mut SqliteConnection, path: &Path) -> StoreResult<Inspection> {
    let verdict: String = query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut *db)
        .await
        .map_err(|e| damaged(path, e))?;
    if verdict != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), what: verdict });
    }
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default();
    let tables: i64 =
        query_scalar("SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut *db)
            .await?;
    if tables == 0 {
        return Ok(Inspection { schema: None, known, meshes: Vec::new() });
    }
    let schema: Option<i64> =
        query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut *db).await?;
    if let Some(found) = schema.filter(|found| *found > known) {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    let rows = query("SELECT * FROM mesh ORDER BY joined_at, mesh").fetch_all(db).await?;
    let meshes = rows.iter().map(mesh_row).collect::<StoreResult<_>>()?;
    Ok(Inspection { schema, known, meshes })
}
