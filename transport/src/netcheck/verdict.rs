//! What the facts mean for people: a pure function.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::facts::{Dependence, Family, PathMtu, Udp};
use super::{Facts, Relay};

/// With whom direct paths are to be expected, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Whoever has UDP.
    Everybody,
    /// All but those behind symmetric NATs.
    AllButSymmetric,
    /// Those without NAT, or behind full-cone or address-restricted ones.
    OpenNetworks,
    /// Those that have IPv6.
    Ipv6Peers,
    /// UDP gets through, more is not known.
    Unknown,
    /// Nobody: all goes over the broker's relay.
    RelayOnly,
    /// Nobody, and the broker is not reached either.
    Nothing,
}

/// What to expect, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// With whom direct paths work.
    pub reach: Reach,
    /// The same in a sentence or two.
    pub summary: String,
    /// What else is worth knowing or doing, a sentence or two each.
    pub notes: Vec<String>,
}

/// Judges.
#[must_use]
pub fn judge(facts: &Facts) -> Verdict {
    let reach = reach(facts);
    Verdict { reach, summary: summary(reach, facts), notes: notes(reach, facts) }
}

fn reach(facts: &Facts) -> Reach {
    let mapped = facts.port_mapping.external().is_some();
    let relay = || facts.relays.iter().any(|r| r.rtt.is_some());
    match (family(&facts.v4, mapped), family(&facts.v6, false)) {
        (Some(v4), _) => v4,
        (None, Some(_)) => Reach::Ipv6Peers,
        (None, None) if facts.servers.is_empty() && (relay() || facts.relays.is_empty()) => {
            Reach::Unknown
        }
        (None, None) if relay() || facts.relays.is_empty() => Reach::RelayOnly,
        (None, None) => Reach::Nothing,
    }
}

/// Whom one family reaches; nobody, where it does not carry what QUIC needs.
fn family(family: &Family, forwarded: bool) -> Option<Reach> {
    use Dependence::{AddressDependent, EndpointIndependent};
    if !family.answered() || matches!(family.mtu, PathMtu::Below(_)) {
        return None;
    }
    Some(match (&family.mapping, &family.filtering) {
        _ if forwarded => Reach::Everybody,
        (mapping, _) if mapping.is_unknown() => Reach::Unknown,
        // A server with one address cannot rule out address-dependent mappings, which are rare.
        (mapping, filtering) if mapping.all().contains(&EndpointIndependent) => {
            if filtering.is_within(&[EndpointIndependent, AddressDependent]) {
                Reach::Everybody
            } else {
                Reach::AllButSymmetric
            }
        }
        _ => Reach::OpenNetworks,
    })
}

fn summary(reach: Reach, facts: &Facts) -> String {
    match reach {
        Reach::Everybody => "Direct paths will work with almost everybody.".to_owned(),
        Reach::AllButSymmetric => {
            "Direct paths will work with most peers. To those behind a NAT that uses another port for \
             each destination (symmetric: some carriers and companies) a port is guessed while TURN \
             or the relay is used."
                .to_owned()
        }
        Reach::OpenNetworks => {
            "The NAT here uses another port for each destination (symmetric). Direct paths will work \
             at once only with peers on open networks or behind full-cone or address-restricted \
             NATs. With most others a port is guessed while TURN or the relay is used; with those \
             behind a NAT like this one it stays so."
                .to_owned()
        }
        Reach::Ipv6Peers => {
            "Direct paths will work over IPv6, with peers that have it. Others are reached over TURN \
             or the relay."
                .to_owned()
        }
        Reach::Unknown if facts.servers.is_empty() => {
            "No STUN server is known, so nothing was learned of UDP here. Name one with --server \
             HOST:PORT, or a broker with --broker URL."
                .to_owned()
        }
        Reach::Unknown => {
            "UDP gets through. How the NAT here behaves is not known: the server answered from one \
             address and port only."
                .to_owned()
        }
        Reach::RelayOnly => format!(
            "{}: everything goes over the relay{}.",
            match lost(facts) {
                true => "Large UDP packets are lost here, which direct paths need",
                false => "UDP is blocked here, or none of the STUN servers is up: none answered",
            },
            reached(&facts.relays).map(|r| format!(" on TCP port {}", r.port)).unwrap_or_default()
        ),
        Reach::Nothing => {
            "Neither UDP nor a broker gets through: this machine is offline, or a firewall lets \
             nothing out."
                .to_owned()
        }
    }
}

