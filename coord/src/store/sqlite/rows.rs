//! Values as SQLite has them.

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::invite::Role;
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, UnixMillis};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::store::{DelegateRow, InviteRow, LeaseRow, MemberRow, Result, StoreError, state};

pub(super) const SELECT_MEMBER: &str = "SELECT * FROM members WHERE mesh = ? AND key = ?";
pub(super) const SELECT_INVITE: &str = "SELECT * FROM invites WHERE invite = ?";

/// The rows that say what became of one envelope.
pub(super) const SELECT_ACCEPTED: &str = "SELECT a.hash AS hash,
            (SELECT CASE MIN(d.state) WHEN 0 THEN 0 ELSE MAX(d.state) END
             FROM deliveries d WHERE d.seq = a.seq) AS state
     FROM accepted a WHERE a.mesh = ? AND a.author = ? AND a.id = ?";

/// The hash and state of a [`SELECT_ACCEPTED`] row; as [`state::least_advanced`].
pub(super) fn accepted_row(row: &SqliteRow) -> Result<(Hash, MessageState)> {
    let hash: &[u8] = row.try_get("hash")?;
    let hash = Hash::try_from(hash).map_err(|_| StoreError::Corrupt("hash"))?;
    // Its deliveries are forgotten a moment before it.
    let state = row.try_get::<Option<i64>, _>("state")?.unwrap_or(state::EXPIRED);
    Ok((hash, state::public(state)))
}

/// SQLite's integers are signed; ours stay below 2^53.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn uint(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

pub(super) fn key(row: &SqliteRow, column: &'static str) -> Result<PublicKey> {
    let bytes: &[u8] = row.try_get(column)?;
    PublicKey::try_from(bytes).map_err(|_| StoreError::Corrupt(column))
}

pub(super) fn mesh(row: &SqliteRow) -> Result<MeshId> {
    let bytes: &[u8] = row.try_get("mesh")?;
    MeshId::try_from(bytes).map_err(|_| StoreError::Corrupt("mesh"))
}

pub(super) fn id(row: &SqliteRow) -> Result<EnvelopeId> {
    row.try_get::<&str, _>("id")?.parse().map_err(|_| StoreError::Corrupt("id"))
}

pub(super) fn time(row: &SqliteRow, column: &str) -> Result<UnixMillis> {
    Ok(uint(row.try_get(column)?))
}

pub(super) fn maybe_time(row: &SqliteRow, column: &str) -> Result<Option<UnixMillis>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(uint))
}

pub(super) fn small(row: &SqliteRow, column: &'static str) -> Result<u32> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Corrupt(column))
}

pub(super) fn member_row(row: &SqliteRow) -> Result<MemberRow> {
    let role = match row.try_get("role")? {
        "owner" => Role::Owner,
        "admin" => Role::Admin,
        "member" => Role::Member,
        _ => return Err(StoreError::Corrupt("role")),
    };
    let invite: Option<&[u8]> = row.try_get("invite")?;
    let invite = invite.map(PublicKey::try_from).transpose();
    Ok(MemberRow {
        mesh: mesh(row)?,
        key: key(row, "key")?,
        name: row.try_get("name")?,
        role,
        chain: row.try_get("chain")?,
        invite: invite.map_err(|_| StoreError::Corrupt("invite"))?,
        joined_at: time(row, "joined_at")?,
        seen_at: maybe_time(row, "seen_at")?,
        about: row.try_get("about")?,
        hidden: row.try_get("hidden")?,
    })
}

pub(super) fn invite_row(row: &SqliteRow) -> Result<InviteRow> {
    Ok(InviteRow {
        invite: key(row, "invite")?,
        mesh: mesh(row)?,
        issuer: key(row, "issuer")?,
        capability: row.try_get("capability")?,
        uses: small(row, "uses")?,
        used: small(row, "used")?,
        expires_at: time(row, "expires_at")?,
        created_at: time(row, "created_at")?,
        revoked_at: maybe_time(row, "revoked_at")?,
    })
}

pub(super) fn kind_word(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::Member => "member",
        IdentityKind::Session => "session",
        IdentityKind::Service => "service",
    }
}

fn kind(row: &SqliteRow) -> Result<IdentityKind> {
    match row.try_get("kind")? {
        "member" => Ok(IdentityKind::Member),
        "session" => Ok(IdentityKind::Session),
        "service" => Ok(IdentityKind::Service),
        _ => Err(StoreError::Corrupt("kind")),
    }
}

pub(super) fn delegate_row(row: &SqliteRow) -> Result<DelegateRow> {
    let expires_at = time(row, "expires_at")?;
    Ok(DelegateRow { member: key(row, "member")?, kind: kind(row)?, expires_at })
}

pub(super) fn lease_row(row: &SqliteRow) -> Result<LeaseRow> {
    let instance = |column| -> Result<InstanceId> {
        let bytes: &[u8] = row.try_get(column)?;
        InstanceId::try_from(bytes).map_err(|_| StoreError::Corrupt(column))
    };
    Ok(LeaseRow {
        mesh: mesh(row)?,
        key: key(row, "key")?,
        member: key(row, "member")?,
        kind: kind(row)?,
        instance: instance("instance")?,
        lease: instance("lease")?,
        since: time(row, "since")?,
        about: row.try_get("about")?,
        attestation: row.try_get("attestation")?,
        features: row.try_get("features")?,
    })
}
