//! Two homes with a direct path, a broker, and a stream of messages from one to the other.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use meshwire::sim::virtual_world::{BrokerSite, VirtualNode, VirtualWorld};
use meshwire_netsim::firewall::{Action, FirewallConfig, Rule};
use meshwire_netsim::nat::NatConfig;
use meshwire_netsim::packet::Protocol;
use meshwire_netsim::simnet::{Home, Internet, Stage, run};
use meshwire_netsim::{Change, Direction, IfaceId, LinkConfig, LinkState, Preset, Wire};
use meshwire_peer::Node;
use meshwire_peer::api::Inbox;
use meshwire_peer::core::outbox::OutboxState;
use meshwire_peer::node::Event;
use meshwire_peer::path::PathMode;
use meshwire_signaling::EnvelopeId;
use meshwire_signaling::frame::MessageState;
use meshwire_transport::direct::Reach;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Longest virtual time for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two messages: 500 a second.
const BEAT: Duration = Duration::from_millis(2);
/// Each router's link to the core, one way: homes are 40 ms of round trip apart.
const UPLINK: Duration = Duration::from_millis(10);
/// Longest time without a delivery, and to one, while the relay is reachable.
pub(crate) const GAP: Duration = Duration::from_millis(1_500);
/// Messages are direct again this soon after the network has healed.
pub(crate) const HEALED: Duration = Duration::from_secs(10);
/// Rows of one page of an inbox.
const PAGE: u32 = 1_000;

/// Waits for `work`, but not for ever.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Ana and bob, each in a home, and the broker with its TURN server.
pub(crate) struct Town {
    pub(crate) world: VirtualWorld,
    pub(crate) ana: Home,
    pub(crate) bob: Home,
    presets: [Preset; 2],
    /// Rows of bob's inbox that were looked at.
    listed: usize,
    log: Vec<String>,
    start: Instant,
}

/// Plays a case between homes behind these routers; afterwards messages are direct.
pub(crate) fn between(ana: Preset, bob: Preset, seed: u64, case: impl AsyncFnOnce(&mut Town)) {
    run(seed, async |stage| {
        let mut town = Box::pin(Town::new(stage, [ana, bob])).await;
        Box::pin(case(&mut town)).await;
    });
}

impl Town {
    async fn new(stage: Stage, presets: [Preset; 2]) -> Self {
        let mut net = Internet::new(stage).unwrap();
        let broker = net.server("broker", Wire::default()).unwrap();
        let wire = Wire::both(LinkConfig::with_latency(UPLINK));
        let [ana, bob] =
            [("ana", presets[0]), ("bob", presets[1])].map(|(n, p)| net.home(n, p, wire).unwrap());
        let sim = net.start();
        for home in [ana, bob] {
            // With IPv6 no NAT would be in the way.
            let mut addresses = sim.host(home.host).addresses();
            addresses.retain(IpAddr::is_ipv4);
            if !addresses.is_empty() {
                sim.control(Change::Address { iface: home.iface, addresses }).unwrap();
            }
        }
        let site = BrokerSite { turn: true, ..BrokerSite::on(broker, "broker") };
        let mut world = VirtualWorld::start(sim, site).await.unwrap();
        world.set_paths(PathMode::Auto);
        within("founding", Box::pin(world.add("ana", ana.host))).await.unwrap();
        within("joining", Box::pin(world.add("bob", bob.host))).await.unwrap();
        let start = Instant::now();
        let town = Self { world, ana, bob, presets, log: Vec::new(), start, listed: 0 };
        for (name, other) in [("ana", "bob"), ("bob", "ana")] {
            within("a roster", town.node(name).knows(other)).await.unwrap();
        }
        town
    }

    /// Whether ana's router translates whatever address her machine has.
    pub(crate) fn may_move(&self) -> bool {
        matches!(self.presets[0].router().nat, Some(NatConfig::Ports(_)))
    }