fn reached(relays: &[Relay]) -> Option<&Relay> {
    relays.iter().find(|r| r.rtt.is_some())
}

fn lost(facts: &Facts) -> bool {
    [&facts.v4, &facts.v6].iter().any(|f| matches!(f.mtu, PathMtu::Below(_)))
}

fn notes(reach: Reach, facts: &Facts) -> Vec<String> {
    let mut notes = Vec::new();
    let (v4, v6) = (&facts.v4, &facts.v6);
    if v4.answered() && family(v6, false).is_some() && reach != Reach::Everybody {
        notes.push(
            "Peers that have IPv6, as this machine has, are reached directly over it.".into(),
        );
    }
    if reach > Reach::Everybody && reach < Reach::Ipv6Peers && v4.translated == Some(true) {
        notes.push(
            "If you have a say in the router: port forwarding by PCP, NAT-PMP or UPnP, or a \
             full-cone mode, would let everybody in."
                .to_owned(),
        );
    }
    let masquerade = v4.mapping.all().first() == Some(&Dependence::EndpointIndependent)
        && v4.filtering.all() == [Dependence::AddressAndPortDependent]
        && (v4.port_kept, v4.hairpin) == (Some(true), Some(false));
    if masquerade && v4.translated == Some(true) && reach == Reach::AllButSymmetric {
        notes.push(
            "The NAT looks like Linux' masquerade: it keeps ports, but uses another one for some \
             destinations when two machines behind it want the same."
                .to_owned(),
        );
    }
    let joined = [&v4.mapping, &v4.filtering].into_iter().any(|p| p.all().len() == 2);
    if v4.answered() && !v4.two_addresses && joined {
        notes.push(
            "The STUN server has one address only, so that the kinds that \"or\" joins could not be \
             told apart."
                .to_owned(),
        );
    }
    if let Some(server) = [v4.server, v6.server].into_iter().flatten().find(is_near) {
        notes.push(format!(
            "The STUN server {server} is in this network or on this machine: what lies between here \
             and the Internet does not show. Name another with --server."
        ));
    }
    if lost(facts) {
        notes.push(
            "A tunnel on the way may have a smaller MTU than this machine thinks.".to_owned(),
        );
    }
    let silent = |f: &Family| f.udp == Udp::Silent;
    if silent(v4) || (silent(v6) && !v4.answered()) {
        notes.push(
            "If UDP should work here: see that the broker serves STUN (it does, unless it runs with \
             --turn off) and that no firewall stops UDP to its port 3478."
                .to_owned(),
        );
    }
    if !facts.proxies.is_empty() && reached(&facts.relays).is_none() {
        notes.push(
            "The environment names a proxy, which meshwire does not use: brokers must be reached \
             without it."
                .to_owned(),
        );
    }
    notes
}

