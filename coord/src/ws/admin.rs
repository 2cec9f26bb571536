//! What identities say of themselves, groups, and disconnecting others.

use meshwire_signaling::attest::{Attestation, IdentityKind, capability};
use meshwire_signaling::frame::{
    About, Disconnect, Disconnected, ErrorFrame, Frame, Ok as OkFrame, SetGroup, SetPresence,
    Unbind, code,
};
use meshwire_signaling::group::{GroupAction, GroupError, GroupStatement};
use meshwire_signaling::limits::{MAX_DISCONNECT, MAX_GROUPS, SKEW, ms};
use meshwire_signaling::{PublicKey, codec};

use super::complete::unavailable;
use super::peers;
use super::registry::Shared;
use crate::core::presence::Who;
use crate::metrics::Outcome;
use crate::store::{SetGroup as Stored, StoreError};

/// Most keys in each list of an answer to `disconnect`: 100 KiB of JSON.
const MAX_NAMED: usize = 1_500;

fn refuse(code: &str, text: impl Into<String>) -> ErrorFrame {
    ErrorFrame::permanent(code, text)
}

/// Takes a change that everybody is told of off the member's rate.
pub(super) fn telling(conn: &Shared) -> Result<(), ErrorFrame> {
    conn.inner.take_news(conn.mesh, conn.member).map_err(|wait| {
        let text = "too many changes that everybody has to be told of: slow down";
        ErrorFrame::transient(code::RATE_LIMITED, text, wait)
    })
}

/// Changes what an identity of the connection says of itself.
pub(super) async fn set_presence(conn: &Shared, ask: SetPresence) -> Result<Frame, ErrorFrame> {
    let inner = &conn.inner;
    if !inner.registry.speaks_for(conn.id, &ask.key) {
        return Err(refuse(code::NOT_YOURS, "the key is none of this connection's identities"));
    }
    let member = ask.key == conn.member;
    if ask.visible.is_some() && !member {
        return Err(refuse(code::FORBIDDEN, "only members hide themselves, with all they have"));
    }
    if let Some(signed) = inner.registry.attestation(conn.id, &ask.key)
        && !signed.peek::<Attestation>().is_ok_and(|a| a.capabilities.allow(capability::PRESENCE))
    {
        let text = format!("this session lacks the capability {:?}", capability::PRESENCE);
        return Err(refuse(code::FORBIDDEN, text));
    }
    telling(conn)?;
    let row = inner.store.member(&conn.mesh, &conn.member).await.map_err(|e| unavailable(&e))?;
    let Some(row) = row else { return Err(refuse(code::UNAUTHORIZED, "no such member")) };
    let mut about = inner.registry.about(&conn.mesh, &ask.key).unwrap_or_default();
    let unblocked = ask.status.is_some_and(|s| s != about.status);
    apply(&mut about, &ask);
    if let Some(fault) = about.fault() {
        return Err(refuse(code::TOO_LARGE, fault));
    }
    let hidden = ask.visible.map_or(row.hidden, |visible| !visible);
    if member {
        let (mesh, key, bytes) = (conn.mesh, conn.member, codec::to_msgpack(&about));
        let job = inner.writer.run(move |tx| {
            Box::pin(async move { tx.set_about(&mesh, &key, &bytes, hidden).await })
        });
        job.await.map_err(|e| unavailable(&e))?;
        inner.registry.set_hidden(&conn.mesh, &conn.member, hidden);
    }
    inner.registry.set_about(&conn.mesh, &ask.key, about);
    if unblocked {
        // What was held back may go now (inventory appendix 7, defect 9).
        conn.handle.wake();
    }
    // Somebody hidden says nothing, but that it hides or shows itself.
    if !hidden || hidden != row.hidden {
        announce(conn).await.map_err(|e| unavailable(&e))?;
    }
    Ok(OkFrame { req: ask.req }.into())
}

fn apply(about: &mut About, ask: &SetPresence) {
    if let Some(status) = ask.status {
        about.status = status;
    }
    if let Some(summary) = &ask.summary {
        about.summary = (!summary.is_empty()).then(|| summary.clone());
    }
    if let Some(profile) = &ask.profile {
        about.profile = (*profile != Default::default()).then(|| profile.clone());
    }
}

/// Tells everybody else what the connection's member says of itself now, and what its program can.
pub(super) async fn announce(conn: &Shared) -> Result<(), StoreError> {
    // As a stranger sees it.
    let stranger = PublicKey([0; 32]);
    if let Some(peer) = peers::one(&conn.inner, &conn.mesh, &conn.member, &stranger).await? {
        conn.inner.registry.tell_changed(conn, peer);
    }
    Ok(())
}

