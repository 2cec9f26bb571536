//! Arbitrary frames. Nothing here is validly signed: the codec must not care.

mod p2p;
mod presence;

use std::collections::BTreeMap;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::envelope::{Proof, StateHead};
use meshwire_signaling::frame::{
    Accepted, Batch, Bind, Bound, Challenge, ClientAck, ClientNack, Drained, ErrorFrame, Frame,
    Goaway, Hello, HelloAck, InviteCreate, InviteInfo, InviteList, InviteRevoke, Invites, Joined,
    ListPeers, MessageFrame, MessageState, Ok as OkFrame, Peers, ReceiptAck, ReceiptFrame, Send,
};
use meshwire_signaling::id::Blob;
use meshwire_signaling::invite::{Chain, Link};
use meshwire_signaling::limits::MAX_INT;
use meshwire_signaling::receipt::{Receipt, Verdict};
use meshwire_signaling::seal::Wrap;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{Envelope, EnvelopeId, Hash, PublicKey, Signature};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

fn int() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(MAX_INT), 0..=MAX_INT, 0..300u64]
}

pub(crate) fn key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey)
}

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn sig() -> impl Strategy<Value = Signature> {
    any::<([u8; 32], [u8; 32])>().prop_map(|(a, b)| {
        let mut both = [0; 64];
        both[..32].copy_from_slice(&a);
        both[32..].copy_from_slice(&b);
        Signature(both)
    })
}

pub(crate) fn id() -> impl Strategy<Value = EnvelopeId> {
    (0..1u64 << 48, any::<u128>()).prop_map(|(at, random)| EnvelopeId::new(at, random))
}

fn blob() -> impl Strategy<Value = Blob> {
    vec(any::<u8>(), 0..90).prop_map(Blob)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,20}", ".{0,20}", "[a-z_]{1,40}"]
}

fn signed() -> impl Strategy<Value = Signed> {
    (blob(), sig()).prop_map(|(payload, sig)| Signed { payload, sig })
}

fn chain() -> impl Strategy<Value = Chain> {
    let link = (signed(), signed(), sig(), signed()).prop_map(
        |(capability, claim, proof, countersign)| Link { capability, claim, proof, countersign },
    );
    (signed(), vec(link, 0..3)).prop_map(|(genesis, links)| Chain { genesis, links })
}

fn head() -> impl Strategy<Value = StateHead> {
    (int(), hash()).prop_map(|(version, hash)| StateHead { version, hash })
}

fn kind() -> impl Strategy<Value = IdentityKind> {
    use IdentityKind::{Member, Service, Session};
    prop_oneof![Just(Member), Just(Session), Just(Service)]
}

fn state() -> impl Strategy<Value = MessageState> {
    use MessageState::{Delivered, Expired, Failed, Queued, Relayed, Sent};
    proptest::sample::select(vec![Queued, Relayed, Sent, Delivered, Expired, Failed])
}

fn receipt() -> impl Strategy<Value = Receipt> {
    let verdict =
        prop_oneof![Just(Verdict::Delivered), Just(Verdict::Refused), Just(Verdict::Gone)];
    (verdict, of(text()), key(), hash()).prop_map(|(verdict, reason, by, mac)| Receipt {
        verdict,
        reason,
        by,
        mac,
    })
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let proof = (chain(), of(signed()))
        .prop_map(|(chain, attestation)| Box::new(Proof { chain, attestation }));
    let wrap = (key(), blob()).prop_map(|(to, key)| Wrap { to, key });
    (any::<u8>(), blob(), blob(), sig(), of(proof), vec(wrap, 0..4)).prop_map(
        |(v, header, body, sig, proof, wraps)| Envelope { v, header, body, sig, proof, wraps },
    )
}

fn invite() -> impl Strategy<Value = InviteInfo> {
    let joined = (key(), text(), int()).prop_map(|(key, name, at)| Joined { key, name, at });
    (signed(), of(int()), vec(joined, 0..3), any::<u32>()).prop_map(
        |(capability, revoked_at, joined, used)| InviteInfo {
            capability,
            revoked_at,
            joined,
            used,
        },
    )
}

fn made<T: Into<Frame> + std::fmt::Debug + 'static>(
    s: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Frame> {
    s.prop_map(Into::into).boxed()
}

