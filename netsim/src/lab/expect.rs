//! What a path should do to packets, from the engine's settings, and whether a measurement agrees.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::probe::{Flow, Measured, PROBE_BITS};
use crate::engine::Engine;
use crate::link::{Jitter, LinkConfig, LinkState, Loss};
use crate::topology::{HostId, IfaceId, Owner, RouterId};

/// Hops after which a path counts as a circle.
const MAX_HOPS: usize = 64;
/// What a round trip may take longer than asked: the lab's own latency (`sim bench`) and a machine that
/// does other things as well.
const LATE: Duration = Duration::from_millis(2);
/// The same as share of what was asked.
const LATE_SHARE: f64 = 0.02;
/// A clock that is read twice.
const EARLY: Duration = Duration::from_micros(100);
/// Loss may differ by this many standard errors: once in 150,000 measurements by chance.
const SIGMAS: f64 = 4.5;
/// And by this share, for the one packet that something else lost.
const LOSS_SLACK: f64 = 0.002;
/// Share by which a rate may differ: its measurement begins and ends with a packet.
const RATE_SLACK: f64 = 0.05;

/// What one direction of a path should do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// The least time that a probe of 64 bytes takes.
    pub least: Duration,
    /// The most, but for jitter's outliers.
    pub most: Duration,
    /// Share of packets that are lost.
    pub loss: f64,
    /// How many times larger losses in runs make the variance of what is counted; 1 for independent
    /// losses.
    pub bunching: f64,
    /// Rate of the slowest link, in bits per second; none if no link has one.
    pub rate: Option<u64>,
    /// Share of what that link sends that arrives.
    pub kept: f64,
    /// Largest packet that passes whole.
    pub mtu: u32,
}

/// What a path should do. Made by [`super::Lab::expected`]; whoever asks for something else changes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Towards the other host.
    pub there: Way,
    /// From it.
    pub back: Way,
}

impl Default for Way {
    /// A perfect wire.
    fn default() -> Self {
        Self {
            least: Duration::ZERO,
            most: Duration::ZERO,
            loss: 0.0,
            bunching: 1.0,
            rate: None,
            kept: 1.0,
            mtu: 1500,
        }
    }
}

impl Way {
    fn along<'a>(links: impl Iterator<Item = (&'a LinkConfig, LinkState)>) -> Self {
        let mut way = Self { mtu: u32::MAX, ..Self::default() };
        let mut kept = 1.0;
        for (link, state) in links {
            let (early, late) = match link.jitter {
                Jitter::None => (Duration::ZERO, Duration::ZERO),
                Jitter::Uniform(spread) => (spread, spread),
                // Three deviations: the median of some hundred is never near that.
                Jitter::Normal(deviation) => {
                    (deviation.saturating_mul(3), deviation.saturating_mul(3))
                }
            };
            let sending = link.rate.map_or(0.0, |r| PROBE_BITS / number(r.bits_per_second));
            let sending = Duration::try_from_secs_f64(sending).unwrap_or(Duration::MAX);
            let held = link.reorder.map_or(Duration::ZERO, |r| r.delay);
            let base = link.latency.saturating_add(sending);
            way.least = way.least.saturating_add(base.saturating_sub(early));
            way.most = way.most.saturating_add(base.saturating_add(late).saturating_add(held));
            let (loss, bunching) = losses(link.loss);
            let loss = if state == LinkState::Up { loss } else { 1.0 };
            // A flipped bit is a wrong checksum at the next who looks.
            let passes = (1.0 - loss) * (1.0 - link.corrupt.get());
            way.bunching = way.bunching.max(bunching);
            way.loss = 1.0 - (1.0 - way.loss) * passes;
            kept *= passes;
            if let Some(rate) = link.rate.map(|r| r.bits_per_second)
                && way.rate.is_none_or(|slowest| number(rate) < number(slowest) * kept)
            {
                // What is lost on this link is lost before its queue.
                (way.rate, kept) = (Some(rate), 1.0 - link.corrupt.get());
            }
            way.mtu = way.mtu.min(link.mtu);
        }
        way.kept = kept;
        way
    }
}

