//! Asking the router to forward a port: PCP (RFC 6887) and its forerunner NAT-PMP (RFC 6886), without
//! sockets and clock. Where it speaks neither, `keep` asks by UPnP (`upnp`, `igd`).
//!
//! ```text
//! PCP MAP ──▶ granted ──▶ renewed at half its lifetime
//!    │ "not my version", or silence                 │ refused, silence
//!    ▼                                              ▼
//! NAT-PMP: own address, then MAP ──▶ granted      rests, then begins again
//! ```
//!
//! Drive it: send what [`PortMapper::poll_transmit`] says to port [`PORT`] of the router, hand in what
//! comes from there to [`PortMapper::handle`], do both again at [`PortMapper::deadline`], and look at
//! [`PortMapper::mapping`] afterwards.
//!
//! # What a hostile router can do
//! It can make a node offer a wrong address of the kinds that peers take: public, port 1024 or above.
//! At most [`REQUESTS_PER_ROUND`] packets go to it in a round, and rounds are a minute apart, whatever
//! it answers. What does not fit our question to the bit (nonce, port, protocol) is ignored.

#[doc(hidden)]
pub mod fuzz;
mod igd;
mod keep;
#[cfg(test)]
mod tests;
mod upnp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub(crate) use keep::Line;
pub(super) use keep::keep;

use tokio::time::Instant;

use super::candidates::refusal;

/// Where routers listen (RFC 6887 section 19.1).
pub const PORT: u16 = 5351;
/// How long a port is asked for: a router that starts anew has forgotten it until it is renewed, and a
/// node that goes away leaves it behind.
pub const LIFETIME: Duration = Duration::from_secs(1200);
/// The bounds of what a router's lifetime is taken for (RFC 6887 section 15 on both).
const LIFETIMES: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(86_400));
/// When a request is sent, from its first time on, and when it is given up. RFC 6886 section 3.1 begins
/// with 250 ms; RFC 6887's 3 s are longer than an attempt to connect has.
const TRIES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(750)];
const PATIENCE: Duration = Duration::from_millis(1500);
/// Most packets of one round: PCP's, NAT-PMP's question for the address, and for the port.
pub const REQUESTS_PER_ROUND: usize = 3 * TRIES.len();
/// After a refusal, or silence: ten minutes. Networks that change begin at once.
const REST: Duration = Duration::from_secs(600);
/// Least time between two rounds, whatever lifetime a router names.
const LEAST_REST: Duration = Duration::from_secs(60);
/// The largest answer (RFC 6887 section 7).
const MAX_ANSWER: usize = 1100;

const PCP: u8 = 2;
const PCP_MAP: u8 = 1;
const PMP: u8 = 0;
const PMP_ADDRESS: u8 = 0;
const PMP_MAP_UDP: u8 = 1;
const RESPONSE: u8 = 0x80;
const UDP: u8 = 17;
/// In both protocols: the version is not spoken here.
const UNSUPPORTED_VERSION: u16 = 1;

/// By which protocol a router was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP's Internet gateway device.
    Upnp,
}

impl Protocol {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// A port of the router that leads to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The address that it forwards.
    pub external: SocketAddr,
    /// By which protocol it was asked.
    pub protocol: Protocol,
    /// When it ends, if it is not renewed.
    pub until: Instant,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoMapping {
    /// No protocol was answered.
    #[error("it does not answer")]
    Silent,
    /// The router says no.
    #[error("{} result {code}{}", .protocol.name(), meaning(*.protocol, *.code))]
    Refused {
        /// By which protocol.
        protocol: Protocol,
        /// The result code (RFC 6887 section 7.4, RFC 6886 section 3.5, WANIPConnection 2 section
        /// 2.5.18).
        code: u16,
    },
    /// The router answers what makes no sense.
    #[error("its {} answers make no sense", .0.name())]
    Malformed(Protocol),
    /// The address that it forwards is of no use to peers.
    #[error("it forwards {0}, which others cannot reach: it is behind another NAT")]
    Useless(SocketAddr),
}

fn meaning(protocol: Protocol, code: u16) -> &'static str {
    match (protocol, code) {
        (Protocol::Pcp | Protocol::NatPmp, 2) | (Protocol::Upnp, 606) => {
            ", not authorized: the router has it switched off"
        }
        (Protocol::Pcp, 8) | (Protocol::NatPmp, 4) => ", no resources",
        (Protocol::Pcp, 10) => ", quota exceeded",
        (Protocol::Pcp, 12) => ", another NAT is in between",
        (Protocol::NatPmp, 3) => ", it has no address itself",
        (Protocol::Upnp, 718) => ", other machines have the ports that were tried",
        (Protocol::Upnp, 725) => ", it forwards for ever only, which nobody would clear away",
        _ => "",
    }
}

/// What is asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Pcp,
    PmpAddress,
    PmpMap { address: Ipv4Addr },
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Asking { ask: Ask, since: Instant, tries: usize },
    Resting { until: Instant },
}

