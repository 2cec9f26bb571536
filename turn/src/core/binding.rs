//! Binding, and behaviour discovery (RFC 5780).

use std::net::SocketAddr;

use super::{Behaviour, Flow, Outcome, Server, Via};
use crate::addr_policy::canonical;
use crate::stun::{Builder, Class, Message, Method, attr};

const CHANGE_IP: u8 = 4;
const CHANGE_PORT: u8 = 2;

/// Where an answer comes from, and which address the other socket has.
struct Route {
    via: Via,
    origin: SocketAddr,
    other: SocketAddr,
}

/// Which socket answers a request to `id` that asks for `change`; nothing where no socket fits.
fn route(behaviour: &Behaviour, id: u64, change: u8) -> Option<Route> {
    let (here, there) = match id {
        id if id == behaviour.main.0 => (behaviour.main.1, behaviour.other.1),
        id if id == behaviour.other.0 => (behaviour.other.1, behaviour.main.1),
        _ => return None,
    };
    let differs = u8::from(here.ip() != there.ip()) * CHANGE_IP
        + u8::from(here.port() != there.port()) * CHANGE_PORT;
    match change & (CHANGE_IP | CHANGE_PORT) {
        0 => Some(Route { via: Via::Same, origin: here, other: there }),
        change if change == differs => Some(Route { via: Via::Other, origin: there, other: there }),
        _ => None,
    }
}

impl<R: Clone> Server<R> {
    pub(super) fn binding<'a>(&mut self, flow: &Flow, message: &Message<'_>) -> Outcome<'a, R> {
        let id = message.transaction();
        let change = match message.attribute(attr::CHANGE_REQUEST) {
            Some([0, 0, 0, change]) => *change,
            Some(_) => return self.refuse(message, 400, "CHANGE-REQUEST has 4 bytes"),
            None => 0,
        };
        let behaviour = self.setup.behaviour.filter(|_| !flow.is_stream());
        let route = behaviour.as_ref().and_then(|b| route(b, flow.id, change));
        if change & (CHANGE_IP | CHANGE_PORT) != 0 && route.is_none() {
            return self.unknown(message, &[attr::CHANGE_REQUEST]);
        }
        let mut reply = Builder::new(Class::Success, Method::Binding, id)
            .xor_address(attr::XOR_MAPPED_ADDRESS, canonical(flow.client));
        if let Some(Route { origin, other, .. }) = &route {
            reply =
                reply.address(attr::RESPONSE_ORIGIN, *origin).address(attr::OTHER_ADDRESS, *other);
        }
        if message.has_fingerprint() {
            reply = reply.fingerprint();
        }
        self.counters.bindings += 1;
        Outcome::Reply(reply.finish(), route.map_or(Via::Same, |r| r.via))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_that_was_asked_for_answers_or_none() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (a, b) = (at("192.0.2.1:3478"), at("192.0.2.1:3479"));
        let two_ports = Behaviour { main: (0, a), other: (1, b) };
        let via = |b: &Behaviour, id, change| route(b, id, change).map(|r| (r.via, r.origin));
        assert_eq!(via(&two_ports, 0, 0), Some((Via::Same, a)));
        assert_eq!(via(&two_ports, 0, CHANGE_PORT), Some((Via::Other, b)));
        assert_eq!(via(&two_ports, 1, CHANGE_PORT), Some((Via::Other, a)));
        assert_eq!(via(&two_ports, 0, CHANGE_IP), None);
        assert_eq!(via(&two_ports, 0, CHANGE_IP | CHANGE_PORT), None);
        assert_eq!(via(&two_ports, 7, 0), None);
        let far = Behaviour { main: (0, a), other: (1, at("192.0.2.2:3479")) };
        assert_eq!(via(&far, 0, CHANGE_IP | CHANGE_PORT), Some((Via::Other, far.other.1)));
        assert_eq!(via(&far, 0, CHANGE_PORT), None);
    }
}
