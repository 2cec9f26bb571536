//! The scenarios that come with netsim.

/// Name and text of each, in the order in which they are listed.
pub const BUILT_IN: [(&str, &str); 11] = [
    ("connect", include_str!("../../scenarios/connect.toml")),
    ("dm", include_str!("../../scenarios/dm.toml")),
    ("offline-queue", include_str!("../../scenarios/offline-queue.toml")),
    ("broker-restart", include_str!("../../scenarios/broker-restart.toml")),
    ("uplink-change", include_str!("../../scenarios/uplink-change.toml")),
    ("loss-30", include_str!("../../scenarios/loss-30.toml")),
    ("rtt-600ms", include_str!("../../scenarios/rtt-600ms.toml")),
    ("mtu-1280", include_str!("../../scenarios/mtu-1280.toml")),
    ("black-hole", include_str!("../../scenarios/black-hole.toml")),
    ("partition", include_str!("../../scenarios/partition.toml")),
    ("herd", include_str!("../../scenarios/herd.toml")),
];

/// The text of a scenario that comes with netsim.
#[must_use]
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
