//! The task behind presence: ends graces in time, and remembers who is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{HelloBody, Lease, ResumeToken};
use meshwire_signaling::limits::ms;
use meshwire_signaling::sign::{Signed, domains};
use tokio::sync::oneshot;
use tokio::time::Duration;

use super::Guest;
use super::registry::LeaseOp;
use crate::core::presence::Attached;
use crate::metrics::Outcome;
use crate::serve::Inner;
use crate::store::StoreError;

/// How long to wait after the database failed.
const RETRY: Duration = Duration::from_secs(1);

/// Takes up who was there in the broker's last run, whoever comes back in time was never gone.
pub(crate) async fn restore(inner: &Inner) -> Result<(), StoreError> {
    let rows = inner.store.leases().await?;
    let members: BTreeSet<_> = rows.iter().map(|row| (row.mesh, row.member)).collect();
    for (mesh, member) in members {
        let hidden = inner.store.member(&mesh, &member).await?.is_some_and(|m| m.hidden);
        inner.registry.set_hidden(&mesh, &member, hidden);
    }
    inner.registry.restore(rows, inner.tick());
    Ok(())
}

/// Runs until `stop` or its sender's end; what has changed by then is remembered.
pub(crate) async fn run(inner: Arc<Inner>, mut stop: oneshot::Receiver<()>) {
    // The last word on each identity: whatever came before it need not be written.
    let mut waiting = BTreeMap::new();
    loop {
        let (next, ops) = inner.registry.poll(&inner);
        waiting.extend(ops.into_iter().map(|op| (op.identity(), op)));
        let leases = i64::try_from(inner.registry.in_grace()).unwrap_or(i64::MAX);
        inner.metrics.in_grace.set(leases);
        let mut wait = next.map(|at| Duration::from_millis(at.saturating_sub(inner.tick())));
        if !waiting.is_empty() {
            if remember(&inner, waiting.values().cloned().collect()).await {
                waiting.clear();
            } else {
                wait = Some(wait.unwrap_or(RETRY).min(RETRY));
            }
        }
        let pause = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = inner.registry.changed.notified() => {}
            () = pause => {}
        }
    }
    waiting.extend(inner.registry.poll(&inner).1.into_iter().map(|op| (op.identity(), op)));
    if !waiting.is_empty() {
        remember(&inner, waiting.into_values().collect()).await;
    }
}

/// Writes what has changed; whether that could be done.
async fn remember(inner: &Inner, ops: Vec<LeaseOp>) -> bool {
    let written = inner
        .writer
        .run(move |tx| {
            Box::pin(async move {
                for op in &ops {
                    match op {
                        LeaseOp::Put(row) => tx.lease_put(row).await?,
                        LeaseOp::End(mesh, key) => tx.lease_end(mesh, key).await?,
                    }
                }
                Ok(())
            })
        })
        .await;
    if let Err(e) = &written {
        tracing::error!(error = %e, "who is there could not be remembered");
    }
    written.is_ok()
}

/// What the ack says of a connection's lease.
pub(super) fn lease(inner: &Inner, guest: &Guest, attached: &Attached) -> Lease {
    let ttl_ms = ms(inner.policy.lease);
    let token = ResumeToken {
        mesh: guest.attach.mesh,
        key: guest.attach.key,
        instance: guest.attach.instance,
        lease: attached.lease,
        expires_at: inner.net.unix_ms().saturating_add(ttl_ms),
    };
    let token = Signed::new(&inner.key, domains::RESUME, &token);
    Lease { ttl_ms, resumed: attached.resumed, token }
}

/// Counts what became of a hello's resume token, which grants nothing: the hello has proven key,
/// member and instance by itself, and they alone find the lease.
pub(super) fn note_resume(inner: &Inner, body: &HelloBody, attached: &Attached) {
    let Some(token) = &body.resume else { return };
    let holds = token.open::<ResumeToken>(&inner.key.public(), domains::RESUME).is_ok_and(|t| {
        (t.mesh, t.key, t.instance) == (body.mesh, body.key, body.instance)
            && t.lease == attached.lease
    });
    let outcome = if holds { "held" } else { "ignored" };
    inner.metrics.resumes.get_or_create(&Outcome { outcome }).inc();
    if !holds {
        tracing::debug!(
            target: "meshwire::events::presence::resume_ignored",
            mesh = %body.mesh.short(), member = body.kind == IdentityKind::Member,
        );
    }
}
