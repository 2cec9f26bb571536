//! Empties the outbox onto the link.
//!
//! Rows leave in order, many at a time; each one's ticket moves it on. After the link was lost, no
//! row leaves before every ticket of the old connection has come back, so that what goes again goes
//! in order again. A direct path that has its share of the window gets no more until it answers.

mod hand;
mod load;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use meshwire_signaling::PublicKey;
use meshwire_signaling::frame::code;
use meshwire_transport::fault;
use meshwire_transport::link::LinkError;
use meshwire_transport::net::jitter;
use tokio::time::Duration;

#[cfg(test)]
pub(super) use hand::unfit;
use hand::{End, Handing, Outcome};
use load::{Alarm, Load, Open};

use super::events::Event;
use super::mesh::Mesh;
use crate::core::group::RecipientState;
use crate::core::outbox::{Disposition, judge, retry_delay_ms};
use crate::store::{OutboxRow, Pick, Step, StepTo, Stepped, StoreError};

/// Rows on the links whose tickets are open.
const WINDOW: usize = 256;
/// Rows taken at once: how far a path may exceed its share.
const CHUNK: usize = 32;
/// The relay's word in API and command line.
pub(super) const RELAY: &str = "relay";
/// A direct path's.
pub(super) const DIRECT: &str = "direct";
/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);
/// After which time the store is asked for the next row all the same: the wall clock may have been set
/// back, or a row has become due because the one before it has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What takes rows away.
#[async_trait]
trait Carry: Sync {
    /// For whom there is a way; none: for everybody.
    fn reachable(&self) -> Option<Vec<PublicKey>>;
    /// Hands a row to its link, in the order of these calls.
    async fn hand(&self, row: OutboxRow) -> Handing;
}

#[async_trait]
impl Carry for Arc<Mesh> {
    fn reachable(&self) -> Option<Vec<PublicKey>> {
        // Without the broker, what has a direct path goes.
        if self.relay_up() { None } else { Some(self.paths.reachable()) }
    }

    async fn hand(&self, row: OutboxRow) -> Handing {
        hand::hand(self, row).await
    }
}

/// Runs until it is dropped.
pub(super) async fn run(mesh: Arc<Mesh>) {
    pump(&mesh, &mesh).await;
}

