//! What was found out, as plain data.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// How a NAT's mapping or filter looks at the other end (RFC 4787 sections 4.1 and 5), the friendliest
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependence {
    /// Not at all.
    EndpointIndependent,
    /// At its address.
    AddressDependent,
    /// At its address and port.
    AddressAndPortDependent,
}

impl Dependence {
    /// All three.
    pub const ALL: [Self; 3] =
        [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];

    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// What may be true: all that the tests did not rule out, the friendliest first. A server with one
/// address cannot tell everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Possible(Vec<Dependence>);

impl Default for Possible {
    fn default() -> Self {
        Self(Dependence::ALL.to_vec())
    }
}

impl Possible {
    /// Nothing but this.
    #[must_use]
    pub fn only(one: Dependence) -> Self {
        Self(vec![one])
    }

    /// The ones that `keep` does not rule out.
    #[must_use]
    pub fn filtered(mut self, keep: impl Fn(Dependence) -> bool) -> Self {
        self.0.retain(|d| keep(*d));
        self
    }

    /// Whether nothing was ruled out.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.0.len() == Dependence::ALL.len()
    }

    /// Whether it is one of these for certain.
    #[must_use]
    pub fn is_within(&self, these: &[Dependence]) -> bool {
        self.0.iter().all(|d| these.contains(d))
    }

    /// What may be true.
    #[must_use]
    pub fn all(&self) -> &[Dependence] {
        &self.0
    }

    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        if self.is_unknown() {
            return "not known".to_owned();
        }
        self.0.iter().map(|d| d.words()).collect::<Vec<_>>().join(" or ")
    }
}

/// The largest packet that the way to a STUN server takes, outwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "bytes", rename_all = "snake_case")]
pub enum PathMtu {
    /// Nobody answered, or this system cannot send without fragments.
    #[default]
    NotMeasured,
    /// IP packets of so many bytes arrive, the largest that was tried; larger ones may.
    AtLeast(u16),
    /// The largest size that arrives; the next one that was tried does not.
    Measured(u16),
    /// Not even so many: QUIC's first packets are lost.
    Below(u16),
}

/// How far the tests of an address family came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "reason", rename_all = "snake_case")]
pub enum Udp {
    /// No STUN server with an address of this family is known.
    #[default]
    NoServer,
    /// This machine has no socket or no route for it.
    NoRoute(String),
    /// Requests were sent and nothing came back.
    Silent,
    /// A server answered.
    Answered,
}

/// What is known of one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Family {
    /// Whether UDP gets through.
    pub udp: Udp,
    /// The server that the rest was learned from.
    pub server: Option<SocketAddr>,
    /// Whether it has a second address, without which mapping and filtering are not told apart fully.
    pub two_addresses: bool,
    /// The own address.
    pub local: Option<SocketAddr>,
    /// The address that the server saw.
    pub mapped: Option<SocketAddr>,
    /// Whether the two differ: there is a NAT.
    pub translated: Option<bool>,
    /// Whether the NAT kept the port.
    pub port_kept: Option<bool>,
    /// What a mapping depends on; endpoint-independent without NAT.
    pub mapping: Possible,
    /// What NAT or firewall let in.
    pub filtering: Possible,
    /// Whether two machines behind the NAT reach each other by its outside address; unknown where
    /// there is no NAT.
    pub hairpin: Option<bool>,
    /// The largest packets.
    pub mtu: PathMtu,
    /// Round trip to the server.
    #[serde(serialize_with = "micros", rename = "rtt_us")]
    pub rtt: Option<Duration>,
}

impl Family {
    /// Whether a server answered.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.udp == Udp::Answered
    }
}

/// Microseconds.
pub(super) fn micros<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    let micros = time.map(|t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX));
    micros.serialize(to)
}

/// A server as the mapping socket knows it: whom it asked, and where that one saw it.
pub(super) type Seen = (SocketAddr, SocketAddr);

