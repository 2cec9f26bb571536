//! Which path a message takes now (design section 6, inventory ).
//!
//! Relay first: nothing ever waits for a direct path. [`select_path`] is a pure function of the facts;
//! its truth table is the test below, a row per case.
//!
//! Against the order of inventory A-045: there a first message waits up to 2 s for a handshake (A-047
//! calls relaying meanwhile a permitted improvement), and a recipient whom the broker calls offline is
//! queued for although a live direct path says better.

use std::fmt;
use std::str::FromStr;

use meshwire_signaling::envelope::Channel;
use serde::{Deserialize, Serialize};

/// What a node's owner allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMode {
    /// Direct where the networks allow it, the relay everywhere else.
    #[default]
    Auto,
    /// Nothing but the broker's relay.
    RelayOnly,
    /// Direct through relayed candidates alone: peers learn no address of ours.
    HideAddresses,
}

impl PathMode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Auto, Self::RelayOnly, Self::HideAddresses];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::RelayOnly => "relay-only",
            Self::HideAddresses => "hide-addresses",
        }
    }
}

impl fmt::Display for PathMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`PathMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no path mode: auto, relay-only or hide-addresses")]
pub struct UnknownMode(String);

impl FromStr for PathMode {
    type Err = UnknownMode;
    fn from_str(s: &str) -> Result<Self, UnknownMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == s);
        found.ok_or_else(|| UnknownMode(s.chars().take(40).collect()))
    }
}

/// How a pair's direct path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// None, and one may be negotiated now.
    None,
    /// Being negotiated.
    Negotiating,
    /// A try failed lately; the next one is due later.
    BackingOff,
    /// Up.
    Up,
}

/// What is known of the one who is to get a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The broker says that it is there; whether it can do direct paths.
    Online {
        /// Whether its node has the feature `p2p`.
        direct: bool,
    },
    /// The broker says that it is away.
    Offline,
    /// The broker cannot be asked now.
    Unknown,
    /// It takes its mail by HTTP (inventory A-044).
    Webhook,
}

/// Everything that decides.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The message's channel.
    pub channel: Channel,
    /// What our owner allows.
    pub mode: PathMode,
    /// Whether we and our broker can do direct paths.
    pub ours: bool,
    /// Who is to get it.
    pub recipient: Recipient,
    /// The pair's direct path.
    pub direct: Direct,
    /// Whether the broker's relay is up.
    pub relay: bool,
}

/// What carries a message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The pair's direct path.
    Direct,
    /// The broker.
    Relay,
    /// Nothing: it stays in the outbox until a path is up.
    Wait,
}

/// Why not another path, or why this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A direct path is up.
    DirectUp,
    /// Messages to many go through the broker, which fans them out.
    ToMany,
    /// The recipient takes its mail by HTTP.
    Webhook,
    /// Our owner wants the relay alone.
    RelayOnly,
    /// The recipient is away: the broker keeps it.
    Offline,
    /// The recipient's node cannot do direct paths.
    PeerCannot,
    /// We cannot.
    WeCannot,
    /// A direct path is on its way.
    Negotiating,
    /// The last try failed: the next one is due later.
    BackingOff,
    /// Nothing speaks against a direct path: one is sought now.
    Seeking,
    /// The broker is not reachable.
    NoRelay,
}

impl Why {
    /// Whether a direct path is wanted, and nothing but the networks or the time it takes is in its way.
    #[must_use]
    pub const fn is_avoidable(self) -> bool {
        matches!(self, Self::Negotiating | Self::BackingOff | Self::Seeking)
    }
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What carries it.
    pub via: Via,
    /// Whether to begin negotiating a direct path.
    pub negotiate: bool,
    /// Why.
    pub why: Why,
}

/// Decides; see the module's documentation.
#[must_use]
pub fn select_path(facts: &Facts) -> Choice {
    let why = why(facts);
    let via = match why {
        Why::DirectUp => Via::Direct,
        _ if facts.relay => Via::Relay,
        _ => Via::Wait,
    };
    // An offer travels through the broker.
    let negotiate = why == Why::Seeking && facts.relay;
    let why = if via == Via::Wait { Why::NoRelay } else { why };
    Choice { via, negotiate, why }
}

fn why(facts: &Facts) -> Why {
    match facts {
        Facts { channel: Channel::Group | Channel::Topic, .. } => Why::ToMany,
        Facts { recipient: Recipient::Webhook, .. } => Why::Webhook,
        Facts { mode: PathMode::RelayOnly, .. } => Why::RelayOnly,
        // A live path knows better than the broker who is there.
        Facts { direct: Direct::Up, .. } => Why::DirectUp,
        Facts { recipient: Recipient::Offline, .. } => Why::Offline,
        Facts { ours: false, .. } => Why::WeCannot,
        Facts { recipient: Recipient::Online { direct: false }, .. } => Why::PeerCannot,
        Facts { direct: Direct::Negotiating, .. } => Why::Negotiating,
        Facts { direct: Direct::BackingOff, .. } => Why::BackingOff,
        Facts { direct: Direct::None, .. } => Why::Seeking,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONLINE: Recipient = Recipient::Online { direct: true };

    /// A DM to somebody online, both able, nothing up but the relay.
    const PLAIN: Facts = Facts {
        channel: Channel::Dm,
        mode: PathMode::Auto,
        ours: true,
        recipient: ONLINE,
        direct: Direct::None,
        relay: true,
    };

    fn choice(via: Via, negotiate: bool, why: Why) -> Choice {
        Choice { via, negotiate, why }
    }

    #[test]
    fn the_truth_table() {
        let relay = |why| choice(Via::Relay, false, why);
        let table = [
            ("cold pair", PLAIN, choice(Via::Relay, true, Why::Seeking)),
            (
                "negotiating",
                Facts { direct: Direct::Negotiating, ..PLAIN },
                relay(Why::Negotiating),
            ),
            ("backing off", Facts { direct: Direct::BackingOff, ..PLAIN }, relay(Why::BackingOff)),
            (
                "up",
                Facts { direct: Direct::Up, ..PLAIN },
                choice(Via::Direct, false, Why::DirectUp),
            ),
            ("group", Facts { channel: Channel::Group, ..PLAIN }, relay(Why::ToMany)),
            ("topic", Facts { channel: Channel::Topic, ..PLAIN }, relay(Why::ToMany)),
            (
                "group over a live path",
                Facts { channel: Channel::Group, direct: Direct::Up, ..PLAIN },
                relay(Why::ToMany),
            ),
            ("webhook", Facts { recipient: Recipient::Webhook, ..PLAIN }, relay(Why::Webhook)),
            ("offline", Facts { recipient: Recipient::Offline, ..PLAIN }, relay(Why::Offline)),
            (
                "called offline over a live path",
                Facts { recipient: Recipient::Offline, direct: Direct::Up, ..PLAIN },
                choice(Via::Direct, false, Why::DirectUp),
            ),
            (
                "the peer cannot",
                Facts { recipient: Recipient::Online { direct: false }, ..PLAIN },
                relay(Why::PeerCannot),
            ),
            ("we cannot", Facts { ours: false, ..PLAIN }, relay(Why::WeCannot)),
            ("relay only", Facts { mode: PathMode::RelayOnly, ..PLAIN }, relay(Why::RelayOnly)),
            (
                "relay only over a live path",
                Facts { mode: PathMode::RelayOnly, direct: Direct::Up, ..PLAIN },
                relay(Why::RelayOnly),
            ),
            (
                "hidden addresses",
                Facts { mode: PathMode::HideAddresses, ..PLAIN },
                choice(Via::Relay, true, Why::Seeking),
            ),
            (
                "no broker",
                Facts { relay: false, recipient: Recipient::Unknown, ..PLAIN },
                choice(Via::Wait, false, Why::NoRelay),
            ),
            (
                "no broker, a live path",
                Facts { relay: false, recipient: Recipient::Unknown, direct: Direct::Up, ..PLAIN },
                choice(Via::Direct, false, Why::DirectUp),
            ),
            (
                "no broker, negotiating",
                Facts {
                    relay: false,
                    recipient: Recipient::Unknown,
                    direct: Direct::Negotiating,
                    ..PLAIN
                },
                choice(Via::Wait, false, Why::NoRelay),
            ),
            (
                "a group without the broker",
                Facts { relay: false, channel: Channel::Group, direct: Direct::Up, ..PLAIN },
                choice(Via::Wait, false, Why::NoRelay),
            ),
            (
                "nobody knows whether it is there",
                Facts { recipient: Recipient::Unknown, ..PLAIN },
                choice(Via::Relay, true, Why::Seeking),
            ),
            (
                "rpc",
                Facts { channel: Channel::Rpc, ..PLAIN },
                choice(Via::Relay, true, Why::Seeking),
            ),
            (
                "stream",
                Facts { channel: Channel::Stream, ..PLAIN },
                choice(Via::Relay, true, Why::Seeking),
            ),
            (
                "system",
                Facts { channel: Channel::System, direct: Direct::Up, ..PLAIN },
                choice(Via::Direct, false, Why::DirectUp),
            ),
        ];
        for (name, facts, wanted) in table {
            assert_eq!(select_path(&facts), wanted, "{name}");
        }
    }

    #[test]
    fn nothing_waits_while_a_path_is_up() {
        let channels = [Channel::Dm, Channel::Group, Channel::Topic, Channel::Rpc, Channel::Stream];
        let recipients = [ONLINE, Recipient::Offline, Recipient::Unknown, Recipient::Webhook];
        let states = [Direct::None, Direct::Negotiating, Direct::BackingOff, Direct::Up];
        for channel in channels {
            for recipient in recipients {
                for direct in states {
                    for mode in PathMode::ALL {
                        let facts = Facts { channel, recipient, direct, mode, ..PLAIN };
                        assert_ne!(select_path(&facts).via, Via::Wait, "{facts:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn modes_are_their_words() {
        for mode in PathMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        assert!("relay".parse::<PathMode>().unwrap_err().to_string().contains("relay-only"));
    }
}
