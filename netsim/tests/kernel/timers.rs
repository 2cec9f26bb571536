//! Lifetimes of UDP and ICMP flows, with shorter settings on both sides.

use std::time::Duration;

use meshwire_netsim::nat::NatConfig;

use crate::rules::{linux, masquerade};
use crate::script::{Pair, same};
use crate::wire::{A, A2, B, IN, echo};
use crate::world::EXT;

/// The kernel's settings, in seconds, and the same for the engine.
fn short<'a>(rules: &'a str, settings: &'a [(&'a str, &'a str)]) -> Pair<'a> {
    let mut pair = Pair { settings, ..linux(rules) };
    if let Some(NatConfig::Ports(napt)) = &mut pair.config.nat {
        let lifetimes = &mut napt.lifetimes;
        let secs = |name| {
            let (_, value) = settings.iter().find(|(path, _)| path.ends_with(name)).unwrap();
            Duration::from_secs(value.parse().unwrap())
        };
        lifetimes.udp = secs("udp_timeout_stream");
        lifetimes.udp_unanswered = secs("udp_timeout");
        lifetimes.icmp = secs("icmp_timeout");
    }
    pair
}

const SETTINGS: [(&str, &str); 3] = [
    ("netfilter/nf_conntrack_udp_timeout_stream", "4"),
    ("netfilter/nf_conntrack_udp_timeout", "2"),
    ("netfilter/nf_conntrack_icmp_timeout", "2"),
];

/// Several flows side by side: a second more or less does not come to pass, half a second may.
#[test]
fn udp_flows_last_as_long_as_they_are_used() {
    same(&short(&masquerade(""), &SETTINGS), |s| {
        // One question: its answer may take less than 2 s.
        let asked = s.udp(IN, A);
        let quick = s.udp("10.0.0.3:4001", A);
        let slow = s.udp("10.0.0.4:4002", A);
        let silent = s.udp("10.0.0.5:4003", A);
        s.udp_back(A, quick);
        s.wait(1400);
        // At 1.4: an answer, which does not make a stream yet.
        s.udp_back(A, asked);
        s.udp_back(A, slow);
        // From inside alone, and still unanswered.
        s.udp("10.0.0.5:4003", A);
        s.wait(1100);
        // At 2.5: the quick one is over, 2 s after its only answer.
        s.udp_back(A, quick);
        // Later than 2 s, both ways: a stream from now on.
        s.udp("10.0.0.4:4002", A);
        s.udp_back(A, asked);
        s.udp_back(A, silent);
        s.wait(3000);
        // At 5.5: 3 s later both streams live, and are refreshed from outside too.
        s.udp_back(A, slow);
        s.udp_back(A, asked);
        // Answered at 2.5 for the first time: not a stream, and over by now.
        s.udp_back(A, silent);
        s.wait(3500);
        // At 9.
        s.udp_back(A, slow);
        // From here on it is left alone.
        s.wait(4600);
        s.udp_back(A, slow);
        s.udp_back(A, asked);
    });
}

#[test]
fn what_another_end_does_prolongs_nothing() {
    same(&short(&masquerade(""), &SETTINGS), |s| {
        let outer = s.udp(IN, A);
        s.udp(IN, B);
        s.wait(1500);
        s.udp(IN, B);
        s.udp_back(A2, outer);
        s.wait(1100);
        s.udp_back(A, outer);
        s.udp_back(B, outer);
    });
}

#[test]
fn queries_are_forgotten() {
    same(&short(&masquerade(""), &SETTINGS), |s| {
        let ask = || echo("10.0.0.2:77", "203.0.113.1:77", false);
        let answer = || echo("203.0.113.1:77", &format!("{EXT}:77"), true);
        s.out("ask", ask());
        s.wait(1500);
        s.back("answer", answer());
        s.wait(1500);
        s.back("answer again", answer());
        s.wait(2500);
        s.back("too late", answer());
    });
}
