//! `masquerade random` and `fully-random` against the presets with random ports.

use std::collections::BTreeSet;

use meshwire_netsim::nat::{NatConfig, PortRule};
use meshwire_netsim::packet::SYN;
use meshwire_netsim::{Preset, RouterConfig};

use crate::rules::masquerade;
use crate::script::{Pair, Script, both, same, source};
use crate::wire::{A, A2, B, IN, IN2, sock, tcp};

fn symmetric() -> RouterConfig {
    let config = Preset::Symmetric.router();
    assert!(
        matches!(&config.nat, Some(NatConfig::Ports(n)) if n.ports.rule == PortRule::Random),
        "the preset has random ports"
    );
    config
}

fn on_both(script: impl Fn(&mut Script<'_>)) {
    for flags in ["random", "fully-random"] {
        let rules = masquerade(flags);
        let config = symmetric();
        same(&Pair { rules: &rules, settings: &[], config, range: (1024, u16::MAX) }, &script);
    }
}

#[test]
fn each_destination_sees_another_port() {
    on_both(|s| {
        let ends = [A, A2, B].map(|to| s.udp(IN, to));
        s.udp(IN, A);
        s.udp(IN2, A);
        for end in ends {
            for from in [A, A2, B] {
                s.udp_back(from, end);
            }
        }
    });
}

#[test]
fn so_it_is_with_tcp() {
    on_both(|s| {
        for to in [A, A2, B] {
            s.out("SYN", tcp(IN, sock(to), SYN, (1, 0)));
        }
        s.out("again", tcp(IN, sock(A), SYN, (1, 0)));
    });
}

/// Over many flows, ports are spread over the whole range, and hosts with low ports get low ones.
#[test]
fn ports_are_spread_over_the_range() {
    let rules = masquerade("fully-random");
    let pair = Pair { rules: &rules, settings: &[], config: symmetric(), range: (1024, u16::MAX) };
    let script = |s: &mut Script<'_>| {
        let (mut seen, mut quarters) = (BTreeSet::new(), [0; 4]);
        for host in 2..52 {
            for to in [A, A2, B, "203.0.113.9:7001"] {
                let packet = crate::wire::udp(&format!("10.0.0.{host}:4000"), sock(to));
                let port = source(&s.quiet(packet)).port();
                assert!(port >= 1024, "{port}");
                seen.insert(port);
                quarters[usize::from(port - 1024) / 16_129] += 1;
            }
        }
        // 200 draws of 64,512: 0.3 pairs are expected to be equal; each quarter gets 50 with a
        // standard deviation of 6.
        assert!(seen.len() >= 190, "{} different ports", seen.len());
        assert!(quarters.iter().all(|n| (15..90).contains(n)), "{quarters:?}");
        let low = s.quiet(crate::wire::udp("10.0.0.2:500", sock(A)));
        assert!(source(&low).port() < 1024);
    };
    both(&pair, script, |_, _| true);
}
