//! What happens to a packet from hop to hop: networks, hosts, routers, links.

use crate::engine::{Engine, Place, What};
use crate::link::Fate;
use crate::nat::Output;
use crate::packet::{IcmpError, View, decrement_ttl, fragment, header_checksum_ok, icmp_error};
use crate::reason::Reason;
use crate::router::Routed;
use crate::topology::{IfaceId, Net, NetId, Owner, RouterId};
use crate::trace::Event;

impl Engine {
    pub(crate) fn arrive(&mut self, id: IfaceId, up: bool, epoch: u32, packet: Vec<u8>) {
        let Some(iface) = self.ifaces.get(id.index()) else { return };
        let lane = if up { &iface.up } else { &iface.down };
        if lane.epoch != epoch {
            return self.drop_at(id, &packet, Reason::LinkDown);
        }
        let place = if up { Place::Net(iface.net, Some(id)) } else { Place::Owner(id) };
        self.work.push_back((place, packet));
    }

    pub(crate) fn in_net(&mut self, id: NetId, from: Option<IfaceId>, mut packet: Vec<u8>) {
        let Some(net) = self.nets.get(id.index()) else { return };
        let verdict = match View::parse(&packet) {
            Err(_) => Err((Reason::Malformed, None)),
            Ok(view) if net.core && !header_checksum_ok(&packet, &view.ip) => {
                Err((Reason::BadChecksum, None))
            }
            // What the core itself says has taken no hop yet.
            Ok(view) if net.core && from.is_some() && !decrement_ttl(&mut packet, &view, 1) => {
                Err((Reason::TtlExpired, Some(IcmpError::TimeExceeded)))
            }
            Ok(view) => match net.route(view.ip.destination).filter(|to| Some(*to) != from) {
                None => Err((Reason::NoRoute, Some(IcmpError::HostUnreachable))),
                Some(to) => {
                    let part = |i: IfaceId| self.ifaces.get(i.index()).map(|i| i.part);
                    if from.is_some_and(|f| part(f) != part(to)) {
                        Err((Reason::Partitioned, None))
                    } else {
                        Ok(to)
                    }
                }
            },
        };
        match verdict {
            Ok(to) => self.transmit(to, false, packet),
            Err((reason, what)) => {
                let name = net.name.clone();
                self.tell(&name, &packet, Event::Dropped(reason));
                if let (Some(what), Some(_)) = (what, from) {
                    self.net_says(id, what, &packet);
                }
            }
        }
    }

    /// A network tells a packet's source what became of it.
    fn net_says(&mut self, id: NetId, what: IcmpError, about: &[u8]) {
        let Ok(view) = View::parse(about) else { return };
        let speaker = Net::speaker(view.ip.source);
        if view.ip.source == speaker {
            return;
        }
        if let Some(answer) = icmp_error(speaker, what, about) {
            let name = self.nets.get(id.index()).map(|n| n.name.clone()).unwrap_or_default();
            self.tell(&name, &answer, Event::Made);
            self.work.push_back((Place::Net(id, None), answer));
        }
    }

    pub(crate) fn at_owner(&mut self, id: IfaceId, packet: Vec<u8>) {
        let Some(iface) = self.ifaces.get(id.index()) else { return };
        match iface.owner {
            Owner::Host(host) => {
                let to = View::parse(&packet).map(|v| v.ip.destination);
                match to {
                    Ok(to) if iface.addresses.contains(&to) => self.deliver(host, Some(id), packet),
                    Ok(_) => self.drop_at(id, &packet, Reason::NoRoute),
                    Err(_) => self.drop_at(id, &packet, Reason::Malformed),
                }
            }
            Owner::Router(router) => self.at_router(router, id, packet),
        }
    }

    fn at_router(&mut self, id: RouterId, from: IfaceId, mut packet: Vec<u8>) {
        let now = self.now;
        let Some(router) = self.routers.get_mut(id.index()) else { return };
        match router.forward(now, from, &mut packet) {
            Routed::To(out) => {
                self.tell_at(from, &packet, Event::Forwarded);
                self.transmit(out, true, packet);
            }
            Routed::Held => {}
            Routed::Absorbed(reply) => {
                self.tell_at(from, &packet, Event::Absorbed);
                self.router_says(id, reply);
            }
            Routed::Drop(reason, answer) => {
                self.drop_at(from, &packet, reason);
                if let Some(answer) = answer {
                    self.router_says(id, answer);
                }
            }
        }
        self.settle(id);
    }

