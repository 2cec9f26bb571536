//! Further identities of a connection's member.

use meshwire_signaling::attest::Attestation;
use meshwire_signaling::frame::{Bind, Bound, ErrorFrame, Frame, code};

use super::super::admin;
use super::super::complete::unavailable;
use super::super::registry::Shared;
use crate::core::again;
use crate::core::hello::check_bind;
use crate::core::presence::{Bind as Held, MAX_PER_MEMBER, Refused};
use crate::store::Vouched;

pub(super) async fn bind(conn: &Shared, bind: Bind) -> Frame {
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
pub(in super::super) fn vouched(word: &Attestation) -> Vouched {
    let Attestation { member, kind, issued_at, expires_at, .. } = *word;
    Vouched { member, kind, issued_at, expires_at }
}