/// Keeps one UDP port mapped; see the module's documentation.
#[derive(Debug)]
pub struct PortMapper {
    /// Our address in the router's network.
    own: Ipv4Addr,
    /// Our socket's port.
    internal: u16,
    /// Tells our mapping from others' (RFC 6887 section 11.2); stays the same when it is renewed.
    nonce: [u8; 12],
    stage: Stage,
    began: Instant,
    result: Result<Mapping, NoMapping>,
}

impl PortMapper {
    /// Begins to ask that `internal` of `own` be mapped. `nonce` is random.
    #[must_use]
    pub fn new(now: Instant, own: Ipv4Addr, internal: u16, nonce: [u8; 12]) -> Self {
        let stage = Stage::Asking { ask: Ask::Pcp, since: now, tries: 0 };
        let result = Err(NoMapping::Silent);
        Self { own, internal, nonce, stage, began: now, result }
    }

    /// The mapping that holds now; else why there is none, as far as is known.
    ///
    /// # Errors
    /// [`NoMapping`]; while the first round runs [`NoMapping::Silent`].
    pub fn mapping(&self, now: Instant) -> Result<Mapping, NoMapping> {
        self.result.and_then(|m| if m.until > now { Ok(m) } else { Err(NoMapping::Silent) })
    }

    /// Whether a round of questions runs.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. })
    }

    /// Asks again as soon as that is allowed: the router may have another address.
    pub fn refresh(&mut self) {
        if let Stage::Resting { until } = &mut self.stage {
            *until = (*until).min(self.began + LEAST_REST);
        }
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let next = match self.stage {
            Stage::Asking { since, tries, .. } => {
                since + TRIES.get(tries).copied().unwrap_or(PATIENCE)
            }
            Stage::Resting { until } => until,
        };
        // A mapping that ends is news, too.
        match self.result {
            Ok(Mapping { until, .. }) if until > self.began && until < next => until,
            _ => next,
        }
    }

    /// The next packet for the router's port [`PORT`], if one is due.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.result.is_ok_and(|m| m.until <= now) {
            self.result = Err(NoMapping::Silent);
        }
        if let Stage::Resting { until } = self.stage
            && until <= now
        {
            self.begin(now);
        }
        let Stage::Asking { ask, since, .. } = self.stage else { return None };
        if now >= since + PATIENCE {
            match ask {
                Ask::Pcp => self.ask(now, Ask::PmpAddress),
                _ => self.fail(now, NoMapping::Silent),
            }
        }
        let Stage::Asking { ask, since, tries } = &mut self.stage else { return None };
        if TRIES.get(*tries).is_none_or(|after| now < *since + *after) {
            return None;
        }
        *tries += 1;
        let ask = *ask;
        Some(self.request(ask, LIFETIME))
    }

    /// The packet that gives the mapping back, if there is one (RFC 6887 section 15.1, RFC 6886 section
    /// 3.4). Nobody need wait for its answer.
    #[must_use]
    pub fn release(&self) -> Option<Vec<u8>> {
        let Mapping { external, protocol, .. } = self.result.ok()?;
        let ask = match (protocol, external.ip()) {
            (Protocol::NatPmp, IpAddr::V4(address)) => Ask::PmpMap { address },
            _ => Ask::Pcp,
        };
        Some(self.request(ask, Duration::ZERO))
    }

    fn begin(&mut self, now: Instant) {
        self.began = now;
        let ask = match self.result {
            Ok(Mapping { protocol: Protocol::NatPmp, .. }) => Ask::PmpAddress,
            _ => Ask::Pcp,
        };
        self.ask(now, ask);
    }

    fn ask(&mut self, now: Instant, ask: Ask) {
        self.stage = Stage::Asking { ask, since: now, tries: 0 };
    }

    /// A mapping that could not be renewed holds until it ends.
    fn fail(&mut self, now: Instant, why: NoMapping) {
        let rest = match self.result {
            Ok(mapping) => {
                (mapping.until.saturating_duration_since(now) / 2).clamp(LEAST_REST, REST)
            }
            Err(_) => REST,
        };
        if self.result.is_err() || why != NoMapping::Silent {
            self.result = Err(why);
        }
        self.stage = Stage::Resting { until: now + rest };
    }

    fn grant(&mut self, now: Instant, protocol: Protocol, external: SocketAddr, seconds: u32) {
        let lifetime = Duration::from_secs(seconds.into()).clamp(LIFETIMES.0, LIFETIMES.1);
        if !is_useful(external) {
            return self.fail(now, NoMapping::Useless(external));
        }
        self.result = Ok(Mapping { external, protocol, until: now + lifetime });
        self.stage = Stage::Resting { until: now + lifetime / 2 };
    }

    /// A datagram from port [`PORT`] of the router; others must not get here.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
        let Stage::Asking { ask, .. } = self.stage else { return };
        let [version, operation, ..] = *datagram else { return };
        if operation & RESPONSE == 0 || datagram.len() > MAX_ANSWER {
            return;
        }
        match (ask, version, operation & !RESPONSE) {
            (Ask::Pcp, PCP, PCP_MAP) => self.pcp_answer(now, datagram),
            // A router that speaks NAT-PMP alone answers so (RFC 6887 appendix A).
            (Ask::Pcp, PMP, _) if code(datagram) == Some(UNSUPPORTED_VERSION) => {
                self.ask(now, Ask::PmpAddress);
            }
            (Ask::PmpAddress, PMP, PMP_ADDRESS) => self.pmp_address(now, datagram),
            (Ask::PmpMap { address }, PMP, PMP_MAP_UDP) => self.pmp_map(now, address, datagram),
            _ => {}
        }
    }

    /// RFC 6887 sections 7.2 and 11.1.
    fn pcp_answer(&mut self, now: Instant, datagram: &[u8]) {
        let Some((header, map)) = datagram.split_first_chunk::<24>() else { return };
        let Some(map) = map.first_chunk::<36>() else {
            // Without a body only the version can be at fault.
            if u16::from(header[3]) == UNSUPPORTED_VERSION {
                self.ask(now, Ask::PmpAddress);
            }
            return;
        };
        let same =
            map[..12] == self.nonce && map[12] == UDP && map[16..18] == self.internal.to_be_bytes();
        if !same {
            return;
        }
        match u16::from(header[3]) {
            0 => {
                let seconds = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                let port = u16::from_be_bytes([map[18], map[19]]);
                let mut ip = [0; 16];
                ip.copy_from_slice(&map[20..]);
                let ip = Ipv6Addr::from(ip);
                let external = SocketAddr::new(IpAddr::from(ip).to_canonical(), port);
                self.grant(now, Protocol::Pcp, external, seconds);
            }
            UNSUPPORTED_VERSION => self.ask(now, Ask::PmpAddress),
            code => self.fail(now, NoMapping::Refused { protocol: Protocol::Pcp, code }),
        }
    }

    /// RFC 6886 section 3.2.
    fn pmp_address(&mut self, now: Instant, datagram: &[u8]) {
        let Some(code @ 1..) = code(datagram) else {
            let Some([_, _, _, _, _, _, _, _, a, b, c, d]) = datagram.first_chunk::<12>() else {
                return;
            };
            let address = Ipv4Addr::new(*a, *b, *c, *d);
            return self.ask(now, Ask::PmpMap { address });
        };
        self.fail(now, NoMapping::Refused { protocol: Protocol::NatPmp, code });
    }

    /// RFC 6886 section 3.3.
    fn pmp_map(&mut self, now: Instant, address: Ipv4Addr, datagram: &[u8]) {
        match (code(datagram), datagram.first_chunk::<16>()) {
            (Some(0), Some(answer)) if answer[8..10] == self.internal.to_be_bytes() => {
                let external =
                    SocketAddr::new(address.into(), u16::from_be_bytes([answer[10], answer[11]]));
                let seconds = [answer[12], answer[13], answer[14], answer[15]];
                self.grant(now, Protocol::NatPmp, external, u32::from_be_bytes(seconds));
            }
            (Some(code @ 1..), _) => {
                self.fail(now, NoMapping::Refused { protocol: Protocol::NatPmp, code });
            }
            _ => {}
        }
    }

    fn request(&self, ask: Ask, lifetime: Duration) -> Vec<u8> {
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
        // The port that we have is the one to keep, or else the same as inside.
        let port = match self.result {
            _ if lifetime.is_zero() => 0,
            Ok(Mapping { external, .. }) => external.port(),
            Err(_) => self.internal,
        };
        match ask {
            Ask::Pcp => {
                let mut request = vec![PCP, PCP_MAP, 0, 0];
                request.extend(seconds);
                request.extend(self.own.to_ipv6_mapped().octets());
                request.extend(self.nonce);
                request.extend([UDP, 0, 0, 0]);
                request.extend(self.internal.to_be_bytes());
                request.extend(port.to_be_bytes());
                request.extend(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
                request
            }
            Ask::PmpAddress => vec![PMP, PMP_ADDRESS],
            Ask::PmpMap { .. } => {
                let mut request = vec![PMP, PMP_MAP_UDP, 0, 0];
                request.extend(self.internal.to_be_bytes());
                request.extend(port.to_be_bytes());
                request.extend(seconds);
                request
            }
        }
    }
}

/// NAT-PMP's result code.
fn code(datagram: &[u8]) -> Option<u16> {
    let [_, _, high, low] = datagram.first_chunk::<4>()?;
    Some(u16::from_be_bytes([*high, *low]))
}

/// Whether peers elsewhere can send there. Shared and private addresses mean another NAT behind the
/// router's.
fn is_useful(external: SocketAddr) -> bool {
    let IpAddr::V4(ip) = external.ip() else { return false };
    let [a, b, ..] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    refusal(external, false).is_none() && !ip.is_private() && !shared
}
