//! One NAT under test, driven packet by packet; and a small world.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshwire_netsim::nat::{Behaviour, Napt, Nat, NatConfig, Output, Verdict};
use meshwire_netsim::packet::{
    Build, View, build, header_checksum_ok, icmp_error, transport_checksum_ok,
};
use meshwire_netsim::{Dependence, Reason, Time};

pub(crate) const EI: Dependence = Dependence::EndpointIndependent;
pub(crate) const AD: Dependence = Dependence::AddressDependent;
pub(crate) const APD: Dependence = Dependence::AddressAndPortDependent;
pub(crate) const ALL: [Dependence; 3] = [EI, AD, APD];

/// Two inside hosts, three outside endpoints, one of them at another port of the first.
pub(crate) const IN: &str = "10.0.0.2:4000";
pub(crate) const IN2: &str = "10.0.0.3:4000";
pub(crate) const A: &str = "203.0.113.1:7000";
pub(crate) const A2: &str = "203.0.113.1:7001";
pub(crate) const B: &str = "203.0.113.9:7000";
pub(crate) const EXT: &str = "198.51.100.1";

pub(crate) fn sock(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn behaviour(mapping: Dependence, filtering: Dependence) -> Behaviour {
    Behaviour { mapping, filtering }
}

pub(crate) struct Lab {
    pub(crate) nat: Nat,
    pub(crate) now: Time,
    /// The answer to the last packet that was dropped.
    pub(crate) answer: Option<Vec<u8>>,
}

impl Lab {
    pub(crate) fn new(napt: Napt) -> Self {
        Self::with(napt, &[EXT])
    }

    pub(crate) fn with(napt: Napt, external: &[&str]) -> Self {
        let external: Vec<_> = external.iter().map(|a| a.parse().unwrap()).collect();
        let nat = Nat::new(1, "lab", &NatConfig::ports(napt), &external).unwrap();
        Self { nat, now: Time::ZERO, answer: None }
    }

    pub(crate) fn wait(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
    }

    /// Sends a packet through; what comes out has right checksums.
    pub(crate) fn pass(
        &mut self,
        out: bool,
        mut packet: Vec<u8>,
    ) -> Result<(Vec<u8>, bool), Reason> {
        let was = packet.clone();
        let verdict = if out {
            self.nat.outbound(self.now, &mut packet)
        } else {
            self.nat.inbound(self.now, &mut packet)
        };
        self.answer = None;
        match verdict {
            Verdict::Forward | Verdict::Turn => {
                let view = View::parse(&packet).unwrap();
                assert!(header_checksum_ok(&packet, &view.ip));
                assert!(transport_checksum_ok(&packet, &view.ip));
                Ok((packet, verdict == Verdict::Turn))
            }
            Verdict::Drop { reason, answer } => {
                assert_eq!(packet, was, "a dropped packet is as it came");
                self.answer = answer;
                Err(reason)
            }
            Verdict::Own => Err(Reason::NotServed),
            Verdict::Held => Err(Reason::Fragment),
        }
    }

    fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
        let view = View::parse(packet).unwrap();
        let (from, to) = view.ports();
        (SocketAddr::new(view.ip.source, from), SocketAddr::new(view.ip.destination, to))
    }

    /// Sends from inside; gives the outside endpoint.
    pub(crate) fn out(
        &mut self,
        from: &str,
        to: &str,
        what: Build<'_>,
    ) -> Result<SocketAddr, Reason> {
        let (packet, turned) = self.pass(true, build(sock(from), sock(to), what))?;
        assert!(!turned);
        assert_eq!(Self::ends(&packet).1.ip(), sock(to).ip());
        Ok(Self::ends(&packet).0)
    }

    /// Sends from outside; gives the inside endpoint.
    pub(crate) fn back(
        &mut self,
        from: &str,
        to: SocketAddr,
        what: Build<'_>,
    ) -> Result<SocketAddr, Reason> {
        let (packet, _) = self.pass(false, build(sock(from), to, what))?;
        assert_eq!(Self::ends(&packet).0, sock(from));
        Ok(Self::ends(&packet).1)
    }

    pub(crate) fn udp(&mut self, from: &str, to: &str) -> Result<SocketAddr, Reason> {
        self.out(from, to, Build::Udp(b"x"))
    }

    pub(crate) fn udp_back(&mut self, from: &str, to: SocketAddr) -> Result<SocketAddr, Reason> {
        self.back(from, to, Build::Udp(b"y"))
    }

    pub(crate) fn tcp(&mut self, from: &str, to: &str, flags: u8) -> Result<SocketAddr, Reason> {
        self.out(from, to, Build::tcp(flags))
    }

    pub(crate) fn tcp_back(
        &mut self,
        from: &str,
        to: SocketAddr,
        flags: u8,
    ) -> Result<SocketAddr, Reason> {
        self.back(from, to, Build::tcp(flags))
    }

    /// From inside to the NAT's own outside; gives both ends as the receiver inside sees them.
    pub(crate) fn hairpin(&mut self, packet: Vec<u8>) -> Result<(SocketAddr, SocketAddr), Reason> {
        let (packet, turned) = self.pass(true, packet)?;
        assert!(turned);
        Ok(Self::ends(&packet))
    }

    pub(crate) fn said(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(output) = self.nat.poll(self.now) {
            if let Output::Say(packet) = output {
                all.push(packet);
            }
        }
        all
    }

    pub(crate) fn live(&mut self) -> usize {
        self.nat.mappings(self.now).len()
    }
}

/// Type and code of an ICMP packet, and the ends of what it quotes.
pub(crate) fn icmp(packet: &[u8]) -> (u8, u8, SocketAddr, SocketAddr) {
    let view = View::parse(packet).unwrap();
    assert!(transport_checksum_ok(packet, &view.ip));
    let at = view.ip.transport;
    let inner = View::parse_quoted(&packet[at + 8..]).unwrap();
    let (from, to) = inner.ports();
    (
        packet[at],
        packet[at + 1],
        SocketAddr::new(inner.ip.source, from),
        SocketAddr::new(inner.ip.destination, to),
    )
}

pub(crate) fn error_about(from: &str, packet: &[u8]) -> Vec<u8> {
    let what = meshwire_netsim::packet::IcmpError::PortUnreachable;
    icmp_error(ip(from), what, packet).unwrap()
}
