//! A server, clients and how they talk.

use std::net::SocketAddr;

use crate::auth::Secret;
use crate::core::{AllocationId, Delivery, Event, Limits, Outcome, Server, Transport, Via};
use crate::fuzz::{self, Client, at};
use crate::stun::{Builder, Class, Message, Method, attr, channel_header, encode_xor};

pub(super) const OWN: [u8; 4] = [9, 9, 9, 9];

/// An answer, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Success(Vec<u8>),
    Error(u16, Vec<u8>),
    Opening(AllocationId),
    Nothing,
}

impl Answer {
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Success(_) => 200,
            Self::Error(code, _) => *code,
            Self::Opening(_) => 100,
            Self::Nothing => 0,
        }
    }

    pub(super) fn lifetime(&self) -> u32 {
        u32::from_be_bytes(self.attribute(attr::LIFETIME).unwrap().try_into().unwrap())
    }

    pub(super) fn attribute(&self, kind: u16) -> Option<Vec<u8>> {
        let (Self::Success(bytes) | Self::Error(_, bytes)) = self else { return None };
        Message::parse(bytes).unwrap().attribute(kind).map(<[u8]>::to_vec)
    }
}

pub(super) struct World {
    pub(super) server: Server<u16>,
    pub(super) secret: Secret,
    pub(super) tick: u64,
    next_port: u16,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        let (server, secret) = fuzz::server(limits);
        Self { server, secret, tick: 0, next_port: 50_000 }
    }

    /// A client that knows its nonce.
    pub(super) fn client(&mut self, member: &str, port: u16) -> Client {
        self.client_over(member, port, Transport::Udp)
    }

    pub(super) fn client_over(&mut self, member: &str, port: u16, over: Transport) -> Client {
        let mut client = fuzz::client(&self.secret, member, port, over);
        client.introduce(&mut self.server, at(self.tick));
        client
    }

    pub(super) fn send(&mut self, client: &Client, bytes: &[u8]) -> Answer {
        match self.server.client_sent(at(self.tick), &client.flow, bytes) {
            Outcome::Reply(bytes, Via::Same) => {
                let message = Message::parse(&bytes).unwrap();
                match message.class() {
                    Class::Success => Answer::Success(bytes),
                    _ => {
                        let value = message.attribute(attr::ERROR_CODE).unwrap();
                        let code = u16::from(value[2]) * 100 + u16::from(value[3]);
                        Answer::Error(code, bytes)
                    }
                }
            }
            Outcome::Open(open) => Answer::Opening(open.allocation),
            Outcome::Nothing => Answer::Nothing,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn ask(
        &mut self,
        client: &mut Client,
        method: Method,
        attributes: &[(u16, Vec<u8>)],
    ) -> Answer {
        let bytes = client.request(method, attributes);
        self.send(client, &bytes)
    }

    /// Allocates and gives the relayed address.
    pub(super) fn allocate(&mut self, client: &mut Client) -> (AllocationId, SocketAddr) {
        match self.ask(client, Method::Allocate, &[udp()]) {
            Answer::Opening(id) => (id, self.open(id)),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn open(&mut self, id: AllocationId) -> SocketAddr {
        self.next_port += 1;
        let relayed = SocketAddr::from((OWN, self.next_port));
        let answered = self.server.opened(id, Ok((self.next_port, relayed)));
        let (_, bytes) = answered.expect("somebody waits for it");
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.class(), Class::Success);
        relayed
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, seconds: u64) {
        self.tick += seconds * 1_000;
        self.server.expire(at(self.tick));
    }

    /// Relayed sockets that were closed since the last time.
    pub(super) fn closed(&mut self) -> Vec<u16> {
        let events = std::iter::from_fn(|| self.server.poll_event());
        let closed = events.filter_map(|event| match event {
            Event::Closed { relay } => Some(relay),
            Event::Hangup { .. } => None,
        });
        closed.collect()
    }

    pub(super) fn permit(&mut self, client: &mut Client, peer: &str) -> u16 {
        let attribute = self.peer(client, peer);
        self.ask(client, Method::CreatePermission, &[attribute]).code()
    }

    pub(super) fn bind(&mut self, client: &mut Client, number: u16, peer: &str) -> u16 {
        let attributes = [channel(number), self.peer(client, peer)];
        self.ask(client, Method::ChannelBind, &attributes).code()
    }

    /// The peer as the client's next request has it.
    pub(super) fn peer(&self, client: &Client, peer: &str) -> (u16, Vec<u8>) {
        let mut value = Vec::new();
        let transaction = [client.transaction.wrapping_add(1); 12];
        encode_xor(&mut value, peer.parse().unwrap(), &transaction);
        (attr::XOR_PEER_ADDRESS, value)
    }

    /// Where data goes that a client sends in an indication.
    pub(super) fn indicate(&mut self, client: &Client, peer: &str, data: &[u8]) -> Way {
        let bytes = Builder::new(Class::Indication, Method::Send, &[3; 12])
            .xor_address(attr::XOR_PEER_ADDRESS, peer.parse().unwrap())
            .attribute(attr::DATA, data)
            .finish();
        self.way(client, &bytes)
    }

    /// Where data goes that a client sends through a channel.
    pub(super) fn through(&mut self, client: &Client, number: u16, data: &[u8]) -> Way {
        let mut bytes = channel_header(number, u16::try_from(data.len()).unwrap()).to_vec();
        bytes.extend(data);
        self.way(client, &bytes)
    }

    fn way(&mut self, client: &Client, bytes: &[u8]) -> Way {
        match self.server.client_sent(at(self.tick), &client.flow, bytes) {
            Outcome::ToPeer { relay, peer, data } => Way::Peer(relay, peer, data.to_vec()),
            Outcome::ToClient(delivery, data) => Way::Client(delivery, data.to_vec()),
            Outcome::Nothing => Way::Nowhere,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn arrive(
        &mut self,
        id: AllocationId,
        peer: &str,
        length: usize,
    ) -> Option<Delivery> {
        self.server.peer_sent(at(self.tick), id, peer.parse().unwrap(), length)
    }
}

/// Where data went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Nowhere,
    Peer(u16, SocketAddr, Vec<u8>),
    Client(Delivery, Vec<u8>),
}

pub(super) fn udp() -> (u16, Vec<u8>) {
    (attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])
}

pub(super) fn lifetime(seconds: u32) -> (u16, Vec<u8>) {
    (attr::LIFETIME, seconds.to_be_bytes().to_vec())
}

pub(super) fn channel(number: u16) -> (u16, Vec<u8>) {
    (attr::CHANNEL_NUMBER, [&number.to_be_bytes()[..], &[0, 0]].concat())
}