    pub(crate) fn node(&self, name: &str) -> &VirtualNode {
        self.world.node(name).unwrap()
    }

    /// Waits until ana's messages to bob are direct; says how long that was.
    pub(crate) async fn direct(&mut self) -> Duration {
        let since = Instant::now();
        // Through a TURN server only where nothing else leads at once: a port can be guessed so often only.
        let (unknown, strict) = (
            |p: &Preset| matches!(p, Preset::Symmetric | Preset::Mobile),
            |p: &Preset| matches!(p, Preset::PortRestricted | Preset::SymmetricPreserving),
        );
        let detour = self.presets.iter().any(unknown)
            && self.presets.iter().all(|p| unknown(p) || strict(p));
        let goes = self.node("ana").goes("bob", |d| detour || d.reach != Reach::Relayed);
        if timeout(PATIENCE, goes).await.is_err() {
            panic!("not direct\n{}", self.story().await);
        }
        self.note("direct");
        since.elapsed()
    }

    /// As [`Self::direct`], soon enough after the network has healed.
    pub(crate) async fn direct_again(&mut self) {
        self.direct_again_after(Duration::ZERO).await;
    }

    /// The same, not before a while has passed, in which the path may be lost.
    pub(crate) async fn direct_again_after(&mut self, pause: Duration) {
        sleep(pause).await;
        let took = pause + self.direct().await;
        assert!(took <= HEALED, "direct again after {took:?}\n{}", self.story().await);
    }

    /// What the next line of the story is.
    pub(crate) fn note(&mut self, what: impl fmt::Display) {
        self.log.push(format!("{:?} {what}", self.start.elapsed()));
    }

    /// What happened, for a failed test.
    pub(crate) async fn story(&self) -> String {
        let mut all = self.log.join("\n");
        for (name, other) in [("ana", "bob"), ("bob", "ana")] {
            let report = self.node(name).path(other).await.unwrap();
            all.push_str(&format!(
                "\n{name}: via {:?}, why {:?}, {:?}",
                report.via, report.why, report.direct
            ));
            for e in report.history {
                all.push_str(&format!("\n  {} {} {:?} {}", e.at, e.what, e.cause, e.detail));
            }
        }
        all
    }

    pub(crate) fn control(&mut self, change: Change) {
        self.note(format_args!("{change:.60?}"));
        self.world.sim().control(change).unwrap();
    }

    /// Lets a link work, or not.
    pub(crate) fn state(&mut self, iface: IfaceId, state: LinkState) {
        self.control(Change::State { iface, direction: Direction::Both, state });
    }

    /// Lets both routers drop all UDP, so that only the broker's WebSocket is left; or lets it pass
    /// again.
    pub(crate) fn udp(&mut self, passes: bool) {
        let rule = Rule::new(Action::Drop, Protocol::Udp);
        for (home, preset) in [(self.ana, self.presets[0]), (self.bob, self.presets[1])] {
            let usual = preset.router().firewall;
            let config = match passes {
                true => usual,
                false => Some(FirewallConfig {
                    outbound: vec![rule.clone()],
                    inbound: vec![rule.clone()],
                    ..usual.unwrap_or_default()
                }),
            };
            self.control(Change::Firewall { router: home.router, config });
        }
    }

    /// Lets what both homes send to each other vanish; the broker and its TURN server stay. Or no more.
    pub(crate) fn apart(&mut self, apart: bool) {
        let homes = [(self.ana, self.presets[0], self.bob), (self.bob, self.presets[1], self.ana)];
        for (home, preset, other) in homes {
            let usual = preset.router().firewall;
            let length = if other.outside.is_ipv4() { 32 } else { 128 };
            let outside = format!("{}/{length}", other.outside).parse().unwrap();
            let rule = Rule { outside: Some(outside), ..Rule::all(Action::Drop) };
            let config = match apart {
                false => usual,
                true => Some(FirewallConfig {
                    outbound: vec![rule.clone()],
                    inbound: vec![rule],
                    ..usual.unwrap_or_default()
                }),
            };
            self.control(Change::Firewall { router: home.router, config });
        }
    }

