//! Claims what waits for a connection's identities and pushes it, a window at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshwire_signaling::attest::Attestation;
use meshwire_signaling::envelope::{Envelope, Proof};
use meshwire_signaling::frame::{Drained, Frame, MessageFrame, ReceiptFrame, Resync};
use meshwire_signaling::limits::{CLAIM_LEASE, ms};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{Priority, PublicKey, codec};
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
    let mut served = HashSet::new();
    let mut drained = false;
    loop {
        let done = match give_back(&conn, &mut served).await {
            Ok(()) => round(&conn, &mut introduced, &mut served, &mut drained).await,
            Err(e) => Err(e),
        };
        let wait = match done {
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
            biased;
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

/// An identity that has moved to another connection takes its mail along: also what was claimed for it here,
/// perhaps while it moved, and has no answer. `served` are those for whom something was claimed.
async fn give_back(conn: &Shared, served: &mut HashSet<PublicKey>) -> Result<(), StoreError> {
    let registry = &conn.inner.registry;
    let moved =
        |key: &PublicKey| !registry.speaks_for(conn.id, key) && registry.connected(&conn.mesh, key);
    let gone: Vec<PublicKey> = served.iter().copied().filter(moved).collect();
    for recipient in gone {
        let (id, mesh) = (conn.id, conn.mesh);
        let job = conn
            .inner
            .writer
            .run(move |tx| Box::pin(async move { tx.release_for(id, &mesh, &recipient).await }));
        if job.await? > 0 {
            registry.wake(&conn.mesh, &recipient);
        }
        served.remove(&recipient);
    }
    Ok(())
}

async fn round(
    conn: &Shared,
    introduced: &mut HashSet<PublicKey>,
    served: &mut HashSet<PublicKey>,
    drained: &mut bool,
) -> Result<Step, StoreError> {
    if conn.handle.news_lost.swap(false, Ordering::AcqRel)
        && conn.handle.out.send(Arc::new(Resync {}.into())).await.is_err()
    {
        return Ok(Step::Gone);
    }
    if conn.handle.orphans.swap(false, Ordering::AcqRel) {
        let now = conn.inner.net.unix_ms();
        let ended = conn.inner.store.ended_with_mail(&conn.mesh, &conn.member, now).await?;
        *conn.orphans() = ended;
    }
    let identities = conn.inner.registry.identities(conn.id);
    if conn.handle.receipts.swap(false, Ordering::AcqRel) {
        for author in &identities {
            if !receipts(conn, author).await? {
                return Ok(Step::Gone);
            }
        }
    }
    // What waits for the member's ended sessions is its node's to answer.
    let mut orphans = conn.orphans().clone();
    orphans.retain(|key| !conn.inner.registry.connected(&conn.mesh, key));
    let identities: Vec<PublicKey> = identities.into_iter().chain(orphans).collect();
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
        let batch = claim(conn, recipient, limit, urgent_only(conn, &recipient)).await?;
        if !batch.is_empty() {
            served.insert(recipient);
            fault::pause_at(fault::CLAIMED).await;
        }
        for claimed in batch {
            pushed = true;
            // In the window before it can be answered.
            conn.window().pushed((claimed.author, claimed.id, recipient), now);
            let frame = push(conn, claimed, introduced).await?;
            if conn.handle.out.send(Arc::new(frame)).await.is_err() {
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
        let urgent = urgent_only(conn, recipient);
        let store = &conn.inner.store;
        let waiting = store.waiting(&conn.mesh, recipient, conn.id, urgent, now).await?;
        if waiting.next.is_none() {
            // Nothing more comes for who has ended.
            conn.orphans().retain(|key| key != recipient);
        }
        next = next.into_iter().chain(waiting.next).min();
        elsewhere |= waiting.elsewhere;
    }
    if !*drained && !elsewhere {
        *drained = true;
        if conn.handle.out.send(Arc::new(Drained {}.into())).await.is_err() {
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
            if conn.handle.out.send(Arc::new(frame.into())).await.is_err() {
                return Ok(false);
            }
        }
    }
}

/// Whether an identity is to be disturbed only by what is urgent: by its status, where the program
/// behind it does not see to that itself (design section 5.8).
fn urgent_only(conn: &Shared, recipient: &PublicKey) -> bool {
    let about = || conn.inner.registry.about(&conn.mesh, recipient);
    !conn.gates && about().is_some_and(|a| !a.status.lets(Priority::Next))
}

async fn claim(
    conn: &Shared,
    recipient: PublicKey,
    limit: usize,
    urgent_only: bool,
) -> Result<Vec<Claimed>, StoreError> {
    let now = conn.inner.net.unix_ms();
    let claim = Claim {
        mesh: conn.mesh,
        recipient,
        conn: conn.id,
        now,
        until: now.saturating_add(ms(CLAIM_LEASE)),
        limit,
        urgent_only,
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
    if let Some(attestation) = &claimed.attestation {
        // Each mail of a session has its own: as it was when it was written.
        envelope.proof = attested(conn, attestation).await?;
    } else if !introduced.contains(&claimed.author) {
        envelope.proof = proof(conn, &claimed.author, None).await?;
        if introduced.len() < INTRODUCED && envelope.proof.is_some() {
            introduced.insert(claimed.author);
        }
    }
    if let Some(wrap) = &claimed.wrap {
        let corrupt = |_| StoreError::Corrupt("deliveries.wrap");
        envelope.wraps = vec![codec::from_msgpack(wrap).map_err(corrupt)?];
    }
    conn.inner.metrics.pushed.inc();
    if claimed.attempt > 1 {
        conn.inner.metrics.redelivered.inc();
    }
    let (to, accepted_at, attempt) = (claimed.recipient, claimed.accepted_at, claimed.attempt);
    Ok(MessageFrame { to, envelope, accepted_at, attempt }.into())
}

async fn attested(conn: &Shared, bytes: &[u8]) -> Result<Option<Box<Proof>>, StoreError> {
    let corrupt = || StoreError::Corrupt("bodies.attestation");
    let signed: Signed = codec::from_msgpack(bytes).map_err(|_| corrupt())?;
    let member = signed.peek::<Attestation>().map_err(|_| corrupt())?.member;
    proof(conn, &member, Some(signed)).await
}

async fn proof(
    conn: &Shared,
    member: &PublicKey,
    attestation: Option<Signed>,
) -> Result<Option<Box<Proof>>, StoreError> {
    let Some(row) = conn.inner.store.member(&conn.mesh, member).await? else { return Ok(None) };
    let chain =
        codec::from_msgpack(&row.chain).map_err(|_| StoreError::Corrupt("members.chain"))?;
    Ok(Some(Box::new(Proof { chain, attestation })))
}
