//! Between columns and types. Whatever a file holds that it should not becomes
//! [`StoreError::BadValue`], never a panic.

use std::fmt::Display;
use std::str::FromStr;

use meshwire_signaling::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::super::rows::{
    GroupRow, Idempotency, InboxRow, MemberRow, MeshRow, OutboxMeta, OutboxRow, PresenceRow,
    RecipientRow, SessionRow,
};
use super::super::{StoreError, StoreResult};
use crate::core::gate::{Addressee, Arrival, PING_KIND};
use crate::core::group::RecipientState;
use crate::core::inbox::Item;
use crate::core::order::{Counter, Waiting};

/// A number as SQLite keeps it. Wire numbers end at 2^53−1; a clock beyond 2^63 saturates.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The word that serde gives a unit variant.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("only unit variants are stored as words: {other:?}"),
    }
}

fn bad(column: &'static str) -> impl Fn(&dyn Display) -> StoreError {
    move |e| StoreError::BadValue { column, what: e.to_string() }
}

/// A required column.
pub(super) fn get<'r, T>(row: &'r SqliteRow, column: &'static str) -> StoreResult<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    Ok(row.try_get(column)?)
}

/// A key, hash or instance.
pub(super) fn id<T>(row: &SqliteRow, column: &'static str) -> StoreResult<T>
where
    T: for<'a> TryFrom<&'a [u8], Error: Display>,
{
    T::try_from(get::<&[u8]>(row, column)?).map_err(|e| bad(column)(&e))
}

pub(super) fn opt_id<T>(row: &SqliteRow, column: &'static str) -> StoreResult<Option<T>>
where
    T: for<'a> TryFrom<&'a [u8], Error: Display>,
{
    let bytes: Option<&[u8]> = get(row, column)?;
    bytes.map(|b| T::try_from(b).map_err(|e| bad(column)(&e))).transpose()
}

/// Something with a text form.
pub(super) fn parsed<T: FromStr<Err: Display>>(
    row: &SqliteRow,
    column: &'static str,
) -> StoreResult<T> {
    get::<&str>(row, column)?.parse().map_err(|e| bad(column)(&e))
}

fn opt_parsed<T: FromStr<Err: Display>>(
    row: &SqliteRow,
    column: &'static str,
) -> StoreResult<Option<T>> {
    let text: Option<&str> = get(row, column)?;
    text.map(|t| t.parse().map_err(|e| bad(column)(&e))).transpose()
}

/// What [`word`] wrote.
fn unword<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> StoreResult<T> {
    let word = serde_json::Value::String(get(row, column)?);
    serde_json::from_value(word).map_err(|e| bad(column)(&e))
}

/// MessagePack.
pub(super) fn packed<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> StoreResult<T> {
    codec::from_msgpack(get::<&[u8]>(row, column)?).map_err(|e| bad(column)(&e))
}

/// A number or time.
pub(super) fn uint(row: &SqliteRow, column: &'static str) -> StoreResult<u64> {
    u64::try_from(get::<i64>(row, column)?).map_err(|e| bad(column)(&e))
}

pub(super) fn opt_uint(row: &SqliteRow, column: &'static str) -> StoreResult<Option<u64>> {
    let n: Option<i64> = get(row, column)?;
    n.map(|n| u64::try_from(n).map_err(|e| bad(column)(&e))).transpose()
}

pub(super) fn mesh_row(row: &SqliteRow) -> StoreResult<MeshRow> {
    Ok(MeshRow {
        mesh: id(row, "mesh")?,
        name: get(row, "name")?,
        broker_url: get(row, "broker_url")?,
        broker_key: id(row, "broker_key")?,
        pin: opt_id(row, "pin")?,
        chain: packed(row, "chain")?,
        self_key: id(row, "self_key")?,
        self_name: get(row, "self_name")?,
        role: unword(row, "role")?,
        joined_at: uint(row, "joined_at")?,
    })
}

pub(super) fn outbox_meta(row: &SqliteRow) -> StoreResult<OutboxMeta> {
    let key: Option<String> = get(row, "idempotency_key")?;
    let idempotency = match (key, opt_id(row, "fingerprint")?) {
        (Some(key), Some(fingerprint)) => Some(Idempotency { key, fingerprint }),
        _ => None,
    };
    Ok(OutboxMeta {
        row: get(row, "row")?,
        mesh: id(row, "mesh")?,
        id: parsed(row, "id")?,
        author: id(row, "author")?,
        instance: id(row, "instance")?,
        target: packed(row, "target")?,
        recipient: id(row, "recipient")?,
        member: opt_id(row, "member")?,
        peer_name: get(row, "peer_name")?,
        priority: unword(row, "priority")?,
        seq: uint(row, "seq")?,
        hash: id(row, "hash")?,
        state: parsed(row, "state")?,
        reason: get(row, "reason")?,
        path: get(row, "path")?,
        attempts: u32::try_from(uint(row, "attempts")?).unwrap_or(u32::MAX),
        next_attempt_at: uint(row, "next_attempt_at")?,
        created_at: uint(row, "created_at")?,
        expires_at: uint(row, "expires_at")?,
        accepted_at: opt_uint(row, "accepted_at")?,
        delivered_at: opt_uint(row, "delivered_at")?,
        idempotency,
        superseded_by: opt_parsed(row, "superseded_by")?,
        ping: get(row, "ping")?,
    })
}

pub(super) fn outbox_row(row: &SqliteRow) -> StoreResult<OutboxRow> {
    Ok(OutboxRow { meta: outbox_meta(row)?, envelope: packed(row, "envelope")? })
}

pub(super) fn counter(row: &SqliteRow) -> StoreResult<Counter> {
    Ok(Counter {
        mesh: id(row, "mesh")?,
        author: id(row, "author")?,
        instance: id(row, "instance")?,
        target: packed(row, "target")?,
        priority: unword(row, "priority")?,
    })
}

pub(super) fn arrival(row: &SqliteRow) -> StoreResult<Arrival> {
    let waiting = Waiting {
        counter: counter(row)?,
        seq: uint(row, "seq")?,
        floor: uint(row, "floor")?,
        row: get(row, "row")?,
    };
    let to = Addressee { mesh: id(row, "mesh")?, key: id(row, "recipient")? };
    let arrival = Arrival { waiting, to, ping: get::<String>(row, "kind")? == PING_KIND };
    Ok(if get(row, "handed_on")? { arrival.handed_on(id(row, "member_key")?) } else { arrival })
}

pub(super) fn inbox_row(row: &SqliteRow) -> StoreResult<InboxRow> {
    Ok(InboxRow {
        row: get(row, "row")?,
        item: Item {
            mesh: id(row, "mesh")?,
            author: id(row, "author")?,
            id: parsed(row, "id")?,
            hash: id(row, "hash")?,
            member: id(row, "member")?,
            author_name: get(row, "author_name")?,
            recipient: id(row, "recipient")?,
            channel: unword(row, "channel")?,
            priority: unword(row, "priority")?,
            kind: get(row, "kind")?,
            content: get(row, "content")?,
            reply_to: opt_parsed(row, "reply_to")?,
            instance: id(row, "instance")?,
            seq: uint(row, "seq")?,
            floor: uint(row, "floor")?,
            target: packed(row, "target")?,
            sent_at: uint(row, "sent_at")?,
            received_at: uint(row, "received_at")?,
        },
        order: opt_uint(row, "surfaced_order")?,
        surfaced_at: opt_uint(row, "surfaced_at")?,
        seen_at: opt_uint(row, "seen_at")?,
        handed_on: get(row, "handed_on")?,
    })
}

pub(super) fn member_row(row: &SqliteRow) -> StoreResult<MemberRow> {
    Ok(MemberRow {
        mesh: id(row, "mesh")?,
        key: id(row, "key")?,
        name: get(row, "name")?,
        role: unword(row, "role")?,
        fingerprint: id(row, "fingerprint")?,
        first_seen_at: uint(row, "first_seen_at")?,
    })
}

pub(super) fn session_row(row: &SqliteRow) -> StoreResult<SessionRow> {
    Ok(SessionRow {
        mesh: id(row, "mesh")?,
        key: id(row, "key")?,
        name: get(row, "name")?,
        capabilities: packed(row, "capabilities")?,
        pid: u32::try_from(uint(row, "pid")?).map_err(|e| bad("pid")(&e))?,
        process_start: uint(row, "process_start")?,
        token_hash: id(row, "token_hash")?,
        started_at: uint(row, "started_at")?,
    })
}

pub(super) fn presence_row(row: &SqliteRow) -> StoreResult<PresenceRow> {
    let profile: Option<&[u8]> = get(row, "profile")?;
    let profile = profile.map(codec::from_msgpack).transpose();
    Ok(PresenceRow {
        mesh: id(row, "mesh")?,
        key: id(row, "key")?,
        status: unword(row, "status")?,
        status_until: opt_uint(row, "status_until")?,
        summary: get(row, "summary")?,
        profile: profile.map_err(|e| bad("profile")(&e))?,
        visible: get(row, "visible")?,
    })
}

pub(super) fn group_row(row: &SqliteRow) -> StoreResult<GroupRow> {
    Ok(GroupRow {
        mesh: id(row, "mesh")?,
        member: id(row, "member")?,
        name: get(row, "name")?,
        role: get(row, "role")?,
        joined: get(row, "joined")?,
        at: uint(row, "at")?,
        statement: packed(row, "statement")?,
    })
}

/// What [`RecipientState::as_str`] wrote.
pub(super) fn recipient_state(row: &SqliteRow) -> StoreResult<RecipientState> {
    let word: &str = get(row, "state")?;
    let found = RecipientState::ALL.into_iter().find(|s| s.as_str() == word);
    found.ok_or_else(|| bad("state")(&word))
}

pub(super) fn recipient_row(row: &SqliteRow) -> StoreResult<RecipientRow> {
    Ok(RecipientRow {
        key: id(row, "recipient")?,
        name: get(row, "name")?,
        state: recipient_state(row)?,
        reason: get(row, "reason")?,
        at: opt_uint(row, "at")?,
    })
}