    /// Sends 500 messages a second from ana to bob while `script` plays; all of them must come, once and in
    /// order.
    pub(crate) async fn flood(&mut self, script: impl AsyncFnOnce(&mut Self)) -> Flood {
        let (ana, bob) =
            (self.node("ana").node().unwrap().clone(), self.node("bob").node().unwrap().clone());
        let mut fates = fates(&ana);
        let (over, ends) = watch::channel(false);
        let sending = tokio::spawn(send(ana, ends));
        let mut events = bob.events();
        let hearing = tokio::spawn(async move {
            let mut heard = Vec::new();
            loop {
                match events.recv().await {
                    Ok(Event::Message(row)) => {
                        let text = String::from_utf8(row.item.content.clone()).unwrap();
                        heard.push((Instant::now(), text));
                    }
                    // What is missing stands in the inbox, before what comes next.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return heard,
                }
                if heard.last().is_some_and(|(_, text)| text == LAST) {
                    return heard;
                }
            }
        });
        script(self).await;
        over.send(true).unwrap();
        let sent = sending.await.unwrap();
        let last = self.node("ana").send("bob", LAST).await.unwrap();
        let heard = match timeout(PATIENCE, hearing).await {
            Ok(heard) => heard.unwrap(),
            Err(_) => panic!("not all came\n{}", self.story().await),
        };
        let ids = sent.iter().map(|(_, id, _)| *id).chain([last]);
        let mut open: BTreeSet<EnvelopeId> = ids.collect();
        let mut all = Vec::new();
        let acked = timeout(PATIENCE, async {
            while !open.is_empty() {
                match fates.recv().await.unwrap() {
                    Some(fate) => {
                        if fate.2 == OutboxState::Delivered {
                            open.remove(&fate.1);
                        }
                        all.push(fate);
                    }
                    // Some was not told.
                    None => {
                        let mut unknown = BTreeSet::new();
                        for id in &open {
                            let is = self.node("ana").message(*id).await.unwrap().state;
                            if is != MessageState::Delivered {
                                unknown.insert(*id);
                            }
                        }
                        open = unknown;
                    }
                }
            }
        });
        assert!(acked.await.is_ok(), "{} without a receipt\n{}", open.len(), self.story().await);
        let inbox = inbox(&bob).await;
        let flood =
            Flood { sent, heard: timed(&inbox[self.listed..], heard), story: self.story().await };
        self.listed = inbox.len();
        if let Some(wrong) = flood.wrong() {
            let fate = all.into_iter().filter(|f| wrong.contains(&f.1));
            let fate: Vec<_> =
                fate.map(|(at, id, to, why)| (at - self.start, id, to, why)).collect();
            panic!("{wrong:?}\n{fate:#?}\n{}", self.story().await);
        }
        flood
    }
}

/// An inbox with the times at which its messages surfaced, but for the last one. One whose event is
/// missing came no later than the next one.
fn timed(inbox: &[String], heard: Vec<(Instant, String)>) -> Vec<(Instant, String)> {
    let mut heard = heard.into_iter().rev().peekable();
    let mut at = heard.peek().map_or_else(Instant::now, |(at, _)| *at);
    let mut all = Vec::new();
    for text in inbox.iter().rev() {
        if let Some((when, _)) = heard.next_if(|(_, t)| t == text) {
            at = when;
        }
        all.push((at, text.clone()));
    }
    assert!(heard.next().is_none(), "something was told of that is not in the inbox");
    assert_eq!(all.remove(0).1, LAST);
    all.reverse();
    all
}

