//! The reading half: what a node asks for.

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use meshwire_signaling::attest::{Attestation, IdentityKind};
use meshwire_signaling::codec::{self, CodecError, Encoding};
use meshwire_signaling::frame::{
    Accepted, Bind, Bound, ClientAck, ClientNack, Disconnect, ErrorFrame, Frame, FrameError,
    Goaway, InviteCreate, InviteList, InviteRevoke, Ok as OkFrame, Send, SetGroup, Unbind, close,
    code,
};
use meshwire_signaling::limits::{CLAIM_LEASE, MAX_WRAPS, STALE_AFTER, ms};
use meshwire_signaling::receipt::{MAX_REASON, Receipt, Verdict};
use meshwire_signaling::stream::carry::BadCarry;
use meshwire_signaling::{Priority, PublicKey};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::bulk::Taken;
use super::complete::{Accept, Completion, unavailable};
use super::handshake::{frame, known_code};
use super::registry::Shared;
use super::{Close, STALE, Socket, admin, bulk, p2p, peers};
use crate::config::Mutant;
use crate::core::accept::{self, Author, Recipients};
use crate::core::again;
use crate::core::batch::too_many;
use crate::core::hello::check_bind;
use crate::core::presence::{Bind as Held, MAX_PER_MEMBER, Refused};
use crate::http::invites;
use crate::metrics::Reason;
use crate::store::{DeliveryRef, Vouched};

/// Undecodable frames after which a connection is closed: a broken client, or a probing one.
const MAX_MALFORMED: u32 = 32;

/// Wraps of a group send that count as one request.
const WRAPS_PER_TOKEN: u64 = 20;

type Due = mpsc::Sender<Completion>;

/// Reads until the socket ends, goes stale, or is closed from our side. Returns how to close it.
pub(super) async fn run(
    conn: &Shared,
    mut stream: SplitStream<Socket>,
    encoding: Encoding,
    due: Due,
) -> Option<Close> {
    let mut closing = conn.handle.close.subscribe();
    let mut stopping = conn.inner.stopping.clone();
    let mut malformed = 0;
    let mut routes = bulk::Routes::new(conn);
    loop {
        let next = tokio::select! {
            biased;
            () = async { drop(closing.wait_for(Option::is_some).await) } => return None,
            () = async { drop(stopping.wait_for(|s| *s).await) } => {
                let retry_after_ms = again::RESTARTED;
                let goaway = Goaway { reason: "shutting down".into(), retry_after_ms };
                let _ = due.send(Completion::Ready(goaway.into())).await;
                return Some((close::GOING_AWAY, "shutting down".into()));
            }
            next = tokio::time::timeout(STALE_AFTER, stream.next()) => next,
        };
        if next.is_ok() {
            conn.heard.store(conn.tick(), Ordering::Relaxed);
        }
        let msg = match next {
            Err(_) => return Some((close::NORMAL, STALE.into())),
            Ok(None) => return None,
            Ok(Some(Err(WsError::Capacity(_)))) => {
                return Some((close::TOO_BIG, "frame too large".into()));
            }
            Ok(Some(Err(WsError::Utf8(_)))) => return Some((close::NOT_TEXT, "not UTF-8".into())),
            Ok(Some(Err(WsError::Protocol(e)))) => {
                return Some((close::PROTOCOL, e.to_string()));
            }
            Ok(Some(Err(_) | Ok(Message::Close(_)))) => return None,
            Ok(Some(Ok(msg))) => msg,
        };
        let carried = bulk::concerns(conn, &msg)
            .map(|(desk, bytes)| bulk::take(conn, desk, &mut routes, bytes).map_err(unreadable));
        let read = match carried {
            Some(Ok(Taken::Done)) => continue,
            Some(Ok(Taken::Deaf)) => {
                conn.inner.metrics.slow_consumers.inc();
                return Some((close::SLOW_CONSUMER, "slow_consumer".into()));
            }
            Some(Err(e)) => Some(Err(e)),
            None => frame(&msg, encoding),
        };
        let answer = match read {
            None => continue,
            Some(Ok(frame)) => handle(conn, frame, &due).await,
            // A newer node may ask for what we do not know: that is no fault, but not free either.
            Some(Err(e @ FrameError::UnknownType { .. })) => {
                let unknown = undecodable(&e);
                let req = unknown.req;
                Some(allowed(conn).err().unwrap_or(unknown).to_req(req).into())
            }
            Some(Err(e)) => {
                malformed += 1;
                conn.inner.metrics.malformed.inc();
                if malformed > MAX_MALFORMED {
                    return Some((close::REFUSED, code::MALFORMED.into()));
                }
                Some(undecodable(&e).into())
            }
        };
        if let Some(answer) = answer
            && due.send(Completion::Ready(answer)).await.is_err()
        {
            return None;
        }
    }
}

