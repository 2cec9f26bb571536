//! Claims what waits for a connection's identities and pushes it, a window at a time.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use meshwire_signaling::codec;
use meshwire_signaling::envelope::{Envelope, Proof};
use meshwire_signaling::frame::{Drained, Frame, MessageFrame, ReceiptFrame};
use meshwire_signaling::limits::{CLAIM_LEASE, ms};
use meshwire_signaling::{MeshId, PublicKey};
use meshwire_transport::fault;
use tokio::time::Duration;

use super::registry::Shared;
use crate::store::{Claim, Claimed, StoreError};

/// Receipts read at a time.
const RECEIPTS: usize = 256;
/// Authors whose chains are remembered as sent; beyond that, chains are sent again.
const INTRODUCED: usize = 10_000;
/// Shortest wait for a claim's end: the wall clock, which the store goes by, may disagree with itself.
const SOONEST: Duration = Duration::from_millis(20);
/// How long the pump waits after the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until it is aborted or the connection's queue is gone.
pub(super) async fn run(conn: Shared) {
    let mut introduced = HashSet::new();
    let mut drained = false;
    loop {
        let wait = match round(&conn, &mut introduced, &mut drained).await {
            Ok(Step::More) => continue,
            Ok(Step::Wait(wait)) => wait,
            Ok(Step::Gone) => return,
            Err(e) => {
                tracing::error!(conn = conn.id, error = %e, "claiming failed");
                // The round may have ended before it had read them all.
                conn.handle.receipts.store(true, Ordering::Release);
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        tokio::select! {
            () = conn.handle.wake.notified() => {}
            () = pause(wait) => {}
        }
    }
}

enum Step {
    More,
    /// Until something happens, or for this long.
    Wait(Option<Duration>),
    Gone,
}

async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// The time until the window's earliest lease ends: with a full window nothing else makes room.
fn full(conn: &Shared) -> Step {
    let deadline = conn.window().next_deadline();
    Step::Wait(deadline.map(|at| Duration::from_millis(at.saturating_sub(conn.tick()))))
}

async fn round(
    conn: &Shared,
    introduced: &mut HashSet<PublicKey>,
    drained: &mut bool,
) -> Result<Step, StoreError> {
    let identities = conn.inner.registry.identities(conn.id);
    if conn.handle.receipts.swap(false, Ordering::AcqRel) {
        for author in &identities {
            if !receipts(conn, author).await? {
                return Ok(Step::Gone);
            }
        }
    }
    let now = conn.tick();
    let room = conn.window().room(now);
    if room == 0 {
        return Ok(full(conn));
    }
    let mut pushed = false;
    for recipient in identities.iter().copied() {
        let now = conn.tick();
        let limit = conn.window().room(now);
        if limit == 0 {
            return Ok(full(conn));
        }
        let batch = claim(conn, recipient, limit).await?;
        if !batch.is_empty() {
            fault::pause_at(fault::CLAIMED).await;
        }
        for claimed in batch {
            pushed = true;
            // In the window before it can be answered.
            conn.window().pushed((claimed.author, claimed.id, recipient), now);
            let frame = push(conn, claimed, introduced).await?;
            if conn.handle.out.send(frame).await.is_err() {
                return Ok(Step::Gone);
            }
        }
    }
    if pushed {
        return Ok(Step::More);
    }
    // What is claimed, or was put off, can be had later; the store knows when, whoever has it.
    let now = conn.inner.net.unix_ms();
    let (mut next, mut elsewhere) = (None, false);
    for recipient in &identities {
        let waiting = conn.inner.store.waiting(&conn.mesh, recipient, conn.id, now).await?;
        next = next.into_iter().chain(waiting.next).min();
        elsewhere |= waiting.elsewhere;
    }
    if !*drained && !elsewhere {
        *drained = true;
        if conn.handle.out.send(Drained {}.into()).await.is_err() {
            return Ok(Step::Gone);
        }
    }
    let left = |at: u64| Duration::from_millis(at.saturating_sub(now)).max(SOONEST);
    Ok(Step::Wait(next.map(left)))
}

/// Pushes all receipts that wait for an author. False if the connection is gone.
async fn receipts(conn: &Shared, author: &PublicKey) -> Result<bool, StoreError> {
    let mut after = None;
    loop {
        let rows = conn.inner.store.receipts(&conn.mesh, author, after, RECEIPTS).await?;
        let Some(last) = rows.last() else { return Ok(true) };
        after = Some(last.place);
        for row in rows {
            let Ok(receipt) = codec::from_msgpack(&row.receipt) else { continue };
            let frame = ReceiptFrame { from: *author, id: row.id, receipt };
            if conn.handle.out.send(frame.into()).await.is_err() {
                return Ok(false);
            }
        }
    }
}

async fn claim(
    conn: &Shared,
    recipient: PublicKey,
    limit: usize,
) -> Result<Vec<Claimed>, StoreError> {
    let now = conn.inner.net.unix_ms();
    let claim = Claim {
        mesh: conn.mesh,
        recipient,
        conn: conn.id,
        now,
        until: now.saturating_add(ms(CLAIM_LEASE)),
        limit,
    };
    conn.inner.writer.run(move |tx| Box::pin(tx.claim(claim))).await
}

/// The frame of a claimed delivery, with its author's chain the first time.
async fn push(
    conn: &Shared,
    claimed: Claimed,
    introduced: &mut HashSet<PublicKey>,
) -> Result<Frame, StoreError> {
    let mut envelope: Envelope = codec::from_msgpack(&claimed.envelope)
        .map_err(|_| StoreError::Corrupt("bodies.envelope"))?;
    if !introduced.contains(&claimed.author) {
        envelope.proof = proof(conn, &conn.mesh, &claimed.author).await?;
        if introduced.len() < INTRODUCED && envelope.proof.is_some() {
            introduced.insert(claimed.author);
        }
    }
    conn.inner.metrics.pushed.inc();
    if claimed.attempt > 1 {
        conn.inner.metrics.redelivered.inc();
    }
    let (to, accepted_at, attempt) = (claimed.recipient, claimed.accepted_at, claimed.attempt);
    Ok(MessageFrame { to, envelope, accepted_at, attempt }.into())
}

async fn proof(
    conn: &Shared,
    mesh: &MeshId,
    author: &PublicKey,
) -> Result<Option<Box<Proof>>, StoreError> {
    let Some(row) = conn.inner.store.member(mesh, author).await? else { return Ok(None) };
    let chain =
        codec::from_msgpack(&row.chain).map_err(|_| StoreError::Corrupt("members.chain"))?;
    Ok(Some(Box::new(Proof { chain, attestation: None })))
}