/// A strategy for every frame type, by its name.
pub(crate) fn all() -> BTreeMap<&'static str, BoxedStrategy<Frame>> {
    let mut all = BTreeMap::from([
        (
            "challenge",
            made(
                (hash(), int(), key(), any::<bool>()).prop_map(|(nonce, at, broker, binding)| {
                    Challenge { nonce, at, broker, binding }
                }),
            ),
        ),
        (
            "hello",
            made(
                (signed(), of(signed()))
                    .prop_map(|(hello, attestation)| Hello { hello, attestation }),
            ),
        ),
        ("hello_ack", made(signed().prop_map(|ack| HelloAck { ack }))),
        (
            "bind",
            made((int(), key(), signed(), sig()).prop_map(|(req, key, attestation, proof)| Bind {
                req,
                key,
                attestation,
                proof,
            })),
        ),
        (
            "bound",
            made((int(), key(), any::<bool>()).prop_map(|(req, key, resumed)| Bound {
                req,
                key,
                resumed,
            })),
        ),
        (
            "goaway",
            made(
                (text(), int())
                    .prop_map(|(reason, retry_after_ms)| Goaway { reason, retry_after_ms }),
            ),
        ),
        (
            "send",
            made((int(), envelope(), of((any::<u32>(), any::<bool>()))).prop_map(
                |(req, envelope, batch)| {
                    let batch = batch.map(|(index, last)| Batch { index, last });
                    Send { req, envelope, batch }
                },
            )),
        ),
        (
            "accepted",
            made((int(), id(), state(), any::<bool>(), vec(key(), 0..4)).prop_map(
                |(req, id, state, duplicate, full)| Accepted { req, id, state, duplicate, full },
            )),
        ),
        (
            "message",
            made((key(), envelope(), int(), any::<u32>()).prop_map(
                |(to, envelope, accepted_at, attempt)| MessageFrame {
                    to,
                    envelope,
                    accepted_at,
                    attempt,
                },
            )),
        ),
        (
            "client_ack",
            made((key(), id(), receipt()).prop_map(|(from, id, receipt)| ClientAck {
                from,
                id,
                receipt,
            })),
        ),
        (
            "client_nack",
            made((key(), id(), key(), text(), any::<bool>(), of(receipt())).prop_map(
                |(from, id, by, reason, permanent, receipt)| ClientNack {
                    from,
                    id,
                    by,
                    reason,
                    permanent,
                    receipt,
                },
            )),
        ),
        (
            "receipt",
            made((key(), id(), receipt()).prop_map(|(from, id, receipt)| ReceiptFrame {
                from,
                id,
                receipt,
            })),
        ),
        (
            "receipt_ack",
            made((key(), id(), key()).prop_map(|(from, id, by)| ReceiptAck { from, id, by })),
        ),
        ("drained", made(Just(Drained {}))),
        (
            "list_peers",
            made((int(), of(key()), of(key())).prop_map(|(req, after, key)| ListPeers {
                req,
                after,
                key,
            })),
        ),
        (
            "peers",
            made(
                (int(), vec(presence::peer(), 0..3), of(key()), head())
                    .prop_map(|(req, peers, next, head)| Peers { req, peers, next, head }),
            ),
        ),
        (
            "invite_create",
            made((int(), signed()).prop_map(|(req, capability)| InviteCreate { req, capability })),
        ),
        ("invite_list", made(int().prop_map(|req| InviteList { req }))),
        (
            "invites",
            made((int(), vec(invite(), 0..3)).prop_map(|(req, invites)| Invites { req, invites })),
        ),
        (
            "invite_revoke",
            made((int(), key()).prop_map(|(req, invite)| InviteRevoke { req, invite })),
        ),
        ("ok", made(int().prop_map(|req| OkFrame { req }))),
        (
            "error",
            made(
                (of(int()), of(id()), text(), text(), any::<bool>(), of(int()), of(key()))
                    .prop_map(|(req, id, code, message, permanent, retry_after_ms, member)| {
                        ErrorFrame { req, id, code, message, permanent, retry_after_ms, member }
                    }),
            ),
        ),
    ]);
    all.append(&mut presence::all());
    all.append(&mut p2p::all());
    all
}

/// Any frame; every type is as likely as any other.
pub(crate) fn any_frame() -> impl Strategy<Value = Frame> {
    proptest::strategy::Union::new(all().into_values())
}

/// A signed object of a given payload size, for frames near the limits.
pub(crate) fn signed_of(len: usize) -> Signed {
    Signed { payload: Blob(vec![7; len]), sig: Signature([9; 64]) }
}
