//! What a node takes of a peer's candidates.
//!
//! An offer tells a node to send packets to addresses of somebody else's choosing. Whoever may signal
//! could so make it knock at machines of its own LAN, at its own services, or at a victim's. Hence a
//! list is short ([`MAX_CANDIDATES`]), no well-known ports are tried, and some addresses never.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::local::site_local;
use super::{Candidate, CandidateKind, LEAST_PORT, MAX_CANDIDATES};

/// Why a peer's candidate is not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The port is below [`LEAST_PORT`].
    #[error("port below 1024")]
    Port,
    /// No address at all, or one of "this network" (0/8).
    #[error("unspecified address")]
    Unspecified,
    /// A loopback address from a peer that is not on this machine as far as anybody knows.
    #[error("loopback address")]
    Loopback,
    /// A group of machines.
    #[error("multicast or broadcast address")]
    Many,
    /// Means another machine on each link.
    #[error("link-local address")]
    LinkLocal,
    /// Reserved, or an IPv6 notation of an IPv4 address.
    #[error("reserved address")]
    Reserved,
    /// It is there already.
    #[error("known already")]
    Known,
    /// More than a list may have.
    #[error("more than {MAX_CANDIDATES} candidates")]
    TooMany,
}

/// Why an address is never sent to, if so; `loopback`: both nodes reach the broker over loopback.
#[must_use]
pub fn refusal(addr: SocketAddr, loopback: bool) -> Option<Refusal> {
    if addr.port() < LEAST_PORT {
        return Some(Refusal::Port);
    }
    match addr.ip() {
        ip if ip.is_loopback() => (!loopback).then_some(Refusal::Loopback),
        ip if ip.is_multicast() => Some(Refusal::Many),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Refusal::Many),
        IpAddr::V4(ip) => match ip.octets() {
            [0, ..] => Some(Refusal::Unspecified),
            [169, 254, ..] => Some(Refusal::LinkLocal),
            [240..=255, ..] => Some(Refusal::Reserved),
            _ => None,
        },
        IpAddr::V6(ip) if ip.is_unspecified() => Some(Refusal::Unspecified),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(Refusal::LinkLocal),
        IpAddr::V6(ip) if ip.to_ipv4().is_some() || site_local(ip) => Some(Refusal::Reserved),
        IpAddr::V6(_) => None,
    }
}

/// Lets through what an attempt takes of its peer's candidates, from the first offer to the last
/// trickled one.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    loopback: bool,
    broadcasts: BTreeSet<IpAddr>,
    taken: BTreeSet<SocketAddr>,
    kinds: [usize; 4],
}

impl Screen {
    /// Nothing taken yet; `broadcasts` are the broadcast addresses of our own networks.
    #[must_use]
    pub fn new(loopback: bool, broadcasts: impl IntoIterator<Item = IpAddr>) -> Self {
        let broadcasts = broadcasts.into_iter().collect();
        Self { loopback, broadcasts, ..Self::default() }
    }