fn unreadable(e: BadCarry) -> FrameError {
    FrameError::Malformed { req: None, error: CodecError::Invalid(e.to_string()) }
}

fn undecodable(e: &FrameError) -> ErrorFrame {
    let (code, req) = match e {
        FrameError::UnknownType { req, .. } => (code::UNKNOWN_TYPE, *req),
        FrameError::Malformed { req, .. } => (code::MALFORMED, *req),
        _ => (code::MALFORMED, None),
    };
    ErrorFrame::permanent(code, e.to_string()).to_req(req)
}

/// Handles one frame; what can be answered at once is returned.
async fn handle(conn: &Shared, frame: Frame, due: &Due) -> Option<Frame> {
    if let Some(req) = request(&frame)
        && let Err(error) = allowed(conn)
    {
        return Some(error.to_req(Some(req)).into());
    }
    if let Frame::Bind(Bind { req, .. })
    | Frame::Unbind(Unbind { req, .. })
    | Frame::SetGroup(SetGroup { req, .. })
    | Frame::Disconnect(Disconnect { req, .. })
    | Frame::InviteCreate(InviteCreate { req, .. })
    | Frame::InviteList(InviteList { req })
    | Frame::InviteRevoke(InviteRevoke { req, .. }) = &frame
        && let Err(refused) = member_only(conn, *req)
    {
        return Some(refused.into());
    }
    match frame {
        Frame::Send(send) => self::send(conn, send, due).await,
        Frame::ClientAck(ack) => client_ack(conn, ack, due).await,
        Frame::ClientNack(nack) => client_nack(conn, nack, due).await,
        Frame::ReceiptAck(ack) => {
            if conn.inner.registry.speaks_for(conn.id, &ack.from)
                && conn.inner.take_answer(conn.mesh, conn.member)
            {
                let d = DeliveryRef {
                    mesh: conn.mesh,
                    author: ack.from,
                    id: ack.id,
                    recipient: ack.by,
                };
                let job = conn
                    .inner
                    .writer
                    .submit(move |tx| Box::pin(async move { tx.confirm(&d).await }));
                // Nobody waits for this: an unconfirmed receipt comes again.
                drop(job.await);
            }
            None
        }
        Frame::Bind(bind) => Some(self::bind(conn, bind).await),
        Frame::ListPeers(ask) => Some(peers::list(conn, &ask).await),
        Frame::Unbind(ask) => Some(reply(ask.req, admin::unbind(conn, ask).await)),
        Frame::SetPresence(ask) => {
            let req = ask.req;
            Some(reply(req, admin::set_presence(conn, ask).await))
        }
        Frame::SetGroup(ask) => {
            let req = ask.req;
            Some(reply(req, admin::set_group(conn, ask).await))
        }
        Frame::Disconnect(ask) => {
            let req = ask.req;
            Some(reply(req, admin::disconnect(conn, ask).await))
        }
        Frame::P2pOffer(f) => Some(p2p::carry(conn, f.req, f.into()).await),
        Frame::P2pAnswer(f) => Some(p2p::carry(conn, f.req, f.into()).await),
        Frame::P2pCandidate(f) => Some(p2p::carry(conn, f.req, f.into()).await),
        Frame::P2pBye(f) => Some(p2p::carry(conn, f.req, f.into()).await),
        Frame::TurnCredentials(ask) => Some(p2p::turn(conn, &ask)),
        Frame::Bye(_) => {
            // The first costs nothing: who has used up its rate leaves all the same.
            if !conn.left.swap(true, Ordering::Relaxed) || allowed(conn).is_ok() {
                conn.inner.registry.bye(conn);
            }
            None
        }
        Frame::InviteCreate(ask) => {
            Some(reply(ask.req, invites::create(&conn.inner, conn.mesh, conn.member, ask).await))
        }
        Frame::InviteList(ask) => {
            Some(reply(ask.req, invites::list(&conn.inner, conn.mesh, conn.member, ask.req).await))
        }
        Frame::InviteRevoke(ask) => {
            Some(reply(ask.req, invites::revoke(&conn.inner, conn.mesh, conn.member, &ask).await))
        }
        // Errors are never answered with errors.
        Frame::Error(_) => None,
        Frame::Hello(_) => {
            let text = "this connection has said hello";
            Some(ErrorFrame::permanent(code::NO_HELLO, text).into())
        }
        other => {
            let text = format!("{:?} goes from broker to node only", other.kind());
            Some(ErrorFrame::permanent(code::UNSUPPORTED, text).into())
        }
    }
}

