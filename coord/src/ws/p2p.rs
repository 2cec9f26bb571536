//! Carries negotiation frames from one connection to another, and tells who relays for whom. Nothing
//! of it is kept.

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_signaling::attest::{Attestation, capability};
use meshwire_signaling::frame::{
    ErrorFrame, Frame, Ok as OkFrame, P2pFrame, TurnCredentials, TurnServers, code,
};
use tokio::sync::mpsc::error::TrySendError;

use super::complete::unavailable;
use super::handshake::known_code;
use super::registry::Shared;
use crate::core::again;
use crate::core::p2p::{capable, check};
use crate::metrics::Outcome;

/// Negotiation frames that may wait for one socket, apart from its mail: a peer that sends too many
/// loses its own, and closes nobody.
pub(super) const SIGNALS: usize = 64;

fn refuse(code: &str, text: impl Into<String>) -> ErrorFrame {
    ErrorFrame::permanent(code, text)
}

/// Carries one frame, and answers its sender.
pub(super) async fn carry(conn: &Shared, req: Option<u64>, frame: P2pFrame) -> Frame {
    let result = match req {
        Some(_) => forward(conn, frame).await,
        None => Err(refuse(code::MALFORMED, "a frame for another node needs a `req`")),
    };
    let outcome = result.as_ref().err().map_or("forwarded", |e| known_code(&e.code));
    conn.inner.metrics.signals.get_or_create(&Outcome { outcome }).inc();
    match result {
        Ok(()) => OkFrame { req: req.unwrap_or_default() }.into(),
        Err(error) => error.to_req(req).into(),
    }
}

async fn forward(conn: &Shared, mut frame: P2pFrame) -> Result<(), ErrorFrame> {
    let inner = &conn.inner;
    let (mesh, to) = (conn.mesh, frame.to);
    inner.negotiations(|rates, now| rates.sender(mesh, conn.member, now))?;
    check(&frame, |key| inner.registry.speaks_for(conn.id, key))?;
    may_write(conn, &frame.from)?;
    let Some(handle) = inner.registry.holder(&mesh, &to) else {
        capable(conn.handle.p2p, true)?;
        return Err(away(conn, &frame).await);
    };
    capable(conn.handle.p2p, handle.p2p)?;
    inner.negotiations(|rates, now| rates.pair(mesh, conn.member, to, now))?;
    // Whatever the sender says of itself.
    frame.loopback = conn.near;
    match handle.signals.try_send(Arc::new(frame.into_frame(None))) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(_)) => {
            let text = "the recipient does not keep up with negotiations";
            Err(ErrorFrame::transient(code::QUEUE_FULL, text, again::BUSY))
        }
        Err(TrySendError::Closed(_)) => Err(offline()),
    }
}

/// As with mail: a session does what its member lets it.
pub(super) fn may_write(conn: &Shared, who: &PublicKey) -> Result<(), ErrorFrame> {
    match conn.inner.registry.attestation(conn.id, who) {
        Some(signed)
            if !signed
                .peek::<Attestation>()
                .is_ok_and(|a| a.capabilities.allow(capability::DM)) =>
        {
            let text = format!("this session lacks the capability {:?}", capability::DM);
            Err(refuse(code::FORBIDDEN, text))
        }
        _ => Ok(()),
    }
}

fn offline() -> ErrorFrame {
    // When it comes, presence tells; by then this step is too old.
    refuse(code::OFFLINE, "the recipient is not connected")
}

/// Why nobody speaks for the recipient.
async fn away(conn: &Shared, frame: &P2pFrame) -> ErrorFrame {
    let (store, mesh, to) = (&conn.inner.store, &conn.mesh, &frame.to);
    match store.member(mesh, to).await {
        Ok(Some(_)) => return offline(),
        Ok(None) => {}
        Err(e) => return unavailable(&e),
    }
    match store.delegate(mesh, to).await {
        Ok(Some(row)) if row.expires_at <= conn.inner.net.unix_ms() => {
            let text = format!("the session has ended; its member is {}", row.member);
            ErrorFrame { member: Some(row.member), ..refuse(code::TARGET_GONE, text) }
        }
        Ok(Some(_)) => offline(),
        Ok(None) => refuse(code::UNKNOWN_TARGET, format!("nobody has the key {to}")),
        Err(e) => unavailable(&e),
    }
}

/// Answers with the servers that help this connection's member, and its credentials for them.
pub(super) fn turn(conn: &Shared, ask: &TurnCredentials) -> Frame {
    let inner = &conn.inner;
    let req = ask.req;
    let rated = || inner.negotiations(|rates, now| rates.turn(conn.mesh, conn.member, now));
    if let Err(e) = may_write(conn, &conn.key).and_then(|()| rated()) {
        return e.to_req(Some(req)).into();
    }
    let offer = inner.turn.as_ref().map(|desk| desk.credentials(&conn.member, inner.net.unix_ms()));
    let offer = offer.unwrap_or_default();
    TurnServers { req, servers: offer.servers, stun: offer.stun }.into()
}