    /// Takes a candidate or says why not.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take(&mut self, candidate: &Candidate) -> Result<(), Refusal> {
        if let Some(refusal) = self.refuses(candidate.addr) {
            return Err(refusal);
        }
        if self.taken.contains(&candidate.addr) {
            return Err(Refusal::Known);
        }
        let count = &mut self.kinds[match candidate.kind {
            CandidateKind::Host => 0,
            CandidateKind::Mapped => 1,
            CandidateKind::Reflexive => 2,
            CandidateKind::Relayed => 3,
        }];
        if self.taken.len() >= MAX_CANDIDATES || *count >= candidate.kind.most() {
            return Err(Refusal::TooMany);
        }
        *count += 1;
        self.taken.insert(candidate.addr);
        Ok(())
    }

    /// Why an address is never sent to, if so.
    #[must_use]
    pub fn refuses(&self, addr: SocketAddr) -> Option<Refusal> {
        if self.broadcasts.contains(&addr.ip()) {
            return Some(Refusal::Many);
        }
        refusal(addr, self.loopback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_refused_of_each_address() {
        let rows: [(&str, Option<Refusal>); 24] = [
            ("192.168.1.2:5000", None),
            ("10.0.0.1:1024", None),
            ("198.51.100.7:65535", None),
            ("[2001:db8::1]:5000", None),
            ("[fd00::1]:5000", None),
            ("192.168.1.2:22", Some(Refusal::Port)),
            ("192.168.1.2:1023", Some(Refusal::Port)),
            ("192.168.1.2:0", Some(Refusal::Port)),
            ("0.0.0.0:5000", Some(Refusal::Unspecified)),
            ("0.1.2.3:5000", Some(Refusal::Unspecified)),
            ("[::]:5000", Some(Refusal::Unspecified)),
            ("127.0.0.1:5000", Some(Refusal::Loopback)),
            ("127.9.9.9:5000", Some(Refusal::Loopback)),
            ("[::1]:5000", Some(Refusal::Loopback)),
            ("224.0.0.251:5353", Some(Refusal::Many)),
            ("255.255.255.255:5000", Some(Refusal::Many)),
            ("192.168.1.255:5000", Some(Refusal::Many)),
            ("[ff02::1]:5000", Some(Refusal::Many)),
            ("169.254.1.1:5000", Some(Refusal::LinkLocal)),
            ("[fe80::1]:5000", Some(Refusal::LinkLocal)),
            ("240.0.0.1:5000", Some(Refusal::Reserved)),
            ("[::ffff:127.0.0.1]:5000", Some(Refusal::Reserved)),
            ("[::7f00:1]:5000", Some(Refusal::Reserved)),
            ("[fec0::1]:5000", Some(Refusal::Reserved)),
        ];
        let screen = Screen::new(false, ["192.168.1.255".parse().unwrap()]);
        for (addr, expected) in rows {
            assert_eq!(screen.refuses(addr.parse().unwrap()), expected, "{addr}");
        }
        let near = Screen::new(true, []);
        assert_eq!(near.refuses("127.0.0.1:5000".parse().unwrap()), None);
        assert_eq!(near.refuses("127.0.0.1:22".parse().unwrap()), Some(Refusal::Port));
    }

    fn candidate(kind: CandidateKind, addr: SocketAddr) -> Candidate {
        Candidate { kind, addr, priority: 1 }
    }

    #[test]
    fn a_thousand_candidates_are_a_few_and_each_counts_once() {
        let mut screen = Screen::new(false, []);
        let first = candidate(CandidateKind::Host, "10.0.0.1:5000".parse().unwrap());
        assert_eq!(screen.take(&first), Ok(()));
        let again = Candidate { kind: CandidateKind::Reflexive, ..first };
        assert_eq!(screen.take(&again), Err(Refusal::Known));
        for n in 0..1000_u16 {
            let [high, low] = n.to_be_bytes();
            let addr = SocketAddr::new([10, 1, high, low].into(), 5000);
            let _ = screen.take(&candidate(CandidateKind::Host, addr));
        }
        assert_eq!(screen.taken.len(), CandidateKind::Host.most());
        let relayed = candidate(CandidateKind::Relayed, "203.0.113.9:5000".parse().unwrap());
        assert_eq!(screen.take(&relayed), Ok(()), "one kind leaves room for the others");
    }

    proptest! {
        #[test]
        fn never_more_than_the_caps_and_nothing_forbidden(
            all in proptest::collection::vec((any::<u128>(), any::<bool>(), any::<u16>(), 0..4_usize), 0..200)
        ) {
            let kinds = [
                CandidateKind::Host, CandidateKind::Mapped, CandidateKind::Reflexive, CandidateKind::Relayed,
            ];
            let mut screen = Screen::new(false, []);
            let mut taken = Vec::new();
            for (bits, v4, port, kind) in all {
                let [.., a, b, c, d] = bits.to_be_bytes();
                let ip = match v4 {
                    true => IpAddr::from([a, b, c, d]),
                    false => IpAddr::from(bits.to_be_bytes()),
                };
                let candidate = candidate(kinds[kind], SocketAddr::new(ip, port));
                if screen.take(&candidate).is_ok() {
                    taken.push(candidate);
                }
            }
            prop_assert!(taken.len() <= MAX_CANDIDATES);
            for one in &taken {
                prop_assert!(one.addr.port() >= LEAST_PORT && !one.addr.ip().is_loopback());
                let kind = taken.iter().filter(|c| c.kind == one.kind).count();
                prop_assert!(kind <= one.kind.most());
            }
        }
    }
}