/// The number of a request that counts against the member's rate; answers have a rate of their own.
fn request(frame: &Frame) -> Option<u64> {
    match frame {
        Frame::Bind(f) => Some(f.req),
        Frame::Unbind(f) => Some(f.req),
        Frame::SetPresence(f) => Some(f.req),
        Frame::SetGroup(f) => Some(f.req),
        Frame::Disconnect(f) => Some(f.req),
        Frame::ListPeers(f) => Some(f.req),
        Frame::InviteCreate(f) => Some(f.req),
        Frame::InviteList(f) => Some(f.req),
        Frame::InviteRevoke(f) => Some(f.req),
        _ => None,
    }
}

/// Only a member itself manages invites and binds further identities: a session's capabilities may
/// be narrower than its member's.
fn member_only(conn: &Shared, req: u64) -> Result<(), ErrorFrame> {
    if conn.kind == IdentityKind::Member {
        return Ok(());
    }
    let text = "only a member's own connection may ask for this, not a session's or service's";
    Err(ErrorFrame::permanent(code::FORBIDDEN, text).to_req(Some(req)))
}

/// Takes a request off the member's rate.
fn allowed(conn: &Shared) -> Result<(), ErrorFrame> {
    charged(conn, 1)
}

/// Takes so many requests off the member's rate.
fn charged(conn: &Shared, tokens: u64) -> Result<(), ErrorFrame> {
    conn.inner.take_tokens(conn.mesh, conn.member, tokens).map_err(|wait| {
        let rate = conn.inner.policy.rate;
        let text = format!("more than {rate} requests per second: slow down");
        ErrorFrame::transient(code::RATE_LIMITED, text, wait)
    })
}

fn reply(req: u64, result: Result<Frame, ErrorFrame>) -> Frame {
    result.unwrap_or_else(|e| e.to_req(Some(req)).into())
}

async fn send(conn: &Shared, mut send: Send, due: &Due) -> Option<Frame> {
    let inner = &conn.inner;
    let req = send.req;
    let now = inner.net.unix_ms();
    if send.envelope.wraps.len() > MAX_WRAPS {
        return Some(refused(conn, too_many().to_req(Some(req))));
    }
    // Each recipient is a row to write: a large group costs more than a letter.
    let price = 1 + send.envelope.wraps.len() as u64 / WRAPS_PER_TOKEN;
    let mut paid = charged(conn, price);
    if send.batch.is_some() {
        // Nothing is gathered for others.
        let author = send.envelope.header().map(|h| h.from.key);
        if !author.is_ok_and(|key| inner.registry.speaks_for(conn.id, &key)) {
            let text = "the envelope's author is none of this connection's identities";
            let error = ErrorFrame::permanent(code::NOT_YOURS, text);
            return Some(refused(conn, error.to_req(Some(req))));
        }
        let whole = paid.and_then(|()| conn.batches().add(send));
        paid = Ok(());
        send = match whole {
            Ok(Some(whole)) => whole,
            Ok(None) => return Some(OkFrame { req }.into()),
            Err(error) => return Some(refused(conn, error.to_req(Some(req)))),
        };
    }
    let by = |key: &PublicKey| author(conn, key);
    let plan = paid
        .and_then(|()| accept::plan(&mut send, &conn.mesh, &conn.member, by, now))
        .and_then(|plan| match &plan.to {
            Recipients::One { key, .. }
                if !plan.queued && !inner.registry.connected(&plan.mesh, key) =>
            {
                let text = "the recipient is not there and the envelope is not to be queued";
                Err(ErrorFrame::permanent(code::OFFLINE, text))
            }
            _ => Ok(plan),
        });
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return Some(refused_send(conn, &send, error).await),
    };
    let again = (inner.mutant == Some(Mutant::NoDedupe)).then(|| (plan.envelope.clone(), now));
    let (id, recipients) = (plan.id, plan.to.keys());
    let priority = Priority::ALL.get(usize::from(plan.priority)).map_or("other", |p| p.as_str());

    let pending =
        inner.writer.submit(move |tx| Box::pin(async move { tx.accept(&plan, now).await })).await;
    let accept = Accept { req, id, recipients, priority, pending, again };
    // If the completer is gone, so is the socket.
    let _ = due.send(Completion::Accept(Box::new(accept))).await;
    None
}

