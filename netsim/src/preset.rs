//! Routers that people have, by name. Each says which equipment behaves so and which clause each of
//! its properties follows or breaks.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::error::ConfigError;
use crate::firewall::{Action, FirewallConfig, Inbound, Rule};
use crate::nat::{
    Limits, MidStream, Napt, NatConfig, Pooling, PortRule, Ports, Refusal, Taken, UnsolicitedSyn,
};
use crate::packet::Protocol;
use crate::router::RouterConfig;
use crate::session::{Dependence, Lifetimes};

/// A router by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// No translation, no filter.
    Open,
    /// Full-cone home router.
    FullCone,
    /// Address-restricted home router.
    AddressRestricted,
    /// Port-restricted home router.
    PortRestricted,
    /// Symmetric NAT with random ports.
    Symmetric,
    /// Linux' masquerade.
    SymmetricPreserving,
    /// Carrier-grade NAT by RFC 6888.
    Cgnat,
    /// Mobile carrier.
    Mobile,
    /// Guest network of a hotel.
    Hotel,
    /// Company network.
    Corporate,
    /// Public address of a cloud machine.
    CloudOneToOne,
    /// IPv6 without IPv4.
    Ipv6Only,
}

/// A property of a preset and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property {
    /// What it does.
    pub what: &'static str,
    /// The clause it follows, breaks, or goes beyond.
    pub clause: &'static str,
}

const EIM: Property = Property {
    what: "mapping does not look at the destination",
    clause: "RFC 4787 REQ-1, RFC 5382 REQ-1",
};
const APDM: Property = Property {
    what: "another outside port for each destination",
    clause: "breaks RFC 4787 REQ-1, RFC 5382 REQ-1",
};
const EIF: Property =
    Property { what: "anybody may send to a mapping", clause: "RFC 4787 REQ-8, RFC 5382 REQ-3" };
const ADF: Property = Property {
    what: "only addresses that were sent to may send to a mapping",
    clause: "RFC 4787 REQ-8 (stricter), RFC 5382 REQ-3",
};
const APDF: Property = Property {
    what: "only endpoints that were sent to may send to a mapping",
    clause: "stricter than RFC 4787 REQ-8 and RFC 5382 REQ-3 recommend",
};
const PRESERVE: Property = Property {
    what: "keeps the port if it is free",
    clause: "RFC 4787 section 4.2.1, REQ-3a, REQ-4",
};
const RANDOM: Property = Property { what: "random ports", clause: "RFC 6888 REQ-15" };
const HAIRPIN: Property = Property {
    what: "hairpins, with the outside source",
    clause: "RFC 4787 REQ-9, RFC 5382 REQ-8",
};
const NO_HAIRPIN: Property =
    Property { what: "does not hairpin", clause: "breaks RFC 4787 REQ-9, RFC 5382 REQ-8" };
const TIMES: Property = Property {
    what: "UDP 5 min, TCP 2 h 4 min and 4 min, ICMP 60 s",
    clause: "RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2",
};
const SIX: Property =
    Property { what: "an unsolicited SYN is answered after 6 s", clause: "RFC 5382 REQ-4" };
const SILENT_SYN: Property =
    Property { what: "an unsolicited SYN is dropped", clause: "RFC 5382 REQ-4a" };
const V6: Property = Property {
    what: "IPv6 passes untranslated; only what inside asked for comes in",
    clause: "RFC 6092 REC-17, REC-33",
};