    /// A router sends a packet of its own, which needs no translation.
    fn router_says(&mut self, id: RouterId, packet: Vec<u8>) {
        let Some(router) = self.routers.get(id.index()) else { return };
        let Ok(view) = View::parse(&packet) else { return };
        let out = router.route(view.ip.destination);
        self.tell_at(out, &packet, Event::Made);
        self.transmit(out, true, packet);
    }

    /// Sends what a router's NAT has to say, and sees that it is asked again in time.
    pub(crate) fn settle(&mut self, id: RouterId) {
        let now = self.now;
        loop {
            let Some(router) = self.routers.get_mut(id.index()) else { return };
            if router.next_deadline().is_none_or(|at| at > now) {
                break;
            }
            let outside = router.outside();
            match router.poll(now) {
                None => break,
                Some(Output::Outside(packet)) => self.transmit(outside, true, packet),
                Some(Output::Inside(packet)) => {
                    let to = View::parse(&packet).map(|v| v.ip.destination);
                    if let Ok(to) = to {
                        let out = router.route(to);
                        self.transmit(out, true, packet);
                    }
                }
                Some(Output::Say(packet)) => self.router_says(id, packet),
                Some(Output::Lost(reason, packet)) => self.drop_at(outside, &packet, reason),
            }
        }
        let Some(router) = self.routers.get_mut(id.index()) else { return };
        if let Some(at) = router.next_deadline()
            && router.timer.is_none_or(|t| at < t)
        {
            router.timer = Some(at);
            self.schedule(at, What::Timer(id));
        }
    }

    /// Everything that a router still holds, before it is changed.
    pub(crate) fn settle_all(&mut self, id: RouterId) {
        self.settle(id);
        self.drain();
    }

    pub(crate) fn transmit(&mut self, id: IfaceId, up: bool, packet: Vec<u8>) {
        let Some(iface) = self.ifaces.get(id.index()) else { return };
        let lane = if up { &iface.up } else { &iface.down };
        let mtu = lane.link.config().mtu;
        if u32::try_from(packet.len()).is_ok_and(|n| n <= mtu) {
            return self.put(id, up, packet);
        }
        let pieces = fragment(&packet, usize::try_from(mtu).unwrap_or(usize::MAX));
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                self.tell_at(id, piece, Event::Made);
            }
            self.put(id, up, piece.clone());
        }
        if pieces.is_empty() {
            self.too_big(id, up, mtu, &packet);
        }
    }

    fn too_big(&mut self, id: IfaceId, up: bool, mtu: u32, packet: &[u8]) {
        self.drop_at(id, packet, Reason::TooBig);
        let now = self.now;
        let Some(iface) = self.ifaces.get(id.index()) else { return };
        let lane = if up { &iface.up } else { &iface.down };
        if !lane.link.config().mtu_signal {
            return;
        }
        let what = IcmpError::TooBig { mtu };
        match (up, iface.owner) {
            (false, _) => self.net_says(iface.net, what, packet),
            (true, Owner::Host(host)) => {
                let source = View::parse(packet).map(|v| v.ip.source);
                if let Some(answer) = source.ok().and_then(|me| icmp_error(me, what, packet)) {
                    self.tell_at(id, &answer, Event::Made);
                    self.deliver(host, None, answer);
                }
            }
            (true, Owner::Router(router)) => {
                let r = self.routers.get_mut(router.index());
                if let Some((out, error)) = r.and_then(|r| r.complain(now, id, what, packet)) {
                    self.tell_at(id, &error, Event::Made);
                    // An error is small: where even it does not fit, nobody is told.
                    self.put(out, true, error);
                }
            }
        }
    }

    /// Puts a packet that fits on a link.
    fn put(&mut self, id: IfaceId, up: bool, mut packet: Vec<u8>) {
        let now = self.now;
        let Some(iface) = self.ifaces.get_mut(id.index()) else { return };
        let lane = if up { &mut iface.up } else { &mut iface.down };
        lane.packets += 1;
        lane.bytes += u64::try_from(packet.len()).unwrap_or(0);
        let epoch = lane.epoch;
        let (at, flip, again) = match lane.link.send(now, packet.len()) {
            Fate::Dropped(reason) => return self.drop_at(id, &packet, reason),
            Fate::Arrives { at, flip, again } => (at, flip, again),
        };
        let copy = again.map(|at| (at, packet.clone()));
        let byte = flip.and_then(|bit| packet.get_mut(usize::try_from(bit / 8).ok()?));
        if let (Some(byte), Some(bit)) = (byte, flip) {
            *byte ^= 1 << (bit % 8);
        }
        self.fly(id, up, epoch, at, packet);
        if let Some((at, copy)) = copy {
            self.tell_at(id, &copy, Event::Made);
            self.fly(id, up, epoch, at, copy);
        }
    }
}