/// The answer to a send that is not planned. What was accepted before stays accepted, whatever has
/// changed since (phase B0); who is only too fast will ask again, and costs no look into the store.
async fn refused_send(conn: &Shared, send: &Send, error: ErrorFrame) -> Frame {
    let inner = &conn.inner;
    let (req, name) = (send.req, send.envelope.header().ok().map(|h| (h.from.key, h.id)));
    if error.permanent
        && let Some((author, id)) = name
        && inner.registry.speaks_for(conn.id, &author)
        && let Ok(Some((hash, state))) = inner.store.accepted(&conn.mesh, &author, &id).await
        && hash == send.envelope.hash(&conn.mesh)
    {
        inner.metrics.duplicates.inc();
        return Accepted { req, id, state, duplicate: true, full: Vec::new() }.into();
    }
    refused(conn, ErrorFrame { id: name.map(|n| n.1), ..error.to_req(Some(req)) })
}

/// Counts a refused send.
fn refused(conn: &Shared, error: ErrorFrame) -> Frame {
    let reason = Reason { reason: known_code(&error.code) };
    conn.inner.metrics.rejected.get_or_create(&reason).inc();
    error.into()
}

/// Whether a connection may send as `key`.
fn author(conn: &Shared, key: &PublicKey) -> Author {
    if !conn.inner.registry.speaks_for(conn.id, key) {
        Author::Stranger
    } else if *key == conn.member {
        Author::Member
    } else {
        Author::Delegate { attestation: conn.inner.registry.attestation(conn.id, key) }
    }
}

/// Submits the end of a delivery to the writer; the completer tells the author.
async fn answer(
    conn: &Shared,
    delivery: DeliveryRef,
    verdict: Verdict,
    receipt: Option<Receipt>,
    due: &Due,
) {
    let known = conn.window().answered(&(delivery.author, delivery.id, delivery.recipient));
    if !known && !conn.inner.take_answer(conn.mesh, conn.member) {
        // Late or made up, and too many of them: what was late comes again.
        return;
    }
    let bytes = receipt.as_ref().map(codec::to_msgpack);
    let pending = conn
        .inner
        .writer
        .submit(move |tx| {
            Box::pin(async move { tx.answer(&delivery, verdict, bytes.as_deref()).await })
        })
        .await;
    conn.handle.wake();
    let _ = due.send(Completion::Answer { delivery, verdict, receipt, pending }).await;
}

/// The delivery that a connection answers for `by`.
async fn delivery(
    conn: &Shared,
    author: PublicKey,
    id: meshwire_signaling::EnvelopeId,
    by: PublicKey,
) -> Result<DeliveryRef, ErrorFrame> {
    let known = conn.inner.registry.speaks_for(conn.id, &by) || conn.orphans().contains(&by);
    if known || ended(conn, &by).await {
        return Ok(DeliveryRef { mesh: conn.mesh, author, id, recipient: by });
    }
    let text = "the receipt's key is none of this connection's identities";
    Err(ErrorFrame { id: Some(id), ..ErrorFrame::permanent(code::NOT_YOURS, text) })
}

/// Whether `key` was a session or service of the connection's member, which answers for it now: also
/// for what was pushed before its end, which the pump does not know of as an orphan's.
async fn ended(conn: &Shared, key: &PublicKey) -> bool {
    let inner = &conn.inner;
    conn.kind == IdentityKind::Member
        && inner.take_answer(conn.mesh, conn.member)
        && inner.store.delegate(&conn.mesh, key).await.is_ok_and(|row| {
            row.is_some_and(|d| d.member == conn.member && d.expires_at <= inner.net.unix_ms())
        })
}