impl Preset {
    /// All presets.
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::SymmetricPreserving,
        Self::Cgnat,
        Self::Mobile,
        Self::Hotel,
        Self::Corporate,
        Self::CloudOneToOne,
        Self::Ipv6Only,
    ];

    /// Its name in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::SymmetricPreserving => "symmetric-preserving",
            Self::Cgnat => "cgnat",
            Self::Mobile => "mobile",
            Self::Hotel => "hotel",
            Self::Corporate => "corporate",
            Self::CloudOneToOne => "cloud-1to1",
            Self::Ipv6Only => "ipv6-only",
        }
    }

    /// The equipment it stands for.
    #[must_use]
    pub fn equipment(self) -> &'static str {
        match self {
            Self::Open => "a server room, a machine with a public address",
            Self::FullCone => {
                "home routers with an accelerated \"full cone\" mode; miniupnpd-era firmware"
            }
            Self::AddressRestricted => "some older home routers and DSL modems",
            Self::PortRestricted => {
                "most home routers; pf and ipfw with endpoint-independent mapping"
            }
            Self::Symmetric => "enterprise firewalls; pf's default; OpenBSD and FreeBSD gateways",
            Self::SymmetricPreserving => {
                "Linux: nftables and iptables masquerade, most container hosts"
            }
            Self::Cgnat => "a carrier's CGN in front of homes, 100.64.0.0/10 inside",
            Self::Mobile => "mobile carriers: a CGN that looks at destinations and forgets quickly",
            Self::Hotel => "guest networks of hotels, trains, conferences",
            Self::Corporate => "company networks that allow web traffic only",
            Self::CloudOneToOne => "AWS elastic, Azure and GCP public addresses",
            Self::Ipv6Only => "IPv6-only access behind a home router's default firewall",
        }
    }

    /// What it does and why one may expect that.
    #[must_use]
    pub fn properties(self) -> &'static [Property] {
        match self {
            Self::Open => &[Property {
                what: "everything passes, both ways",
                clause: "none: it is a router, RFC 1812",
            }],
            Self::FullCone => &[EIM, EIF, PRESERVE, HAIRPIN, TIMES, SIX, V6],
            Self::AddressRestricted => &[EIM, ADF, PRESERVE, HAIRPIN, TIMES, SIX, V6],
            Self::PortRestricted => &[EIM, APDF, PRESERVE, HAIRPIN, TIMES, SIX, V6],
            Self::Symmetric => &[APDM, APDF, RANDOM, NO_HAIRPIN, TIMES, SILENT_SYN, V6],
            Self::SymmetricPreserving => &[
                APDM,
                APDF,
                Property {
                    what: "keeps the port, even for several hosts at once, while destinations differ",
                    clause: "breaks RFC 4787 REQ-3, RFC 5382 REQ-7",
                },
                Property {
                    what: "a host that had to take another port keeps that one elsewhere, where it can",
                    clause: "nearer to RFC 4787 REQ-1; RFC 5508 REQ-1a is broken likewise",
                },
                NO_HAIRPIN,
                Property {
                    what: "UDP 30 s, and 2 min once it goes both ways for 2 s, refreshed both ways",
                    clause: "breaks RFC 4787 REQ-5 for its first packets; REQ-6a",
                },
                Property {
                    what: "adopts TCP connections in the middle; TCP 5 days",
                    clause: "beyond RFC 5382 REQ-5",
                },
                SILENT_SYN,
                V6,
            ],
            Self::Cgnat => &[
                EIM,
                EIF,
                RANDOM,
                HAIRPIN,
                Property { what: "one outside address per home", clause: "RFC 6888 REQ-2" },
                Property {
                    what: "at most 1,000 ports per home and protocol",
                    clause: "RFC 6888 REQ-4",
                },
                Property { what: "ports rest 120 s", clause: "RFC 6888 REQ-8" },
                Property {
                    what: "says host unreachable when ports are used up",
                    clause: "RFC 6888 REQ-11",
                },
                TIMES,
            ],
            Self::Mobile => &[
                APDM,
                APDF,
                RANDOM,
                NO_HAIRPIN,
                Property {
                    what: "UDP 30 s, TCP 30 min, ICMP 30 s",
                    clause: "breaks RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2",
                },
                SILENT_SYN,
            ],
            Self::Hotel => &[
                Property { what: "UDP passes to port 53 only", clause: "policy; RFC 5508 REQ-8" },
                EIM,
                APDF,
                NO_HAIRPIN,
                SILENT_SYN,
                V6,
            ],
            Self::Corporate => &[
                Property {
                    what: "UDP is rejected, TCP passes to port 443 only",
                    clause: "policy; RFC 5508 REQ-8",
                },
                APDM,
                APDF,
                NO_HAIRPIN,
                SILENT_SYN,
            ],
            Self::CloudOneToOne => &[
                Property {
                    what: "addresses one to one, ports stay",
                    clause: "RFC 3022 section 2.1",
                },
                Property { what: "hairpins queries and errors", clause: "RFC 5508 REQ-7" },
                Property { what: "no filter", clause: "policy: security groups are a firewall's" },
            ],
            Self::Ipv6Only => {
                &[V6, Property { what: "IPv4 goes nowhere", clause: "RFC 8925 section 1" }]
            }
        }
    }

    /// The router. [`Preset::CloudOneToOne`] translates nobody until it is given pairs
    /// ([`RouterConfig::with_pairs`]).
    #[must_use]
    pub fn router(self) -> RouterConfig {
        use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let home = |filtering| Napt::new(EndpointIndependent, filtering);
        let strict = Napt {
            ports: Ports { rule: PortRule::Random, parity: false, ..Ports::default() },
            hairpin: false,
            unsolicited_syn: UnsolicitedSyn::Drop,
            refusal: Refusal::Silent,
            ..Napt::new(AddressAndPortDependent, AddressAndPortDependent)
        };
        let secs = Duration::from_secs;
        let (napt, firewall) = match self {
            Self::Open => return RouterConfig::default(),
            Self::CloudOneToOne => return RouterConfig::default().with_pairs(Vec::new()),
            Self::Ipv6Only => {
                let no_v4 = Rule { outside: "0.0.0.0/0".parse().ok(), ..Rule::all(Action::Drop) };
                let firewall = FirewallConfig {
                    outbound: vec![no_v4],
                    inbound_v4: Inbound::Closed,
                    ..FirewallConfig::default()
                };
                return RouterConfig { firewall: Some(firewall), ..RouterConfig::default() };
            }
            Self::FullCone => (home(EndpointIndependent), Some(FirewallConfig::default())),
            Self::AddressRestricted => (home(AddressDependent), Some(FirewallConfig::default())),
            Self::PortRestricted => {
                (home(AddressAndPortDependent), Some(FirewallConfig::default()))
            }
            Self::Symmetric => (strict, Some(FirewallConfig::default())),
            Self::SymmetricPreserving => {
                let napt = Napt {
                    ports: Ports {
                        rule: PortRule::Preserving(Taken::Share),
                        parity: false,
                        ..Ports::default()
                    },
                    lifetimes: Lifetimes {
                        udp: secs(120),
                        udp_unanswered: secs(30),
                        udp_stream_after: Some(secs(2)),
                        tcp_established: secs(432_000),
                        tcp_transitory: secs(120),
                        icmp: secs(30),
                    },
                    inbound_refresh: true,
                    mid_stream: MidStream::Adopt,
                    ..strict
                };
                (napt, Some(FirewallConfig::default()))
            }
            Self::Cgnat => {
                let napt = Napt {
                    ports: Ports {
                        rule: PortRule::Random,
                        keep_class: false,
                        parity: false,
                        hold: secs(120),
                        ..Ports::default()
                    },
                    pooling: Pooling::Paired,
                    limits: Limits { per_subscriber: Some(1000), ..Limits::default() },
                    refusal: Refusal::HostUnreachable,
                    ..home(EndpointIndependent)
                };
                (napt, None)
            }
            Self::Mobile => {
                let lifetimes = Lifetimes {
                    udp: secs(30),
                    udp_unanswered: secs(30),
                    udp_stream_after: None,
                    tcp_established: secs(1800),
                    tcp_transitory: secs(30),
                    icmp: secs(30),
                };
                (Napt { lifetimes, ..strict }, None)
            }
            Self::Hotel => {
                let napt = Napt {
                    hairpin: false,
                    unsolicited_syn: UnsolicitedSyn::Drop,
                    ..home(AddressAndPortDependent)
                };
                (napt, Some(only(Protocol::Udp, 53..=53, Action::Drop, &[])))
            }
            Self::Corporate => {
                let udp = [Rule::new(Action::Reject, Protocol::Udp)];
                (strict, Some(only(Protocol::Tcp, 443..=443, Action::Reject, &udp)))
            }
        };
        RouterConfig { nat: Some(NatConfig::ports(napt)), firewall, answers_ping: true }
    }
}

