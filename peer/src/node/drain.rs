//! Empties the outbox onto the link.
//!
//! Rows leave in order, many at a time; each one's ticket moves it on. After the link was lost, no
//! row leaves before every ticket of the old connection has come back, so that what goes again goes
//! in order again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use meshwire_signaling::EnvelopeId;
use meshwire_transport::fault;
use meshwire_transport::link::{Handed, LinkError, MessageLink as _, PathKind};
use meshwire_transport::net::jitter;
use tokio::time::Duration;

use super::events::Event;
use super::mesh::Mesh;
use crate::core::outbox::{Disposition, judge, retry_delay_ms};
use crate::store::{OutboxRow, Step, StepTo, Stepped, StoreError};

/// Rows on the link whose tickets are open.
const WINDOW: usize = 256;
/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// What became of one row.
struct Outcome {
    id: EnvelopeId,
    attempts: u32,
    result: Result<Handed, LinkError>,
}

/// Runs until it is dropped.
pub(super) async fn run(mesh: Arc<Mesh>) {
    let mut open = FuturesUnordered::new();
    let mut generation = 0;
    loop {
        let current = mesh.generation.load(Ordering::Acquire);
        let may_send =
            mesh.is_up() && mesh.link.is_up() && (open.is_empty() || generation == current);
        let mut next = None;
        if may_send {
            generation = current;
            match take(&mesh, WINDOW - open.len().min(WINDOW)).await {
                Ok(rows) => {
                    let full = rows.len() + open.len() >= WINDOW;
                    if !rows.is_empty() {
                        fault::pause_at(fault::ENQUEUED).await;
                    }
                    for row in rows {
                        let (id, attempts) = (row.meta.id, row.meta.attempts);
                        let ticket = mesh.link.send(row.envelope).await;
                        open.push(async move {
                            let result = match ticket {
                                Ok(ticket) => ticket.await,
                                Err(e) => Err(e),
                            };
                            Outcome { id, attempts, result }
                        });
                    }
                    next = if full { None } else { until_due(&mesh).await };
                }
                Err(e) => {
                    tracing::error!(error = %e, "the outbox cannot be read");
                    next = Some(RETRY);
                }
            }
        }
        let due = async {
            match next {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(outcome) = open.next() => {
                let mut outcomes = vec![outcome];
                while let Some(Some(more)) = open.next().now_or_never() {
                    outcomes.push(more);
                }
                settle(&mesh, outcomes).await;
            }
            () = mesh.wake.notified() => {}
            () = due => {}
        }
    }
}

async fn take(mesh: &Mesh, room: usize) -> Result<Vec<OutboxRow>, StoreError> {
    if room == 0 {
        return Ok(Vec::new());
    }
    mesh.store().due(&mesh.id(), mesh.now(), u32::try_from(room).unwrap_or(u32::MAX)).await
}

/// How long until the next row is due, if one waits.
async fn until_due(mesh: &Mesh) -> Option<Duration> {
    match mesh.store().next_due(&mesh.id(), mesh.now()).await {
        Ok(at) => at.map(|at| Duration::from_millis(at.saturating_sub(mesh.now()).max(1))),
        Err(_) => Some(RETRY),
    }
}

/// Moves rows on, in one transaction, and tells of it.
async fn settle(mesh: &Mesh, outcomes: Vec<Outcome>) {
    let steps: Vec<Step> = outcomes
        .into_iter()
        .map(|o| Step { mesh: mesh.id(), id: o.id, to: step(mesh, o.attempts, o.result) })
        .collect();
    while let Err(e) = apply(mesh, &steps).await {
        tracing::error!(error = %e, "the outbox cannot be written");
        tokio::time::sleep(RETRY).await;
    }
}

fn step(mesh: &Mesh, attempts: u32, result: Result<Handed, LinkError>) -> StepTo {
    let now = mesh.now();
    let path = path_word(mesh.link.kind()).to_owned();
    let error = match result {
        // Even `delivered` counts only with the recipient's receipt, which the broker keeps for us.
        Ok(_) => return StepTo::Relayed { at: now, path },
        Err(error) => error,
    };
    match judge(&error) {
        Disposition::Wait => StepTo::Retry { next_attempt_at: now, reason: error.to_string() },
        Disposition::Retry { after_ms, reason } => {
            let random = jitter(mesh.services.net.as_ref(), u64::MAX);
            let delay = retry_delay_ms(attempts, after_ms, random);
            StepTo::Retry { next_attempt_at: now.saturating_add(delay), reason }
        }
        Disposition::Expire => StepTo::Expired { reason: "broker".to_owned() },
        Disposition::Fail { reason } => StepTo::Failed { reason },
    }
}

/// A path's word in API and command line.
fn path_word(kind: PathKind) -> &'static str {
    match kind {
        PathKind::Memory => "memory",
        _ => "relay",
    }
}

/// Applies steps and tells of those that changed something.
pub(super) async fn apply(mesh: &Mesh, steps: &[Step]) -> Result<(), StoreError> {
    let done = mesh.store().step(steps).await?;
    for (step, outcome) in steps.iter().zip(done) {
        if let Stepped::Done { .. } = outcome {
            let reason = match &step.to {
                StepTo::Retry { reason, .. }
                | StepTo::Expired { reason }
                | StepTo::Failed { reason } => Some(reason.clone()),
                _ => None,
            };
            let state = step.to.state();
            tracing::debug!(
                target: "meshwire::events::outbox",
                mesh = %mesh.id().short(), id = %step.id, state = state.as_str(), reason
            );
            mesh.services.tell(Event::Outbox { mesh: step.mesh, id: step.id, state, reason });
        }
    }
    Ok(())
}
