//! nftables rules and the routers of the engine that claim to be the same.

use meshwire_netsim::Preset;

use crate::script::Pair;

/// A home router's own firewall: it answers pings, and lets in what was asked for.
const FILTER: &str = "
    table ip filter {
        chain input {
            type filter hook input priority 0; policy drop;
            icmp type echo-request accept
        }
        chain forward {
            type filter hook forward priority 0; policy drop;
            ct state invalid drop
            ct state established,related accept
            iifname in0 accept
            ct status dnat accept
        }
    }";

/// Masquerade without care for what is sent to the router itself.
pub(crate) const OPEN_INPUT: &str = "
    table ip nat {
        chain post {
            type nat hook postrouting priority 100;
            oifname out0 masquerade
        }
    }";

/// Masquerade, with `flags` such as `random`.
pub(crate) fn masquerade(flags: &str) -> String {
    format!(
        "{FILTER}
        table ip nat {{
            chain post {{
                type nat hook postrouting priority 100;
                oifname out0 masquerade {flags}
            }}
        }}"
    )
}

/// Whom a cone lets in.
#[derive(Clone, Copy)]
pub(crate) enum Admit {
    Everybody,
    Addresses,
    Ends,
}

/// Endpoint-independent mapping of UDP with hairpinning, made of maps that learn: which inside endpoint
/// has which outside port, and whom it sent to.
pub(crate) fn cone(admit: Admit) -> String {
    let admit = match admit {
        Admit::Everybody => "",
        Admit::Addresses => "udp dport . ip saddr @addresses",
        Admit::Ends => "udp dport . ip saddr . udp sport @ends",
    };
    format!(
        "{FILTER}
        table ip nat {{
            map inward {{
                type inet_service : ipv4_addr . inet_service; size 4096; flags dynamic;
            }}
            map outward {{
                type ipv4_addr . inet_service : inet_service; size 4096; flags dynamic;
            }}
            set taken {{
                type inet_service; size 4096; flags dynamic;
            }}
            set addresses {{
                type inet_service . ipv4_addr; size 4096; flags dynamic;
            }}
            set ends {{
                type inet_service . ipv4_addr . inet_service; size 4096; flags dynamic;
            }}
            chain pre {{
                type nat hook prerouting priority -100;
                ip daddr 198.51.100.1 meta l4proto udp {admit} dnat ip to udp dport map @inward
            }}
            chain post {{
                type nat hook postrouting priority 100;
                meta l4proto udp snat ip to 198.51.100.1 : ip saddr . udp sport map @outward
                oifname out0 udp sport @taken masquerade fully-random
                oifname out0 masquerade
            }}
            chain learn {{
                type filter hook postrouting priority 200;
                oifname out0 ct direction original jump note
            }}
            chain note {{
                meta l4proto udp add @inward {{ udp sport : ct original ip saddr . ct original proto-src }}
                meta l4proto udp add @outward {{ ct original ip saddr . ct original proto-src : udp sport }}
                add @taken {{ udp sport }}
                add @addresses {{ udp sport . ip daddr }}
                add @ends {{ udp sport . ip daddr . udp dport }}
            }}
        }}"
    )
}

/// Linux' masquerade and its preset.
pub(crate) fn linux(rules: &str) -> Pair<'_> {
    let config = Preset::SymmetricPreserving.router();
    Pair { rules, settings: &[], config, range: (1024, u16::MAX) }
}