/// Everything in an inbox, in order.
async fn inbox(node: &Node) -> Vec<String> {
    let mut listed = Vec::new();
    let mut after = 0;
    loop {
        let ask = Inbox { after: Some(after), peek: true, limit: Some(PAGE), ..Inbox::default() };
        let rows = node.inbox(ask).await.unwrap();
        let Some(last) = rows.last() else { return listed };
        after = last.order;
        listed.extend(rows.into_iter().map(|row| row.message));
    }
}

/// What a node hears of its messages.
type Fate = (Instant, EnvelopeId, OutboxState, Option<String>);

/// None where some is missing.
fn fates(node: &Node) -> mpsc::UnboundedReceiver<Option<Fate>> {
    let (tell, told) = mpsc::unbounded_channel();
    let mut events = node.events();
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(Event::Outbox { id, state, reason, .. }) => {
                    if tell.send(Some((Instant::now(), id, state, reason))).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => drop(tell.send(None)),
                Err(RecvError::Closed) => return,
            }
        }
    });
    told
}

/// The text after which nothing comes.
const LAST: &str = "last";

async fn send(ana: Node, over: watch::Receiver<bool>) -> Vec<(Instant, EnvelopeId, String)> {
    let mut sent = Vec::new();
    let mut at = Instant::now();
    while !*over.borrow() {
        let text = sent.len().to_string();
        let ask = meshwire_peer::api::Send {
            mesh: None,
            to: "bob".to_owned(),
            message: text.clone(),
            priority: meshwire_signaling::Priority::default(),
            reply_to: None,
            idempotency_key: None,
            ttl_ms: None,
            wait: None,
            timeout_ms: None,
        };
        let id = ana.send(ask).await.unwrap().id;
        sent.push((at, id, text));
        at += BEAT;
        sleep_until(at).await;
    }
    sent
}

/// A stream of messages and what came of it.
pub(crate) struct Flood {
    pub(crate) sent: Vec<(Instant, EnvelopeId, String)>,
    heard: Vec<(Instant, String)>,
    story: String,
}

impl Flood {
    /// The first message that was not heard in its turn, and what was heard then; none if all came once
    /// and in order.
    fn wrong(&self) -> Option<Vec<EnvelopeId>> {
        let id = |text: &str| self.sent.iter().find(|(_, _, t)| t == text).map(|(_, id, _)| *id);
        let turns = self.heard.iter().zip(&self.sent);
        for ((_, text), (_, expected, wanted)) in turns {
            if text != wanted {
                return Some([Some(*expected), id(text)].into_iter().flatten().collect());
            }
        }
        (self.heard.len() != self.sent.len()).then(Vec::new)
    }

    /// The longest time without a delivery.
    pub(crate) fn gap(&self) -> Duration {
        let times = self.heard.windows(2).map(|w| w[1].0 - w[0].0);
        times.max().unwrap_or_default()
    }

    /// What 99 of 100 messages took at most, and what the slowest one took.
    pub(crate) fn latency(&self) -> (Duration, Duration) {
        let took = self.heard.iter().zip(&self.sent).map(|((heard, _), (sent, ..))| *heard - *sent);
        let mut took: Vec<Duration> = took.collect();
        took.sort_unstable();
        (took[took.len() * 99 / 100], *took.last().unwrap())
    }

    /// Nobody waited long.
    pub(crate) fn is_swift(&self) {
        self.waits_at_most(GAP);
    }

    /// Nobody waited longer than this.
    #[expect(clippy::print_stdout, reason = "shown when the case fails")]
    pub(crate) fn waits_at_most(&self, longest: Duration) {
        let (p99, worst) = self.latency();
        let gap = self.gap();
        println!("{} messages, p99 {p99:?}, worst {worst:?}, longest gap {gap:?}", self.sent.len());
        assert!(gap < longest, "a gap of {gap:?}\n{}", self.story);
        assert!(p99 < longest, "one in a hundred took {p99:?} or more\n{}", self.story);
    }
}