async fn pump(mesh: &Mesh, links: &impl Carry) {
    let mut open = FuturesUnordered::new();
    let mut load = Load::default();
    let mut generation = 0;
    let mut whose = Open::default();
    let mut alarm = Alarm::Unknown;
    loop {
        let current = mesh.generation.load(Ordering::Acquire);
        let now_open = Open { only: links.reachable(), busy: load.busy() };
        if now_open != whose {
            (whose, alarm) = (now_open, Alarm::Unknown);
        }
        let may_send = whose.only.as_ref().is_none_or(|only| !only.is_empty())
            && (open.is_empty() || generation == current);
        let mut next = None;
        if may_send {
            generation = current;
            let room = WINDOW.saturating_sub(open.len()).min(CHUNK);
            match take(mesh, room, whose.pick()).await {
                Ok(rows) => {
                    let more = rows.len() == room;
                    if !rows.is_empty() {
                        fault::pause_at(fault::ENQUEUED).await;
                    }
                    for row in rows {
                        let (path, handed) = links.hand(row).await;
                        if let Some(peer) = path {
                            load.handed(peer);
                        }
                        open.push(handed);
                    }
                    if more && open.len() < WINDOW {
                        // What has been answered meanwhile makes room first.
                        if let Some(Some(outcome)) = open.next().now_or_never() {
                            settle_all(mesh, outcome, &mut open, &mut load, &mut alarm).await;
                        }
                        tokio::task::yield_now().await;
                        continue;
                    }
                    if !more {
                        next = Some(until_due(mesh, whose.pick(), &mut alarm).await);
                    }
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
            biased;
            Some(outcome) = open.next() => {
                settle_all(mesh, outcome, &mut open, &mut load, &mut alarm).await;
                // Others may have to hear first why those outcomes were what they were.
                tokio::task::yield_now().await;
            }
            () = mesh.wake.notified() => {}
            () = due => alarm = Alarm::Unknown,
        }
    }
}

/// Settles an outcome with all that have come meanwhile.
async fn settle_all(
    mesh: &Mesh,
    first: Outcome,
    open: &mut FuturesUnordered<BoxFuture<'static, Outcome>>,
    load: &mut Load,
    alarm: &mut Alarm,
) {
    let mut outcomes = vec![first];
    while let Some(Some(more)) = open.next().now_or_never() {
        outcomes.push(more);
    }
    for outcome in &outcomes {
        if let End::Direct { peer, .. } = &outcome.end {
            load.answered(peer);
        }
    }
    if settle(mesh, outcomes).await {
        *alarm = Alarm::Unknown;
    }
}

async fn take(mesh: &Mesh, room: usize, pick: Pick<'_>) -> Result<Vec<OutboxRow>, StoreError> {
    if room == 0 {
        return Ok(Vec::new());
    }
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    mesh.store().due(&mesh.id(), mesh.now(), room, pick).await
}

/// How long until the next row is due, or the store is to be asked again.
async fn until_due(mesh: &Mesh, pick: Pick<'_>, alarm: &mut Alarm) -> Duration {
    let at = match alarm {
        Alarm::At(at) => *at,
        Alarm::Unknown => match mesh.store().next_due(&mesh.id(), mesh.now(), pick).await {
            Ok(at) => {
                *alarm = Alarm::At(at);
                at
            }
            Err(_) => return RETRY,
        },
    };
    let until = |at: u64| Duration::from_millis(at.saturating_sub(mesh.now()).max(1));
    at.map_or(LOOK_AGAIN, until).min(LOOK_AGAIN)
}

/// Moves rows on, in one transaction, and tells of it. Says whether one of them is to be tried again.
async fn settle(mesh: &Mesh, outcomes: Vec<Outcome>) -> bool {
    let taken: Vec<_> = outcomes.iter().filter_map(Outcome::taken).collect();
    let steps: Vec<Authored> = outcomes.into_iter().flat_map(|o| steps(mesh, o)).collect();
    let again = steps.iter().any(|(_, step)| matches!(step.to, StepTo::Retry { .. }));
    write(mesh, &steps).await;
    // A path that has ended meanwhile has had its messages sent again already: before these were its.
    let over = taken.into_iter().filter(|(peer, link, ..)| !mesh.paths.is_live(peer, link));
    let now = |id| Step {
        mesh: mesh.id(),
        id,
        to: StepTo::Retry { next_attempt_at: mesh.now(), reason: LinkError::Down.to_string() },
    };
    let steps: Vec<Authored> = over.map(|(_, _, author, id)| (author, now(id))).collect();
    if !steps.is_empty() {
        write(mesh, &steps).await;
    }
    again
}

async fn write(mesh: &Mesh, steps: &[Authored]) {
    while let Err(e) = apply(mesh, steps).await {
        tracing::error!(error = %e, "the outbox cannot be written");
        tokio::time::sleep(RETRY).await;
    }
}

fn steps(mesh: &Mesh, outcome: Outcome) -> Vec<Authored> {
    let Outcome { id, author, attempts, end } = outcome;
    let to = |to| (author, Step { mesh: mesh.id(), id, to });
    let now = mesh.now();
    match end {
        End::Replaced => Vec::new(),
        End::Unfit(reason) => vec![to(StepTo::Failed { reason })],
        End::Later(reason) => vec![to(again(mesh, attempts, None, reason))],
        // Even `delivered` counts only with the recipient's receipt, which the broker keeps for us.
        End::Link(Ok(handed)) => {
            let path = RELAY.to_owned();
            let full = handed.full.into_iter().map(|key| StepTo::Recipient {
                key,
                to: RecipientState::Failed,
                reason: Some(code::QUEUE_FULL.to_owned()),
                at: now,
            });
            [StepTo::Relayed { at: now, path }].into_iter().chain(full).map(to).collect()
        }
        End::Direct { result: Ok(_), .. } => {
            vec![to(StepTo::Sent { at: now, path: DIRECT.to_owned() })]
        }
        // It goes over the relay, if there is one.
        End::Direct { result: Err(error), .. } if mesh.relay_up() => {
            vec![to(StepTo::Retry { next_attempt_at: now, reason: error.to_string() })]
        }
        End::Direct { result: Err(error), .. } => {
            vec![to(again(mesh, attempts, None, error.to_string()))]
        }
        End::Link(Err(error)) => vec![to(refused(mesh, attempts, &error))],
    }
}

fn refused(mesh: &Mesh, attempts: u32, error: &LinkError) -> StepTo {
    let now = mesh.now();
    match judge(error) {
        Disposition::Wait => StepTo::Retry { next_attempt_at: now, reason: error.to_string() },
        Disposition::Retry { after_ms, reason } => again(mesh, attempts, after_ms, reason),
        Disposition::Expire => StepTo::Expired { reason: "broker".to_owned() },
        Disposition::Fail { reason } => StepTo::Failed { reason },
    }
}

/// The next try, after the back-off.
fn again(mesh: &Mesh, attempts: u32, after_ms: Option<u64>, reason: String) -> StepTo {
    let random = jitter(mesh.services.net.as_ref(), u64::MAX);
    let delay = retry_delay_ms(attempts, after_ms, random);
    StepTo::Retry { next_attempt_at: mesh.now().saturating_add(delay), reason }
}

/// A step of a message, with our identity that wrote it.
pub(super) type Authored = (PublicKey, Step);

/// Applies steps and tells of those that changed something.
pub(super) async fn apply(mesh: &Mesh, steps: &[Authored]) -> Result<Vec<Stepped>, StoreError> {
    let bare: Vec<Step> = steps.iter().map(|(_, step)| step.clone()).collect();
    let done = mesh.store().step(&bare).await?;
    if steps.iter().any(|(author, _)| mesh.ended(author)) {
        // That may have been the last of its mail.
        mesh.announce.notify_one();
    }
    for ((author, step), outcome) in steps.iter().zip(&done) {
        let state = match (outcome, step.to.state()) {
            (Stepped::Done { .. }, Some(state)) => state,
            (Stepped::Recipient { state }, _) => *state,
            _ => continue,
        };
        let reason = match &step.to {
            StepTo::Retry { reason, .. }
            | StepTo::Expired { reason }
            | StepTo::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        tracing::debug!(
            target: "meshwire::events::outbox",
            mesh = %mesh.id().short(), id = %step.id, state = state.as_str(), reason
        );
        let (mesh_id, id, author) = (step.mesh, step.id, *author);
        mesh.services.tell(Event::Outbox { mesh: mesh_id, id, author, state, reason });
    }
    Ok(done)
}
