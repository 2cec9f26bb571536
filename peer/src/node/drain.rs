//! Empties the outbox onto the link.
//!
//! Rows leave in order, many at a time; each one's ticket moves it on. After the link was lost, no
//! row leaves before every ticket of the old connection has come back, so that what goes again goes
//! in order again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use meshwire_signaling::frame::{code, feature};
use meshwire_signaling::{Envelope, EnvelopeId, PublicKey, Target};
use meshwire_transport::fault;
use meshwire_transport::link::{Handed, LinkError, MessageLink};
use meshwire_transport::net::jitter;
use tokio::time::Duration;

use super::events::Event;
use super::groups::without;
use super::mesh::Mesh;
use super::paths::{Carrier, DirectCarrier};
use super::seal::to_send;
use super::sessions::SESSION_ENDED;
use super::{outbox, regroup};
use crate::core::group::RecipientState;
use crate::core::outbox::{Disposition, judge, retry_delay_ms};
use crate::path::hedge::MessageKey;
use crate::store::{OutboxMeta, OutboxRow, Step, StepTo, Stepped, StoreError};

/// Rows on the link whose tickets are open.
const WINDOW: usize = 256;
/// The relay's word in API and command line.
pub(super) const RELAY: &str = "relay";
/// A direct path's.
pub(super) const DIRECT: &str = "direct";
/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// What became of one row.
struct Outcome {
    id: EnvelopeId,
    author: PublicKey,
    attempts: u32,
    end: End,
}

impl Outcome {
    /// What a direct path has taken over: whose, by which link.
    fn taken(&self) -> Option<(PublicKey, Arc<dyn MessageLink>, PublicKey, EnvelopeId)> {
        match &self.end {
            End::Direct { result: Ok(_), peer, link } => {
                Some((*peer, Arc::clone(link), self.author, self.id))
            }
            _ => None,
        }
    }
}

enum End {
    /// The link's answer.
    Link(Result<Handed, LinkError>),
    /// A direct path's answer.
    Direct { result: Result<Handed, LinkError>, peer: PublicKey, link: Arc<dyn MessageLink> },
    /// It can never go, in words: the broker cannot carry such mail, or its author has ended.
    Unfit(String),
    /// The store failed; in words.
    Later(String),
    /// Another message goes on in its place.
    Replaced,
}

/// Runs until it is dropped.
pub(super) async fn run(mesh: Arc<Mesh>) {
    let mut open = FuturesUnordered::new();
    let mut generation = 0;
    loop {
        let current = mesh.generation.load(Ordering::Acquire);
        let relay = mesh.relay_up();
        // Without the broker, what has a direct path goes.
        let only = if relay { None } else { Some(mesh.paths.reachable()) };
        let may_send = only.as_ref().is_none_or(|only| !only.is_empty())
            && (open.is_empty() || generation == current);
        let mut next = None;
        if may_send {
            generation = current;
            let only = only.as_deref();
            match take(&mesh, WINDOW - open.len().min(WINDOW), only).await {
                Ok(rows) => {
                    let full = rows.len() + open.len() >= WINDOW;
                    if !rows.is_empty() {
                        fault::pause_at(fault::ENQUEUED).await;
                    }
                    for row in rows {
                        let handed = hand(&mesh, row).await;
                        open.push(handed);
                    }
                    next = if full { None } else { until_due(&mesh, only).await };
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
                let mut outcomes = vec![outcome];
                while let Some(Some(more)) = open.next().now_or_never() {
                    outcomes.push(more);
                }
                settle(&mesh, outcomes).await;
                // Others may have to hear first why those outcomes were what they were.
                tokio::task::yield_now().await;
            }
            () = mesh.wake.notified() => {}
            () = due => {}
        }
    }
}

async fn take(
    mesh: &Mesh,
    room: usize,
    only: Option<&[PublicKey]>,
) -> Result<Vec<OutboxRow>, StoreError> {
    if room == 0 {
        return Ok(Vec::new());
    }
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    mesh.store().due(&mesh.id(), mesh.now(), room, only).await
}

/// How long until the next row is due, if one waits.
async fn until_due(mesh: &Mesh, only: Option<&[PublicKey]>) -> Option<Duration> {
    match mesh.store().next_due(&mesh.id(), mesh.now(), only).await {
        Ok(at) => at.map(|at| Duration::from_millis(at.saturating_sub(mesh.now()).max(1))),
        Err(_) => Some(RETRY),
    }
}

/// Hands one row to the link, in the order of these calls; what is left to do is in the future.
async fn hand(mesh: &Arc<Mesh>, row: OutboxRow) -> BoxFuture<'static, Outcome> {
    let (id, author, attempts) = (row.meta.id, row.meta.author, row.meta.attempts);
    if let Some(unfit) = unfit(mesh, &row.meta) {
        return async move { Outcome { id, author, attempts, end: End::Unfit(unfit) } }.boxed();
    }
    let kept = needs_care(&row.meta).then(|| row.clone());
    let carrier = mesh.carrier(&row.meta);
    let peer = row.meta.member.unwrap_or(row.meta.recipient);
    let envelope = row.envelope;
    let ticket = match carrier {
        Carrier::Direct(path) => {
            let link = Arc::clone(&path.link);
            let sending = directly(mesh.clone(), path, peer, (author, id), envelope).await;
            let end = sending.map(move |result| End::Direct { result, peer, link });
            return async move { Outcome { id, author, attempts, end: end.await } }.boxed();
        }
        Carrier::Relay { avoidable } => {
            if avoidable {
                mesh.paths.tally().relayed(envelope.body.0.len());
            }
            mesh.link.send(to_send(envelope, &author)).await
        }
        Carrier::None => Err(LinkError::Down),
    };
    let mesh = mesh.clone();
    async move {
        let result = match ticket {
            Ok(ticket) => ticket.await,
            Err(e) => Err(e),
        };
        let end = match (result, kept) {
            (Err(e @ LinkError::RecipientsChanged { .. }), Some(row)) => {
                End::Link(regroup::follow(&mesh, row, e).await)
            }
            (Err(LinkError::Refused(frame)), Some(row)) if frame.code == code::TARGET_GONE => {
                match outbox::redirect(&mesh, &row).await {
                    Ok(true) => End::Replaced,
                    Ok(false) => End::Link(Err(LinkError::Refused(frame))),
                    Err(e) => End::Later(e.to_string()),
                }
            }
            (result, _) => End::Link(result),
        };
        Outcome { id, author, attempts, end }
    }
    .boxed()
}

