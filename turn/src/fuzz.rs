//! What fuzz targets and property tests call: a server, three clients, two of them of one member, and
//! any bytes at all. Checks its bounds after each step and panics where they do not hold.

use std::net::SocketAddr;

use crate::addr_policy::AddressPolicy;
use crate::auth::{Algorithm, Credentials, Kind, Member, REALM, Secret, long_term_key};
use crate::core::{Event, Flow, Limits, Now, Outcome, Server, Setup, Transport};
use crate::stun::{Builder, Class, Integrity, Message, Method, attr, channel_data, next_frame};

/// When fuzzed servers live, Unix milliseconds.
const EPOCH: u64 = 1_700_000_000_000;
const LIMITS: Limits = Limits {
    allocations: 3,
    per_member: 2,
    bytes_per_second: 100_000,
    permissions: 4,
    channels: 3,
    answers_per_second: 1_000_000,
};

/// A client with credentials and a nonce.
pub(crate) struct Client {
    pub(crate) flow: Flow,
    pub(crate) credentials: Credentials,
    pub(crate) nonce: Vec<u8>,
    pub(crate) transaction: u8,
}

impl Client {
    /// A request, signed.
    pub(crate) fn request(&mut self, method: Method, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
        self.transaction = self.transaction.wrapping_add(1);
        let mut message = Builder::new(Class::Request, method, &[self.transaction; 12]);
        for (kind, value) in attributes {
            message = message.attribute(*kind, value);
        }
        self.sign(message)
    }

    fn sign(&self, message: Builder) -> Vec<u8> {
        let Credentials { username, password, .. } = &self.credentials;
        message
            .attribute(attr::USERNAME, username.as_bytes())
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &self.nonce)
            .integrity(Integrity::Sha1, &long_term_key(Algorithm::Md5, username, password))
            .finish()
    }

    /// Asks without a signature, and keeps the nonce of the refusal.
    pub(crate) fn introduce<R: Clone>(&mut self, server: &mut Server<R>, now: Now) {
        let hello = Builder::new(Class::Request, Method::Allocate, &[0; 12]).finish();
        if let Outcome::Reply(bytes, _) = server.client_sent(now, &self.flow, &hello)
            && let Ok(reply) = Message::parse(&bytes)
        {
            self.nonce = reply.attribute(attr::NONCE).unwrap_or_default().to_vec();
        }
    }
}

/// A server with small limits.
pub(crate) fn server<R: Clone>(limits: Limits) -> (Server<R>, Secret) {
    let secret = Secret::new("fuzz");
    let own = vec!["9.9.9.9".parse().unwrap_or(std::net::Ipv4Addr::LOCALHOST.into())];
    let policy = AddressPolicy { allow: Vec::new(), own };
    let setup =
        Setup { secret: secret.clone(), policy, limits, v4: true, v6: true, behaviour: None };
    (Server::new(setup), secret)
}

pub(crate) fn at(tick: u64) -> Now {
    Now { tick, unix_ms: EPOCH.saturating_add(tick) }
}

pub(crate) fn client(secret: &Secret, member: &str, port: u16, transport: Transport) -> Client {
    let member = Member::new(Kind::Member, member).map_err(drop);
    let credentials = member.map(|m| secret.issue(&m, 86_400, EPOCH));
    let credentials = credentials.unwrap_or(Credentials {
        username: String::new(),
        password: String::new().into(),
        ttl: 0,
    });
    let client = SocketAddr::from(([8, 8, 4, 4], port));
    let flow = Flow { transport, id: port.into(), local: None, client };
    Client { flow, credentials, nonce: Vec::new(), transaction: 0 }
}