/// Share of lost packets, and how much more than independent losses their number varies: the sum of
/// correlations between packets of a two-state chain, (1 + r) / (1 - r).
fn losses(loss: Loss) -> (f64, f64) {
    match loss {
        Loss::None => (0.0, 1.0),
        Loss::Independent(chance) => (chance.get(), 1.0),
        Loss::Burst { enter, leave, good, bad } => {
            let (enter, leave) = (enter.get(), leave.get());
            let in_bad = enter / (enter + leave);
            let stay = (1.0 - enter - leave).max(0.0);
            let share = in_bad * bad.get() + (1.0 - in_bad) * good.get();
            (share, (1.0 + stay) / (1.0 - stay).max(f64::EPSILON))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates and counts far below 2^53")]
fn number(n: u64) -> f64 {
    n as f64
}

/// The way of a packet: link directions in order (true: towards the network), routers.
#[derive(Debug, PartialEq)]
pub(super) struct Path {
    lanes: Vec<(IfaceId, bool)>,
    pub(super) routers: Vec<RouterId>,
}

impl Path {
    /// How packets from an address of `from` come to `to`; None if they do not. NATs are passed from
    /// inside.
    pub(super) fn find(engine: &Engine, from: HostId, source: IpAddr, to: IpAddr) -> Option<Self> {
        let own = &engine.hosts.get(from.index())?.ifaces;
        let has = |id: &&IfaceId| {
            engine.ifaces.get(id.index()).is_some_and(|i| i.addresses.contains(&source))
        };
        let mut at = *own.iter().find(has)?;
        let mut path = Self { lanes: vec![(at, true)], routers: Vec::new() };
        for _ in 0..MAX_HOPS {
            let net = engine.nets.get(engine.ifaces.get(at.index())?.net.index())?;
            let next = net.route(to).filter(|next| *next != at)?;
            path.lanes.push((next, false));
            let iface = engine.ifaces.get(next.index())?;
            match iface.owner {
                Owner::Host(_) => return iface.addresses.contains(&to).then_some(path),
                Owner::Router(id) => {
                    at = engine.routers.get(id.index())?.route(to);
                    path.routers.push(id);
                    path.lanes.push((at, true));
                }
            }
        }
        None
    }

    pub(super) fn expected(&self, engine: &Engine) -> Expected {
        let link = |(id, up): (IfaceId, bool)| {
            let iface = engine.ifaces.get(id.index())?;
            let link = if up { &iface.up.link } else { &iface.down.link };
            Some((link.config(), link.state()))
        };
        let there = self.lanes.iter().filter_map(|lane| link(*lane));
        let back = self.lanes.iter().rev().filter_map(|(id, up)| link((*id, !up)));
        Expected { there: Way::along(there), back: Way::along(back) }
    }
}

/// Something that is not as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub what: &'static str,
    /// What was asked.
    pub asked: String,
    /// What would have been accepted.
    pub allowed: String,
    /// What was measured.
    pub measured: String,
    /// Whether a busy machine could have done it: it only ever delays and loses packets.
    pub strain: bool,
}

/// A path is not what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mismatch {
    /// The host that measured.
    pub from: String,
    /// The host it measured to.
    pub to: String,
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the path from {} to {} is not what was asked:", self.from, self.to)?;
        for Fault { what, asked, allowed, measured, .. } in &self.faults {
            write!(f, "\n- {what}: asked {asked}, measured {measured} (allowed {allowed})")?;
        }
        Ok(())
    }
}

/// What is wrong with a measurement; nothing if it is as asked.
pub(super) fn judge(expected: &Expected, measured: &Measured) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Expected { there, back } = expected;
    let (least, most) =
        (there.least.saturating_add(back.least), there.most.saturating_add(back.most));
    let late = LATE.saturating_add(most.mul_f64(LATE_SHARE));
    let allowed = (least.saturating_sub(EARLY), most.saturating_add(late));
    if measured.rtt < allowed.0 || measured.rtt > allowed.1 {
        let span = |(a, b)| if a == b { ms(a) } else { format!("{} to {}", ms(a), ms(b)) };
        faults.push(Fault {
            what: "round trip",
            asked: span((least, most)),
            allowed: span(allowed),
            measured: ms(measured.rtt),
            strain: measured.rtt > allowed.1,
        });
    }
    let sent = (measured.sent, measured.arrived);
    faults.extend(judge_loss("loss there", there, sent.0, sent.1));
    faults.extend(judge_loss("loss back", back, sent.1, measured.returned));
    faults.extend(judge_rate("rate there", there, measured.rate_there));
    faults.extend(judge_rate("rate back", back, measured.rate_back));
    faults
}

fn judge_loss(what: &'static str, way: &Way, sent: u32, arrived: u32) -> Option<Fault> {
    if sent == 0 {
        return None;
    }
    let measured = 1.0 - f64::from(arrived) / f64::from(sent);
    let error = (way.loss * (1.0 - way.loss) * way.bunching / f64::from(sent)).sqrt();
    let slack = SIGMAS * error + LOSS_SLACK;
    let percent = |x: f64| format!("{:.2} %", x * 100.0);
    ((measured - way.loss).abs() > slack).then(|| Fault {
        what,
        asked: percent(way.loss),
        allowed: format!("± {}", percent(slack)),
        measured: format!("{} of {sent} packets", percent(measured)),
        strain: measured > way.loss,
    })
}

fn judge_rate(what: &'static str, way: &Way, measured: Option<Flow>) -> Option<Fault> {
    let asked = number(way.rate?) * way.kept;
    let found = measured.map_or(0.0, |flow| flow.bits_per_second);
    let (few, many) = (asked * (1.0 - RATE_SLACK), asked * (1.0 + RATE_SLACK));
    let megabits = |x: f64| format!("{:.3} Mbit/s", x / 1e6);
    (found < few || found > many).then(|| Fault {
        what,
        asked: megabits(asked),
        allowed: format!("{} to {}", megabits(few), megabits(many)),
        measured: megabits(found),
        strain: found < few,
    })
}

fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Rate;
    use crate::{Builder, Chance, Preset, Uplink, Wire};

    fn link(latency: u64, loss: f64, rate: Option<u64>) -> LinkConfig {
        let loss = Loss::Independent(Chance::new(loss).expect("a chance"));
        let rate = rate.map(|bits_per_second| Rate { bits_per_second, queue_bytes: 100_000 });
        LinkConfig { loss, rate, ..LinkConfig::with_latency(Duration::from_millis(latency)) }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_path_through_a_nat_adds_up_its_links_in_both_directions() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut world = Builder::new(1);
        let core = world.core("internet").expect("a core");
        let lan = world.segment("lan", &["10.0.0.0/24".parse().expect("a prefix")]).expect("a lan");
        let wire = Wire { up: link(20, 0.1, Some(1_000_000)), down: link(5, 0.0, Some(8_000_000)) };
        let addresses = [ip("198.51.100.1")];
        let uplink = Uplink { net: core, addresses: &addresses, routed: &[], wire };
        let router = world.router("home", Preset::FullCone.router(), &uplink).expect("a router");
        world.inside(router, lan, &[ip("10.0.0.1")], &[], Wire::default()).expect("a lan");
        let alice = world.host("alice").expect("a host");
        world.attach(alice, lan, &[ip("10.0.0.2")], Wire::default()).expect("an interface");
        let server = world.host("server").expect("a host");
        let far = Wire::both(LinkConfig { mtu: 1400, ..link(7, 0.5, None) });
        world.attach(server, core, &[ip("203.0.113.1")], far).expect("an interface");
        let engine = world.build();

        let path = Path::find(&engine, alice, ip("10.0.0.2"), ip("203.0.113.1")).expect("a path");
        assert_eq!(path.routers, [router]);
        let Expected { there, back } = path.expected(&engine);
        assert_eq!((there.least, there.mtu), (Duration::from_micros(27_512), 1400));
        assert!(near(there.loss, 0.55) && near(there.kept, 0.5));
        assert_eq!((there.rate, back.rate), (Some(1_000_000), Some(8_000_000)));
        assert_eq!(
            (back.least, back.most),
            (Duration::from_micros(12_064), Duration::from_micros(12_064))
        );
        assert!(near(back.loss, 0.5));
        // From outside there is no way in, and to nobody's address none at all.
        assert_eq!(Path::find(&engine, server, ip("203.0.113.1"), ip("10.0.0.2")), None);
        assert_eq!(Path::find(&engine, alice, ip("10.0.0.2"), ip("203.0.113.9")), None);
    }

    #[test]
    fn bursts_widen_what_chance_explains() {
        let chance = |p| Chance::new(p).expect("a chance");
        let loss = Loss::Burst {
            enter: chance(0.05),
            leave: chance(0.2),
            good: Chance::NEVER,
            bad: Chance::ALWAYS,
        };
        let (share, bunching) = losses(loss);
        assert!(near(share, 0.2) && near(bunching, 1.75 / 0.25));
    }

    fn measured(rtt: u64, arrived: u32, rate: Option<f64>) -> Measured {
        let flow = rate.map(|bits_per_second| Flow { bits_per_second, packets: 100 });
        Measured {
            sent: 1000,
            arrived,
            returned: arrived,
            rtt: Duration::from_millis(rtt),
            fastest: Duration::from_millis(rtt),
            rate_there: flow,
            rate_back: flow,
        }
    }

    #[test]
    fn a_wrong_path_is_told_with_what_was_asked_and_what_was_measured() {
        let config = link(20, 0.1, Some(1_000_000));
        let way = Way::along([(&config, LinkState::Up)].into_iter());
        let clean = link(20, 0.0, Some(1_000_000));
        let back = Way::along([(&clean, LinkState::Up)].into_iter());
        let asked = Expected { there: way, back };
        assert_eq!(judge(&asked, &measured(41, 905, Some(990_000.0))), []);
        let faults = judge(&asked, &measured(39, 1000, Some(2e6)));
        let what: Vec<_> = faults.iter().map(|f| f.what).collect();
        assert_eq!(what, ["round trip", "loss there", "rate there", "rate back"]);
        assert!(faults.iter().all(|f| !f.strain), "too fast and too much");
        let slow = judge(&asked, &measured(50, 700, Some(5e5)));
        assert!(slow.len() == 4 && slow.iter().all(|f| f.strain), "{slow:?}");
        let told = Mismatch { from: "alice".into(), to: "server".into(), faults }.to_string();
        for part in
            ["alice to server", "asked 41.02 ms, measured 39.00 ms", "10.00 %", "2.000 Mbit/s"]
        {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!(judge(&asked, &measured(41, 905, None)).len(), 2);
    }

    #[test]
    fn a_dead_link_loses_everything() {
        let config = LinkConfig::default();
        assert!(near(Way::along([(&config, LinkState::BlackHole)].into_iter()).loss, 1.0));
    }
}
