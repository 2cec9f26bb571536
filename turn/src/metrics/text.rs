//! The counters as OpenMetrics text, for whoever shows them. All series are there from the start, with
//! zeros, so that a rate over one sees its first event.

use std::fmt::Write as _;

use super::{Refused, Traffic};
use crate::addr_policy::Refusal;
use crate::auth::Kind;
use crate::core::Transport;
use crate::io::Snapshot;

/// Writes a family's head: what it is and how it is counted.
fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail; here and below.
    let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    head(out, name, kind, help);
    let suffix = if kind == "counter" { "_total" } else { "" };
    let _ = writeln!(out, "{name}{suffix} {value}");
}

/// Lines of the families that are named `turn_…`, without the `# EOF` that ends a whole text.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let counters = &snapshot.counters;
    let size = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    for (name, kind, help, value) in [
        ("turn_allocations", "gauge", "Allocations now", size(snapshot.allocations)),
        ("turn_streams", "gauge", "Streams of clients now", size(snapshot.streams)),
        ("turn_bindings", "counter", "STUN binding requests answered", counters.bindings),
        ("turn_allocated", "counter", "Allocations made", counters.allocated),
        ("turn_expired", "counter", "Allocations that expired", counters.expired),
        ("turn_deleted", "counter", "Allocations ended from this side", counters.deleted),
    ] {
        single(&mut out, name, kind, help, value);
    }
    for (name, help) in [
        ("turn_relayed_datagrams", "Datagrams relayed"),
        ("turn_relayed_bytes", "Payload relayed, bytes"),
    ] {
        let measure = |t: Traffic| if name == "turn_relayed_bytes" { t.bytes } else { t.datagrams };
        head(&mut out, name, "counter", help);
        for (to, all) in [("peer", &counters.to_peers), ("client", &counters.to_clients)] {
            for (kind, transport) in
                Kind::ALL.iter().flat_map(|kind| Transport::ALL.map(|t| (*kind, t)))
            {
                let value = measure(all.get(&(kind, transport)).copied().unwrap_or_default());
                let (kind, transport) = (kind.name(), transport.name());
                let labels = format!("to=\"{to}\",member=\"{kind}\",transport=\"{transport}\"");
                let _ = writeln!(out, "{name}_total{{{labels}}} {value}");
            }
        }
    }
    head(&mut out, "turn_refused", "counter", "What was not done, by cause");
    for cause in Refused::ALL {
        let value = counters.refused.get(&cause).copied().unwrap_or_default();
        let _ = writeln!(out, "turn_refused_total{{cause=\"{}\"}} {value}", cause.name());
    }
    head(&mut out, "turn_refused_peers", "counter", "Peers that the address policy refused");
    for cause in Refusal::ALL {
        let value = counters.refused_peers.get(&cause).copied().unwrap_or_default();
        let _ = writeln!(out, "turn_refused_peers_total{{cause=\"{}\"}} {value}", cause.name());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counters;

    #[test]
    fn everything_is_there_from_the_start_and_counts() {
        let mut counters = Counters::default();
        let empty = Snapshot { allocations: 0, streams: 0, counters: counters.clone() };
        let text = render(&empty);
        for line in [
            "turn_allocations 0",
            "turn_bindings_total 0",
            "turn_relayed_bytes_total{to=\"peer\",member=\"member\",transport=\"udp\"} 0",
            "turn_refused_total{cause=\"byte-quota\"} 0",
            "turn_refused_peers_total{cause=\"own\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        counters.count_to_clients(Kind::Session, Transport::Tcp, 1_200);
        counters.refuse(Refused::MemberQuota);
        counters.refuse_peer(Refusal::Private);
        let text = render(&Snapshot { allocations: 3, streams: 1, counters });
        for line in [
            "turn_allocations 3",
            "turn_streams 1",
            "turn_relayed_bytes_total{to=\"client\",member=\"session\",transport=\"tcp\"} 1200",
            "turn_relayed_datagrams_total{to=\"client\",member=\"session\",transport=\"tcp\"} 1",
            "turn_refused_total{cause=\"member-quota\"} 1",
            "turn_refused_peers_total{cause=\"private\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
    }
}