/// What mappings depend on, by where several destinations saw one socket.
#[must_use]
pub(super) fn mapping(seen: &[Seen]) -> Possible {
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let pairs =
        || seen.iter().enumerate().flat_map(|(n, a)| seen[n + 1..].iter().map(move |b| (a, b)));
    let near = |(a, b): &(&Seen, &Seen)| a.0.ip() == b.0.ip();
    let differ = |(a, b): (&Seen, &Seen)| a.1 != b.1;
    if pairs().filter(near).any(differ) {
        return Possible::only(AddressAndPortDependent);
    }
    let ports = pairs().any(|pair| near(&pair));
    let far: Vec<bool> = pairs().filter(|pair| !near(pair)).map(differ).collect();
    let addresses = (!far.is_empty()).then(|| far.contains(&true));
    Possible::default().filtered(|d| match (d, addresses) {
        (EndpointIndependent, differ) => differ != Some(true),
        (_, Some(false)) => false,
        (AddressDependent, _) => true,
        (AddressAndPortDependent, _) => !ports,
    })
}

/// How asking a server to answer from elsewhere came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// The server cannot, or it is not certain that it can.
    Unknown,
    /// The answer came.
    Came,
    /// It did not, though that place answers when it is asked itself.
    Silent,
}

/// What filters depend on, by which answers came: from the other address (and any port), and from the
/// other port of the same address.
#[must_use]
pub(super) fn filtering(address: Changed, port: Changed) -> Possible {
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    Possible::default().filtered(|d| match (d, address) {
        // Whatever else was lost: this came.
        (_, Changed::Came) => d == EndpointIndependent,
        (EndpointIndependent, Changed::Silent) => false,
        (EndpointIndependent | AddressDependent, _) => port != Changed::Silent,
        (AddressAndPortDependent, _) => port != Changed::Came,
    })
}

#[cfg(test)]
mod tests {
    use super::Dependence::{
        AddressAndPortDependent as Ap, AddressDependent as Ad, EndpointIndependent as Ei,
    };
    use super::*;

    fn seen(rows: &[(&str, &str)]) -> Vec<Dependence> {
        let rows: Vec<Seen> =
            rows.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
        mapping(&rows).all().to_vec()
    }

    #[test]
    fn mappings_by_where_servers_see_us() {
        let (a1, a2) = ("192.0.2.1:3478", "192.0.2.1:3479");
        let (b1, b2) = ("192.0.2.9:3478", "192.0.2.9:3479");
        let (x, y, z) = ("198.51.100.1:4000", "198.51.100.1:4001", "198.51.100.1:4002");
        assert_eq!(seen(&[]), [Ei, Ad, Ap]);
        assert_eq!(seen(&[(a1, x)]), [Ei, Ad, Ap]);
        assert_eq!(seen(&[(a1, x), (a2, x)]), [Ei, Ad]);
        assert_eq!(seen(&[(a1, x), (a2, y)]), [Ap]);
        assert_eq!(seen(&[(a1, x), (b2, x)]), [Ei]);
        assert_eq!(seen(&[(a1, x), (b2, y)]), [Ad, Ap]);
        assert_eq!(seen(&[(a1, x), (a2, x), (b1, x), (b2, x)]), [Ei]);
        assert_eq!(seen(&[(a1, x), (a2, x), (b1, y), (b2, y)]), [Ad]);
        assert_eq!(seen(&[(a1, x), (b1, y), (b2, z)]), [Ap]);
    }

    #[test]
    fn filters_by_which_answers_come() {
        use Changed::{Came, Silent, Unknown};
        let rows: [(Changed, Changed, &[Dependence]); 9] = [
            (Unknown, Unknown, &[Ei, Ad, Ap]),
            (Unknown, Came, &[Ei, Ad]),
            (Unknown, Silent, &[Ap]),
            (Came, Unknown, &[Ei]),
            (Came, Came, &[Ei]),
            (Came, Silent, &[Ei]),
            (Silent, Unknown, &[Ad, Ap]),
            (Silent, Came, &[Ad]),
            (Silent, Silent, &[Ap]),
        ];
        for (address, port, expected) in rows {
            assert_eq!(filtering(address, port).all(), expected, "{address:?} {port:?}");
        }
    }

    #[test]
    fn people_read_what_is_possible() {
        assert_eq!(Possible::default().words(), "not known");
        let two = Possible::default().filtered(|d| d != Ap);
        assert_eq!(two.words(), "endpoint-independent or address-dependent");
        assert!(two.is_within(&[Ei, Ad]) && !two.is_within(&[Ei]));
    }
}
