//! Negotiation frames and TURN credentials.

use std::collections::BTreeMap;

use meshwire_signaling::AttemptId;
use meshwire_signaling::frame::{
    Frame, P2pFrame, P2pKind, TurnCredentials, TurnServer, TurnServers,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::{blob, int, key, made, text};

fn step(kind: P2pKind) -> BoxedStrategy<Frame> {
    (of(int()), key(), key(), text(), any::<[u8; 16]>(), blob(), any::<bool>())
        .prop_map(move |(req, to, from, adapter, attempt, payload, loopback)| {
            let attempt = AttemptId(attempt);
            P2pFrame { kind, to, from, adapter, attempt, payload, loopback }.into_frame(req)
        })
        .boxed()
}

fn server() -> impl Strategy<Value = TurnServer> {
    (vec(text(), 0..4), text(), text(), int()).prop_map(
        |(addresses, username, password, expires_at)| TurnServer {
            addresses,
            username,
            password,
            expires_at,
        },
    )
}

pub(super) fn all() -> BTreeMap<&'static str, BoxedStrategy<Frame>> {
    BTreeMap::from([
        ("p2p_offer", step(P2pKind::Offer)),
        ("p2p_answer", step(P2pKind::Answer)),
        ("p2p_candidate", step(P2pKind::Candidate)),
        ("p2p_bye", step(P2pKind::Bye)),
        ("turn_credentials", made(int().prop_map(|req| TurnCredentials { req }))),
        (
            "turn_servers",
            made(
                (int(), vec(server(), 0..3), vec(text(), 0..3))
                    .prop_map(|(req, servers, stun)| TurnServers { req, servers, stun }),
            ),
        ),
    ])
}