/// Hands a message to a direct path. A path that has no room now is waited for in the future: others have
/// other paths.
async fn directly(
    mesh: Arc<Mesh>,
    path: DirectCarrier,
    peer: PublicKey,
    message: MessageKey,
    envelope: Envelope,
) -> BoxFuture<'static, Result<Handed, LinkError>> {
    let mut sending = async move {
        let link = &path.link;
        let done = path.outlives(async {
            mesh.paths.sent(&peer, link, message, false);
            let handed = link.send(envelope).await?.await?;
            mesh.paths.sent(&peer, link, message, true);
            Ok(handed)
        });
        let done = done.await;
        if let Err(e) = &done {
            mesh.path_refused(&peer, link, message, e);
        }
        done
    }
    .boxed();
    // What is handed over leaves in the order of these calls.
    match futures_util::poll!(&mut sending) {
        Poll::Ready(done) => std::future::ready(done).boxed(),
        Poll::Pending => sending,
    }
}

/// Whether a refusal may ask for the row once more.
fn needs_care(meta: &OutboxMeta) -> bool {
    !matches!(meta.target, Target::Member { .. })
}

/// Why such a row can never go, in words: its author has ended, or the broker lacks what it needs.
pub(super) fn unfit(mesh: &Mesh, meta: &OutboxMeta) -> Option<String> {
    if !mesh.speaks_as(&meta.author) {
        // It was written in the moment of its author's end.
        return Some(SESSION_ENDED.to_owned());
    }
    let needs = [
        (matches!(meta.target, Target::Group { .. }), feature::GROUPS),
        (meta.author != mesh.row.self_key, feature::DELEGATES),
    ];
    let lacks = |f: &str| mesh.broker_has(f) == Some(false);
    let missing = needs.into_iter().find(|(needed, f)| *needed && lacks(f))?.1;
    Some(format!("the broker lacks {missing}: {}", without(missing)))
}

/// Moves rows on, in one transaction, and tells of it.
async fn settle(mesh: &Mesh, outcomes: Vec<Outcome>) {
    let taken: Vec<_> = outcomes.iter().filter_map(Outcome::taken).collect();
    let steps: Vec<Authored> = outcomes.into_iter().flat_map(|o| steps(mesh, o)).collect();
    write(mesh, &steps).await;
    // A path that has ended meanwhile has had its messages sent again already: before these were its.
    let over = taken.into_iter().filter(|(peer, link, ..)| !mesh.paths.is_live(peer, link));
    let again = |id| Step {
        mesh: mesh.id(),
        id,
        to: StepTo::Retry { next_attempt_at: mesh.now(), reason: LinkError::Down.to_string() },
    };
    let steps: Vec<Authored> = over.map(|(_, _, author, id)| (author, again(id))).collect();
    if !steps.is_empty() {
        write(mesh, &steps).await;
    }
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