async fn client_ack(conn: &Shared, ack: ClientAck, due: &Due) -> Option<Frame> {
    if ack.receipt.verdict != Verdict::Delivered || ack.receipt.reason.is_some() {
        let text = "a client_ack carries a plain `delivered`; use client_nack for the rest";
        return Some(ErrorFrame::permanent(code::MALFORMED, text).into());
    }
    match delivery(conn, ack.from, ack.id, ack.receipt.by).await {
        Err(error) => Some(error.into()),
        Ok(d) => {
            answer(conn, d, Verdict::Delivered, Some(ack.receipt), due).await;
            None
        }
    }
}

/// What is wrong with a refusal's receipt, as far as the broker can tell.
fn unfit(conn: &Shared, receipt: &Receipt, by: &PublicKey) -> Option<&'static str> {
    let signer = if receipt.verdict == Verdict::Gone { &conn.member } else { by };
    if receipt.verdict == Verdict::Delivered {
        return Some("a client_nack cannot carry a `delivered` receipt");
    }
    if receipt.by != *signer {
        return Some("the receipt is by another key than the refusal");
    }
    let long = receipt.reason.as_ref().is_some_and(|r| r.len() > MAX_REASON);
    long.then_some("a receipt's reason has at most 64 bytes")
}

async fn client_nack(conn: &Shared, nack: ClientNack, due: &Due) -> Option<Frame> {
    let d = match delivery(conn, nack.from, nack.id, nack.by).await {
        Err(error) => return Some(error.into()),
        Ok(d) => d,
    };
    if nack.permanent {
        if let Some(wrong) = nack.receipt.as_ref().and_then(|r| unfit(conn, r, &nack.by)) {
            return Some(ErrorFrame::permanent(code::MALFORMED, wrong).into());
        }
        let verdict = nack.receipt.as_ref().map_or(Verdict::Refused, |r| r.verdict);
        answer(conn, d, verdict, nack.receipt, due).await;
        return None;
    }
    if !conn.inner.take_answer(conn.mesh, conn.member) {
        return None;
    }
    // Stays in the window until its lease would have ended: that is when it may come again.
    let until = conn.inner.net.unix_ms().saturating_add(ms(CLAIM_LEASE));
    let job =
        conn.inner.writer.submit(move |tx| Box::pin(async move { tx.postpone(&d, until).await }));
    drop(job.await);
    None
}

async fn bind(conn: &Shared, bind: Bind) -> Frame {
    let inner = &conn.inner;
    let now = inner.net.unix_ms();
    let req = Some(bind.req);
    let word = match check_bind(&bind, &conn.hello, &conn.mesh, &conn.member, now) {
        Ok(checked) => checked,
        Err(error) => return error.to_req(req).into(),
    };
    let (mesh, key, kind) = (conn.mesh, bind.key, word.kind);
    let vouched = vouched(&word);
    if !inner.registry.online(&mesh, &key)
        && let Err(error) = admin::telling(conn)
    {
        return error.to_req(req).into();
    }
    let noted = inner
        .writer
        .run(move |tx| {
            Box::pin(async move {
                // A member's key cannot become somebody's session.
                if tx.member(&mesh, &key).await?.is_some() {
                    return Ok(false);
                }
                tx.delegate(&mesh, &key, &vouched).await
            })
        })
        .await;
    match noted {
        Ok(true) => {
            let attestation = bind.attestation;
            let attested_until = vouched.expires_at;
            let held = Held { conn: conn.id, key, kind, attestation, attested_until };
            match inner.registry.bind(held, conn) {
                Ok(bound) => {
                    conn.handle.receipts_waiting();
                    // If it had ended, it lives again: its mail is its own.
                    conn.handle.orphans_waiting();
                    Bound { req: bind.req, key, resumed: bound.resumed }.into()
                }
                Err(Refused::Capacity) => {
                    let text =
                        format!("a member has at most {MAX_PER_MEMBER} identities at a time");
                    ErrorFrame::transient(code::CAPACITY, text, again::FULL).to_req(req).into()
                }
                Err(_) => foreign(req),
            }
        }
        Ok(false) => foreign(req),
        Err(e) => unavailable(&e).to_req(req).into(),
    }
}

fn foreign(req: Option<u64>) -> Frame {
    let text = "this key belongs to another member, or has ended since its member vouched for it";
    ErrorFrame::permanent(code::FORBIDDEN, text).to_req(req).into()
}

/// A member's word as the store notes it.
pub(super) fn vouched(word: &Attestation) -> Vouched {
    let Attestation { member, kind, issued_at, expires_at, .. } = *word;
    Vouched { member, kind, issued_at, expires_at }
}