/// A firewall whose `protocol` passes to these ports alone, for which `before` comes first.
fn only(
    protocol: Protocol,
    ports: RangeInclusive<u16>,
    action: Action,
    before: &[Rule],
) -> FirewallConfig {
    let mut outbound = before.to_vec();
    outbound.push(Rule { ports: Some(ports), ..Rule::new(Action::Allow, protocol) });
    outbound.push(Rule::new(action, protocol));
    FirewallConfig { outbound, ..FirewallConfig::default() }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let all = || Self::ALL.into_iter();
        if let Some(found) = all().find(|p| p.name() == text) {
            return Ok(found);
        }
        let alike = |p: &Self| strsim::jaro_winkler(p.name(), text);
        let near = all().max_by(|a, b| alike(a).total_cmp(&alike(b))).map_or("open", Self::name);
        let names: Vec<_> = all().map(Self::name).collect();
        Err(ConfigError::Preset(text.to_owned(), near, names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_gets_the_preset_that_was_meant() {
        for (slip, meant) in [
            ("symetric", "symmetric"),
            ("symmetric_preserving", "symmetric-preserving"),
            ("fullcone", "full-cone"),
            ("cg-nat", "cgnat"),
            ("port-restriced", "port-restricted"),
        ] {
            let refused = slip.parse::<Preset>().unwrap_err().to_string();
            assert!(refused.contains(&format!("nearest is {meant:?}")), "{refused}");
        }
    }
}