/// Takes `data` apart into steps (what to do, with which client, how long the bytes for it are) and
/// does them.
///
/// Gives how far it came: most allocations, permissions and channels, and whether data was relayed.
///
/// # Panics
/// Where a bound does not hold.
pub fn run(data: &[u8]) -> Reached {
    let _ = (Message::parse(data), channel_data(data), next_frame(data));
    let (mut server, secret) = server::<u16>(LIMITS);
    let mut clients = [
        client(&secret, "a", 1, Transport::Udp),
        client(&secret, "a", 2, Transport::Tcp),
        client(&secret, "b", 3, Transport::Udp),
    ];
    let mut tick = 0_u64;
    for client in &mut clients {
        client.introduce(&mut server, at(tick));
    }
    let mut opened = Vec::new();
    let mut reached = Reached::default();
    let mut rest = data;
    while let [what, who, length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        let client = &mut clients[usize::from(*who) % 3];
        let flow = client.flow;
        let sent = match what % 8 {
            0 => bytes.to_vec(),
            1..=4 => client.request(METHODS[usize::from(*what) % 4], &attributes(bytes)),
            5 => {
                tick = tick.saturating_add(u64::from(*length) * 7_000);
                server.expire(at(tick));
                continue;
            }
            6 => {
                let peer = SocketAddr::from(([1, 1, 1, *who % 4], 9));
                for id in &opened {
                    if let Some(delivery) = server.peer_sent(at(tick), *id, peer, bytes.len()) {
                        reached.relayed = true;
                        let mut out = Vec::new();
                        delivery.write(bytes, &mut out);
                        assert!(out.len() <= bytes.len() + 64, "a delivery grew");
                    }
                }
                continue;
            }
            _ => {
                server.forget(&flow);
                continue;
            }
        };
        match server.client_sent(at(tick), &flow, &sent) {
            Outcome::Open(open) => {
                let port = 50_000 + u16::from(*who);
                let socket = if *length == 255 {
                    Err(std::io::ErrorKind::AddrInUse.into())
                } else {
                    Ok((port, SocketAddr::from(([9, 9, 9, 9], port))))
                };
                server.opened(open.allocation, socket);
                opened.push(open.allocation);
            }
            Outcome::Reply(bytes, _) => assert!(bytes.len() <= 300, "a reply grew"),
            Outcome::ToPeer { peer, .. } => {
                assert!(AddressPolicy::default().check(peer, |_| false).is_ok(), "{peer}");
            }
            Outcome::ToClient(..) | Outcome::Nothing => {}
        }
        while let Some(event) = server.poll_event() {
            assert!(matches!(event, Event::Closed { .. }), "nobody was deleted");
        }
        server.check_bounds();
        let sizes = server.sizes();
        reached.allocations = reached.allocations.max(sizes.allocations);
        reached.permissions = reached.permissions.max(sizes.permissions);
        reached.channels = reached.channels.max(sizes.channels);
    }
    reached
}

/// How far a run came, so that a test can tell whether its bytes are worth anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// Most allocations at once.
    pub allocations: usize,
    /// Most permissions of one.
    pub permissions: usize,
    /// Most channels of one.
    pub channels: usize,
    /// Whether a peer's data came through.
    pub relayed: bool,
}

const METHODS: [Method; 4] =
    [Method::Allocate, Method::Refresh, Method::CreatePermission, Method::ChannelBind];

/// Attributes that mean something, with values that any bytes choose.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    const KINDS: [u16; 10] = [
        attr::REQUESTED_TRANSPORT,
        attr::LIFETIME,
        attr::XOR_PEER_ADDRESS,
        attr::CHANNEL_NUMBER,
        attr::REQUESTED_ADDRESS_FAMILY,
        attr::EVEN_PORT,
        attr::RESERVATION_TOKEN,
        attr::ADDITIONAL_ADDRESS_FAMILY,
        attr::DONT_FRAGMENT,
        attr::PASSWORD_ALGORITHM,
    ];
    let mut found = Vec::new();
    while let [kind, choice, tail @ ..] = bytes {
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let length = match kind {
            attr::XOR_PEER_ADDRESS => 8,
            attr::EVEN_PORT => 1,
            attr::DONT_FRAGMENT => 0,
            _ => 4,
        };
        let length = if *choice == 255 { length + 3 } else { length };
        let (value, tail) = tail.split_at(length.min(tail.len()));
        found.push((kind, value.to_vec()));
        bytes = tail;
    }
    found
}

impl<R: Clone> Server<R> {
    fn check_bounds(&self) {
        let sizes = self.sizes();
        assert!(sizes.allocations <= LIMITS.allocations, "{sizes:?}");
        assert!(
            sizes.flows == sizes.allocations && sizes.relayed <= sizes.allocations,
            "{sizes:?}"
        );
        assert!(sizes.most_per_member <= LIMITS.per_member, "{sizes:?}");
        assert!(sizes.permissions <= LIMITS.permissions, "{sizes:?}");
        assert!(sizes.channels <= LIMITS.channels, "{sizes:?}");
        assert!(sizes.numbers <= LIMITS.channels, "{sizes:?}");
    }
}
