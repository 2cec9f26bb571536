//! The engine: hosts' packets in, deliveries with times out.
//!
//! # Drive contract
//! Time is given with every call and never goes back (an earlier time counts as the latest known).
//! Call [`Engine::send`] and [`Engine::control`] as things happen, then [`Engine::poll`] until it
//! returns None; call it again at [`Engine::next_deadline`]. What is due before a call is done before
//! it. Nothing depends on how often `poll` is called between deadlines.
//!
//! Events of one moment happen in the order in which they were scheduled. The same builder calls, seed
//! and calls at the same times give the same trace, byte for byte.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use crate::nat::MappingInfo;
use crate::packet::View;
use crate::reason::Reason;
use crate::router::Router;
use crate::time::Time;
use crate::topology::{Host, HostId, Iface, IfaceId, Net, NetId, Owner, RouterId};
use crate::trace::{Event, Ledger, Trace};

/// Packets that may be on their way at a time, unless [`Engine::set_max_in_flight`] says otherwise:
/// at 1,500 bytes 1.5 GB, far above any scenario.
const MAX_IN_FLIGHT: usize = 1 << 20;

/// A packet that reached a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Time,
    /// To whom.
    pub host: HostId,
    /// Through which interface; None for what a host sent to itself.
    pub iface: Option<IfaceId>,
    /// The raw IP packet.
    pub packet: Vec<u8>,
}

/// What an interface carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets sent into the link towards the network, lost ones included.
    pub up_packets: u64,
    /// Their bytes.
    pub up_bytes: u64,
    /// Packets sent into the link from the network, lost ones included.
    pub down_packets: u64,
    /// Their bytes.
    pub down_bytes: u64,
}

/// Where a packet has just arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// In a network, from an interface or from the network itself.
    Net(NetId, Option<IfaceId>),
    /// At the host or router of an interface.
    Owner(IfaceId),
}

#[derive(Debug)]
pub(crate) enum What {
    /// A packet that was overtaken or overtakes arrives.
    Arrival {
        iface: IfaceId,
        up: bool,
        epoch: u32,
        packet: Vec<u8>,
    },
    /// The first packet on a lane arrives. Only it is in the queue, which so stays small.
    Head {
        iface: IfaceId,
        up: bool,
    },
    Timer(RouterId),
}

#[derive(Debug)]
struct Scheduled {
    at: Time,
    sequence: u64,
    what: What,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        // BinaryHeap gives its greatest first.
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

type Hook = Box<dyn FnMut(&Trace<'_>) + Send>;

/// A world of hosts, networks, routers and links. Made by [`crate::Builder`].
pub struct Engine {
    pub(crate) now: Time,
    sequence: u64,
    queue: BinaryHeap<Scheduled>,
    /// Packets of this very moment.
    pub(crate) work: VecDeque<(Place, Vec<u8>)>,
    /// Packets in `queue`, which also holds timers.
    flying: usize,
    max_in_flight: usize,
    out: VecDeque<Delivery>,
    pub(crate) nets: Vec<Net>,
    pub(crate) ifaces: Vec<Iface>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) routers: Vec<Router>,
    ledger: Ledger,
    hook: Option<Hook>,
}

impl Engine {
    pub(crate) fn new(
        nets: Vec<Net>,
        ifaces: Vec<Iface>,
        hosts: Vec<Host>,
        routers: Vec<Router>,
    ) -> Self {
        Self {
            now: Time::ZERO,
            sequence: 0,
            queue: BinaryHeap::new(),
            work: VecDeque::new(),
            flying: 0,
            max_in_flight: MAX_IN_FLIGHT,
            out: VecDeque::new(),
            nets,
            ifaces,
            hosts,
            routers,
            ledger: Ledger::default(),
            hook: None,
        }
    }

