//! The reading half: what a node asks for.

mod answer;
mod bind;
mod send;

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec::{CodecError, Encoding};
use meshwire_signaling::frame::{
    Bind, Disconnect, ErrorFrame, Frame, FrameError, Goaway, InviteCreate, InviteList,
    InviteRevoke, SetGroup, Unbind, close, code,
};
use meshwire_signaling::limits::STALE_AFTER;
use meshwire_signaling::stream::carry::BadCarry;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

pub(super) use self::bind::vouched;
use super::bulk::Taken;
use super::complete::Completion;
use super::handshake::frame;
use super::registry::Shared;
use super::{Close, STALE, Socket, admin, bulk, p2p, peers};
use crate::core::again;
use crate::http::invites;

/// Undecodable frames after which a connection is closed: a broken client, or a probing one.
const MAX_MALFORMED: u32 = 32;

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
        Frame::Send(send) => send::send(conn, send, due).await,
        Frame::ClientAck(ack) => answer::client_ack(conn, ack, due).await,
        Frame::ClientNack(nack) => answer::client_nack(conn, nack, due).await,
        Frame::ReceiptAck(ack) => {
            answer::receipt_ack(conn, ack).await;
            None
        }
        Frame::Bind(bind) => Some(bind::bind(conn, bind).await),
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
