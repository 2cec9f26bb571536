//! Who is in which group, by their own word.

use meshwire_signaling::limits::MAX_GROUPS;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};
use sqlx::{QueryBuilder, Row as _, SqliteConnection, SqlitePool};

use super::rows::{int, key, time};
use crate::store::{MAX_LEAVES, Result, SetGroup};

/// Members in one query.
const MEMBERS: usize = 500;

/// What a statement says.
pub(super) struct Word<'a> {
    pub(super) group: &'a str,
    pub(super) role: Option<&'a str>,
    pub(super) joined: bool,
    pub(super) at: UnixMillis,
    pub(super) statement: &'a [u8],
}

pub(super) async fn set(
    db: &mut SqliteConnection,
    mesh: &MeshId,
    member: &PublicKey,
    word: Word<'_>,
) -> Result<SetGroup> {
    let known = sqlx::query(
        "SELECT at, statement FROM group_statements WHERE mesh = ? AND member = ? AND name = ?",
    )
    .bind(&mesh.0[..])
    .bind(&member.0[..])
    .bind(word.group)
    .fetch_optional(&mut *db)
    .await?;
    if let Some(row) = known {
        let at = time(&row, "at")?;
        if at == word.at && row.try_get::<&[u8], _>("statement")? == word.statement {
            return Ok(SetGroup::Done);
        }
        if at >= word.at {
            return Ok(SetGroup::Stale);
        }
    }
    let others = sqlx::query(
        "SELECT COUNT(*) AS n FROM group_statements
         WHERE mesh = ? AND member = ? AND joined = 1 AND name <> ?",
    )
    .bind(&mesh.0[..])
    .bind(&member.0[..])
    .bind(word.group)
    .fetch_one(&mut *db)
    .await?;
    if word.joined && others.try_get::<i64, _>("n")? >= int(MAX_GROUPS as u64) {
        return Ok(SetGroup::TooMany);
    }
    sqlx::query(
        "INSERT OR REPLACE INTO group_statements (mesh, member, name, role, joined, at, statement)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&mesh.0[..])
    .bind(&member.0[..])
    .bind(word.group)
    .bind(word.role)
    .bind(word.joined)
    .bind(int(word.at))
    .bind(word.statement)
    .execute(&mut *db)
    .await?;
    if !word.joined {
        sqlx::query(
            "DELETE FROM group_statements WHERE mesh = ?1 AND member = ?2 AND name IN
             (SELECT name FROM group_statements WHERE mesh = ?1 AND member = ?2 AND joined = 0
              ORDER BY at DESC, name DESC LIMIT -1 OFFSET ?3)",
        )
        .bind(&mesh.0[..])
        .bind(&member.0[..])
        .bind(MAX_LEAVES)
        .execute(db)
        .await?;
    }
    Ok(SetGroup::Done)
}

pub(super) async fn of(
    db: &SqlitePool,
    mesh: &MeshId,
    members: &[PublicKey],
) -> Result<Vec<(PublicKey, Vec<u8>)>> {
    let mut found = Vec::new();
    for members in members.chunks(MEMBERS) {
        let mut query = QueryBuilder::new(
            "SELECT member, statement FROM group_statements WHERE joined = 1 AND mesh = ",
        );
        query.push_bind(&mesh.0[..]).push(" AND member IN (");
        let mut list = query.separated(", ");
        for member in members {
            list.push_bind(&member.0[..]);
        }
        list.push_unseparated(") ORDER BY member, name");
        for row in query.build().fetch_all(db).await? {
            found.push((key(&row, "member")?, row.try_get("statement")?));
        }
    }
    found.sort_by_key(|(member, _)| *member);
    Ok(found)
}