    /// Tells `hook` of everything that happens to a packet from now on. It must not block.
    pub fn set_trace(&mut self, hook: impl FnMut(&Trace<'_>) + Send + 'static) {
        self.hook = Some(Box::new(hook));
    }

    /// How many packets may be on their way at a time; more are dropped.
    pub fn set_max_in_flight(&mut self, packets: usize) {
        self.max_in_flight = packets;
    }

    /// A host sends a raw IP packet. Its source must be an address of the host. What goes wrong at
    /// once is counted and traced like what goes wrong later.
    pub fn send(&mut self, now: Time, host: HostId, mut packet: Vec<u8>) {
        self.advance(now);
        if self.hosts.get(host.index()).is_none() {
            return;
        }
        self.tell_host(host, &packet, Event::Sent);
        let Ok(view) = View::parse(&packet) else {
            return self.tell_host(host, &packet, Event::Dropped(Reason::Malformed));
        };
        packet.truncate(view.ip.end);
        let owner = |ip| {
            let has = |id: &&IfaceId| {
                self.ifaces.get(id.index()).is_some_and(|i| i.addresses.contains(&ip))
            };
            self.hosts.get(host.index())?.ifaces.iter().find(has).copied()
        };
        let (from, own) = (owner(view.ip.source), owner(view.ip.destination));
        match (from, own) {
            (None, _) => self.tell_host(host, &packet, Event::Dropped(Reason::WrongSource)),
            (Some(_), Some(_)) => self.deliver(host, None, packet),
            (Some(iface), None) => self.transmit(iface, true, packet),
        }
        self.drain();
    }

    /// The next delivery that is due; None when there is none until [`Self::next_deadline`].
    pub fn poll(&mut self, now: Time) -> Option<Delivery> {
        if self.out.is_empty() {
            self.advance(now);
        }
        self.out.pop_front()
    }

    /// When something happens next. None when nothing will without a call from outside.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.out.is_empty() { self.queue.peek().map(|e| e.at) } else { Some(self.now) }
    }

    /// The engine's books.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Packets on their way: on links and held by NATs.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flying + self.work.len() + self.routers.iter().map(Router::held).sum::<usize>()
    }

    /// Deliveries that nobody has polled yet.
    pub(crate) fn arrived(&self) -> usize {
        self.out.len()
    }

    /// What an interface carried; None for a handle of another engine.
    #[must_use]
    pub fn traffic(&self, iface: IfaceId) -> Option<Traffic> {
        self.ifaces.get(iface.index()).map(|i| Traffic {
            up_packets: i.up.packets,
            up_bytes: i.up.bytes,
            down_packets: i.down.packets,
            down_bytes: i.down.bytes,
        })
    }

    /// The live mappings of a router's NAT.
    pub fn mappings(&mut self, router: RouterId) -> Vec<MappingInfo> {
        let now = self.now;
        let nat = self.routers.get_mut(router.index()).and_then(Router::nat);
        nat.map(|n| n.mappings(now)).unwrap_or_default()
    }

    /// Does everything that is due.
    pub(crate) fn advance(&mut self, now: Time) {
        let now = now.max(self.now);
        self.drain();
        while self.queue.peek().is_some_and(|e| e.at <= now) {
            let Some(Scheduled { at, what, .. }) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            match what {
                What::Timer(router) => {
                    if let Some(r) = self.routers.get_mut(router.index()) {
                        r.timer = None;
                    }
                    self.settle(router);
                }
                What::Head { iface, up } => {
                    if let Some((epoch, packet)) = self.next_on_lane(iface, up) {
                        self.flying -= 1;
                        self.arrive(iface, up, epoch, packet);
                    }
                }
                What::Arrival { iface, up, epoch, packet } => {
                    self.flying -= 1;
                    self.arrive(iface, up, epoch, packet);
                }
            }
            self.drain();
        }
        self.now = now;
    }