/// Joins or leaves a group.
pub(super) async fn set_group(conn: &Shared, ask: SetGroup) -> Result<Frame, ErrorFrame> {
    let checked = GroupStatement::verify(&ask.statement, &conn.mesh, &conn.member);
    let statement = checked.map_err(|e| {
        let code = match e {
            GroupError::Mismatch => code::FORBIDDEN,
            GroupError::Signature(_) => code::BAD_SIGNATURE,
            _ => code::BAD_GROUP,
        };
        refuse(code, e.to_string())
    })?;
    if statement.at > conn.inner.net.unix_ms().saturating_add(ms(SKEW)) {
        // It would outlive every honest one.
        let text = "the statement's time lies in the future: check the clock";
        return Err(refuse(code::TIMESTAMP_SKEW, text));
    }
    telling(conn)?;
    let (mesh, member, bytes) = (conn.mesh, conn.member, codec::to_msgpack(&ask.statement));
    let stored = conn
        .inner
        .writer
        .run(move |tx| {
            Box::pin(async move {
                let joined = statement.action == GroupAction::Join;
                let role = statement.role.as_deref();
                let (group, at) = (&statement.group, statement.at);
                tx.set_group(&mesh, &member, group, role, joined, at, &bytes).await
            })
        })
        .await
        .map_err(|e| unavailable(&e))?;
    match stored {
        Stored::Done => {}
        Stored::Stale => {
            let text = "a later statement about this group is known: its `at` must grow";
            return Err(refuse(code::STALE_STATEMENT, text));
        }
        Stored::TooMany => {
            let text = format!("a member is in at most {MAX_GROUPS} groups: leave one first");
            return Err(refuse(code::CAPACITY, text));
        }
    }
    announce(conn).await.map_err(|e| unavailable(&e))?;
    Ok(OkFrame { req: ask.req }.into())
}

/// Ends a session or service of the connection's member, there or not: its node may learn of the end
/// only after a restart.
pub(super) async fn unbind(conn: &Shared, ask: Unbind) -> Result<Frame, ErrorFrame> {
    telling(conn)?;
    let row = conn.inner.store.delegate(&conn.mesh, &ask.key).await;
    let ours = row.map_err(|e| unavailable(&e))?.is_some_and(|d| d.member == conn.member);
    if !conn.inner.registry.unbind(conn, &ask.key)
        && (!ours || conn.inner.registry.connected(&conn.mesh, &ask.key))
    {
        let text = "the key is no session or service of this connection's member, or it has a \
                    connection of its own";
        return Err(refuse(code::NOT_YOURS, text));
    }
    end(conn, vec![(ask.key, conn.member)]).await?;
    conn.handle.orphans_waiting();
    Ok(OkFrame { req: ask.req }.into())
}

/// Makes the end of sessions and services durable: mail to them is refused from now on.
async fn end(conn: &Shared, ended: Vec<(PublicKey, PublicKey)>) -> Result<(), ErrorFrame> {
    let (mesh, now) = (conn.mesh, conn.inner.net.unix_ms());
    let job = conn.inner.writer.run(move |tx| {
        Box::pin(async move {
            for (key, member) in ended {
                tx.end_delegate(&mesh, &key, &member, now).await?;
            }
            Ok(())
        })
    });
    job.await.map_err(|e| unavailable(&e))
}

/// Disconnects others: for owner and admins (inventory B-121).
pub(super) async fn disconnect(conn: &Shared, ask: Disconnect) -> Result<Frame, ErrorFrame> {
    let inner = &conn.inner;
    let row = inner.store.member(&conn.mesh, &conn.member).await.map_err(|e| unavailable(&e))?;
    if conn.kind != IdentityKind::Member || !row.is_some_and(|r| r.role.may_invite()) {
        return Err(refuse(code::FORBIDDEN, "only the owner and admins disconnect others"));
    }
    if ask.keys.len() > MAX_DISCONNECT {
        let text = format!("at most {MAX_DISCONNECT} keys at a time");
        return Err(refuse(code::TOO_LARGE, text));
    }
    let who = if ask.all { Who::AllBut(conn.member) } else { Who::Keys(ask.keys) };
    let done = inner.registry.disconnect(&conn.mesh, &who, ask.kick, inner);
    let outcome = if ask.kick { "kicked" } else { "disconnected" };
    let affected = u64::try_from(done.affected.len()).unwrap_or(u64::MAX);
    inner.metrics.disconnects.get_or_create(&Outcome { outcome }).inc_by(affected);
    let members: Vec<PublicKey> = done.ended.iter().map(|e| e.1).collect();
    end(conn, done.ended).await?;
    for member in members {
        if let Some(handle) = inner.registry.holder(&conn.mesh, &member) {
            handle.orphans_waiting();
        }
    }
    let named = |mut keys: Vec<PublicKey>| {
        keys.truncate(MAX_NAMED);
        keys
    };
    let (affected, skipped) = (named(done.affected), named(done.skipped));
    Ok(Disconnected { req: ask.req, affected, skipped }.into())
}
