//! Arbitrary frames about who is there: leases, presence, groups, disconnecting.

use std::collections::BTreeMap;

use meshwire_signaling::frame::{
    About, Attendance, Bye, Disconnect, Disconnected, Frame, PeerChanged, PeerInfo, Presence,
    PresenceEvent, PresenceInfo, Profile, RecipientsChanged, Resync, SetGroup, SetPresence, Status,
    Unbind, Unbound, UnboundReason,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::{chain, id, int, key, kind, made, signed, text};

fn profile() -> impl Strategy<Value = Profile> {
    (of(text()), of(text()), of(text())).prop_map(|(avatar, title, bio)| Profile {
        avatar,
        title,
        bio,
    })
}

fn about() -> impl Strategy<Value = About> {
    (select(Status::ALL.as_slice()), of(text()), of(profile()))
        .prop_map(|(status, summary, profile)| About { status, summary, profile })
}

fn presence_info() -> impl Strategy<Value = PresenceInfo> {
    let attendance = prop_oneof![Just(Attendance::Online), Just(Attendance::Grace)];
    (key(), kind(), attendance, int(), about(), of(signed()), vec(text(), 0..3)).prop_map(
        |(key, kind, attendance, since, about, attestation, features)| PresenceInfo {
            key,
            kind,
            attendance,
            since,
            about,
            attestation,
            features,
        },
    )
}

pub(super) fn peer() -> impl Strategy<Value = PeerInfo> {
    let who = (chain(), any::<bool>(), of(int()), any::<bool>());
    (who, about(), vec(presence_info(), 0..3), vec(signed(), 0..3)).prop_map(
        |((chain, online, since, hidden), about, presences, groups)| PeerInfo {
            chain,
            online,
            since,
            hidden,
            about,
            presences,
            groups,
        },
    )
}

fn presence() -> impl Strategy<Value = Presence> {
    use PresenceEvent::{Admitted, Joined, Left};
    let event = select(vec![Joined, Left, Admitted]);
    let who = (event, key(), key(), kind(), int());
    (who, of(chain()), of(signed()), vec(text(), 0..3)).prop_map(
        |((event, key, member, kind, at), chain, attestation, features)| Presence {
            event,
            key,
            member,
            kind,
            at,
            chain,
            attestation,
            features,
        },
    )
}

fn set_presence() -> impl Strategy<Value = SetPresence> {
    let said = (of(select(Status::ALL.as_slice())), of(text()), of(profile()), of(any::<bool>()));
    (int(), key(), said).prop_map(|(req, key, (status, summary, profile, visible))| SetPresence {
        req,
        key,
        status,
        summary,
        profile,
        visible,
    })
}

/// A strategy for each of these frame types, by its name.
pub(super) fn all() -> BTreeMap<&'static str, BoxedStrategy<Frame>> {
    use UnboundReason::{Disconnected as Soft, Expired, Kicked, Replaced};
    let reason = select(vec![Soft, Kicked, Replaced, Expired]);
    BTreeMap::from([
        ("unbind", made((int(), key()).prop_map(|(req, key)| Unbind { req, key }))),
        ("unbound", made((key(), reason).prop_map(|(key, reason)| Unbound { key, reason }))),
        ("bye", made(Just(Bye {}))),
        (
            "recipients_changed",
            made(
                (int(), id(), vec(key(), 0..4), vec(key(), 0..4)).prop_map(
                    |(req, id, missing, gone)| RecipientsChanged { req, id, missing, gone },
                ),
            ),
        ),
        ("presence", made(presence())),
        ("peer_changed", made(peer().prop_map(|peer| PeerChanged { peer }))),
        ("resync", made(Just(Resync {}))),
        ("set_presence", made(set_presence())),
        ("group", made((int(), signed()).prop_map(|(req, statement)| SetGroup { req, statement }))),
        (
            "disconnect",
            made(
                (int(), vec(key(), 0..4), any::<bool>(), any::<bool>())
                    .prop_map(|(req, keys, all, kick)| Disconnect { req, keys, all, kick }),
            ),
        ),
        (
            "disconnected",
            made(
                (int(), vec(key(), 0..4), vec(key(), 0..4))
                    .prop_map(|(req, affected, skipped)| Disconnected { req, affected, skipped }),
            ),
        ),
    ])
}