    pub(crate) fn drain(&mut self) {
        while let Some((place, packet)) = self.work.pop_front() {
            match place {
                Place::Net(net, from) => self.in_net(net, from, packet),
                Place::Owner(iface) => self.at_owner(iface, packet),
            }
        }
    }

    pub(crate) fn schedule(&mut self, at: Time, what: What) {
        self.sequence += 1;
        self.queue.push(Scheduled { at, sequence: self.sequence, what });
    }

    pub(crate) fn fly(&mut self, iface: IfaceId, up: bool, epoch: u32, at: Time, packet: Vec<u8>) {
        if at <= self.now {
            // A perfect wire: no need to go through the queue.
            self.arrive(iface, up, epoch, packet);
        } else if self.flying >= self.max_in_flight {
            self.drop_at(iface, &packet, Reason::EngineFull);
        } else {
            self.flying += 1;
            self.board(iface, up, epoch, at, packet);
        }
    }

    /// Puts a packet behind the others of its lane, if it arrives after them.
    fn board(&mut self, id: IfaceId, up: bool, epoch: u32, at: Time, packet: Vec<u8>) {
        self.sequence += 1;
        let sequence = self.sequence;
        let Some(iface) = self.ifaces.get_mut(id.index()) else { return };
        let lane = if up { &mut iface.up.flying } else { &mut iface.down.flying };
        let what = match lane.back() {
            Some((last, ..)) if *last > at => What::Arrival { iface: id, up, epoch, packet },
            Some(_) => return lane.push_back((at, sequence, epoch, packet)),
            None => {
                lane.push_back((at, sequence, epoch, packet));
                What::Head { iface: id, up }
            }
        };
        self.queue.push(Scheduled { at, sequence, what });
    }

    /// Takes the first packet off a lane and schedules the next one.
    fn next_on_lane(&mut self, id: IfaceId, up: bool) -> Option<(u32, Vec<u8>)> {
        let iface = self.ifaces.get_mut(id.index())?;
        let lane = if up { &mut iface.up.flying } else { &mut iface.down.flying };
        let (_, _, epoch, packet) = lane.pop_front()?;
        if let Some((at, sequence, ..)) = lane.front() {
            let what = What::Head { iface: id, up };
            self.queue.push(Scheduled { at: *at, sequence: *sequence, what });
        }
        Some((epoch, packet))
    }

    pub(crate) fn deliver(&mut self, host: HostId, iface: Option<IfaceId>, packet: Vec<u8>) {
        self.tell_host(host, &packet, Event::Delivered);
        self.out.push_back(Delivery { at: self.now, host, iface, packet });
    }

    pub(crate) fn drop_at(&mut self, iface: IfaceId, packet: &[u8], reason: Reason) {
        self.tell_at(iface, packet, Event::Dropped(reason));
    }

    /// Books and traces an event at the owner of an interface.
    pub(crate) fn tell_at(&mut self, iface: IfaceId, packet: &[u8], event: Event) {
        self.ledger.count(event);
        let Some(hook) = &mut self.hook else { return };
        let place = match self.ifaces.get(iface.index()).map(|i| i.owner) {
            Some(Owner::Host(h)) => self.hosts.get(h.index()).map(|h| h.name.as_str()),
            Some(Owner::Router(r)) => self.routers.get(r.index()).map(|r| r.name.as_str()),
            None => None,
        };
        hook(&Trace { at: self.now, place: place.unwrap_or("-"), packet, event });
    }

    pub(crate) fn tell_host(&mut self, host: HostId, packet: &[u8], event: Event) {
        self.ledger.count(event);
        if let (Some(hook), Some(at)) = (&mut self.hook, self.hosts.get(host.index())) {
            hook(&Trace { at: self.now, place: &at.name, packet, event });
        }
    }

    pub(crate) fn tell(&mut self, place: &str, packet: &[u8], event: Event) {
        self.ledger.count(event);
        if let Some(hook) = &mut self.hook {
            hook(&Trace { at: self.now, place, packet, event });
        }
    }
}