/// Whether an address is no further away than this network.
fn is_near(addr: &SocketAddr) -> bool {
    match addr.ip() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Possible;
    use super::Dependence::{
        AddressAndPortDependent as Ap, AddressDependent as Ad, EndpointIndependent as Ei,
    };
    use super::*;
    use std::time::Duration;

    fn these(all: &[Dependence]) -> Possible {
        Possible::default().filtered(|d| all.contains(&d))
    }

    fn nat(mapping: &[Dependence], filtering: &[Dependence]) -> Family {
        Family {
            udp: Udp::Answered,
            server: Some("192.0.2.1:3478".parse().unwrap()),
            two_addresses: true,
            translated: Some(true),
            mapping: these(mapping),
            filtering: these(filtering),
            ..Family::default()
        }
    }

    fn facts(v4: Family, v6: Family) -> Facts {
        let servers = vec!["192.0.2.1:3478".parse().unwrap()];
        Facts { v4, v6, servers, ..Facts::default() }
    }

    fn silent() -> Family {
        Family { udp: Udp::Silent, ..Family::default() }
    }

    fn relay(port: u16, rtt: Option<u64>) -> Relay {
        Relay { url: "https://b".into(), port, rtt: rtt.map(Duration::from_millis), error: None }
    }

    #[test]
    fn whom_each_nat_reaches() {
        let all = [Ei, Ad, Ap];
        let rows: [(&[Dependence], &[Dependence], Reach); 10] = [
            (&[Ei], &[Ei], Reach::Everybody),
            (&[Ei], &[Ad], Reach::Everybody),
            (&[Ei], &[Ei, Ad], Reach::Everybody),
            (&[Ei], &[Ap], Reach::AllButSymmetric),
            (&[Ei], &[Ad, Ap], Reach::AllButSymmetric),
            (&[Ei], &all, Reach::AllButSymmetric),
            (&[Ei, Ad], &[Ap], Reach::AllButSymmetric),
            (&[Ad, Ap], &[Ap], Reach::OpenNetworks),
            (&[Ap], &[Ap], Reach::OpenNetworks),
            (&all, &all, Reach::Unknown),
        ];
        for (mapping, filtering, expected) in rows {
            let verdict = judge(&facts(nat(mapping, filtering), Family::default()));
            assert_eq!(verdict.reach, expected, "{mapping:?} {filtering:?}");
        }
    }

    #[test]
    fn without_udp_the_relay_counts() {
        let mut blocked = facts(silent(), silent());
        blocked.relays = vec![relay(443, None), relay(443, Some(20))];
        let verdict = judge(&blocked);
        assert_eq!(verdict.reach, Reach::RelayOnly);
        assert!(verdict.summary.contains("over the relay on TCP port 443."), "{verdict:?}");
        assert!(verdict.notes[0].contains("--turn off"), "{verdict:?}");
        blocked.relays.pop();
        assert_eq!(judge(&blocked).reach, Reach::Nothing);
        assert_eq!(judge(&Facts::default()).reach, Reach::Unknown);
    }

    #[test]
    fn ipv6_alone_and_beside() {
        assert_eq!(judge(&facts(silent(), nat(&[Ei], &[Ap]))).reach, Reach::Ipv6Peers);
        let both = judge(&facts(nat(&[Ap], &[Ap]), nat(&[Ei], &[Ap])));
        assert_eq!(both.reach, Reach::OpenNetworks);
        assert!(both.notes[0].contains("IPv6"), "{both:?}");
    }

    #[test]
    fn what_is_too_narrow_for_quic_carries_no_direct_path() {
        let narrow = Family { mtu: PathMtu::Below(1248), ..nat(&[Ei], &[Ei]) };
        let verdict = judge(&facts(narrow, Family::default()));
        assert_eq!(verdict.reach, Reach::RelayOnly);
        assert!(verdict.summary.starts_with("Large UDP packets are lost"), "{verdict:?}");
    }

    #[test]
    fn notes_name_what_the_tests_could_not_see() {
        let near = Family { server: Some("10.0.0.1:3478".parse().unwrap()), ..nat(&[Ei], &[Ei]) };
        let said = judge(&facts(near, Family::default())).notes.join("\n");
        assert!(said.contains("10.0.0.1:3478"), "{said}");
        let one = Family { two_addresses: false, ..nat(&[Ei, Ad], &[Ap]) };
        let said = judge(&facts(one, Family::default())).notes.join("\n");
        assert!(said.contains("one address only"), "{said}");
        let linux = Family { port_kept: Some(true), hairpin: Some(false), ..nat(&[Ei], &[Ap]) };
        let mut linux = facts(linux, Family::default());
        assert!(judge(&linux).notes.join("\n").contains("masquerade"));
        linux.proxies = super::super::proxies(|_| Some("http://p".into()));
        assert!(judge(&linux).notes.join("\n").contains("proxy"));
    }
}
