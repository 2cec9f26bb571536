//! Running a script in both worlds and comparing what it wrote down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use meshwire_netsim::RouterConfig;
use meshwire_netsim::packet::View;

use crate::wire::{describe, sock, udp};
use crate::world::{Kernel, Simulated, World, can_run};

/// Ports that scripts use themselves; others were chosen by a router.
const KNOWN: [u16; 12] = [4000, 4001, 7000, 7001, 77, 78, 80, 500, 53, 9000, 4002, 4003];

/// A script's view of a router.
pub(crate) struct Script<'w> {
    world: &'w mut dyn World,
    lines: Vec<String>,
    /// Ports chosen by the router, in order of appearance.
    chosen: BTreeMap<u16, usize>,
    range: (u16, u16),
}

impl Script<'_> {
    /// Sends a packet from inside; gives what came out outside first.
    pub(crate) fn out(&mut self, what: &str, packet: Vec<u8>) -> Option<Vec<u8>> {
        self.step(what, true, packet).1
    }

    /// Sends a packet from outside; gives what came out inside first.
    pub(crate) fn back(&mut self, what: &str, packet: Vec<u8>) -> Option<Vec<u8>> {
        self.step(what, false, packet).0
    }

    /// Sends a packet from inside; gives what came out inside first.
    pub(crate) fn turn(&mut self, what: &str, packet: Vec<u8>) -> Option<Vec<u8>> {
        self.step(what, true, packet).0
    }

    fn step(
        &mut self,
        what: &str,
        from_inside: bool,
        packet: Vec<u8>,
    ) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let seen = self.world.send(from_inside, packet);
        if seen.inside.is_empty() && seen.outside.is_empty() {
            self.lines.push(format!("{what}: dropped"));
        }
        for (side, packets) in [("inside", &seen.inside), ("outside", &seen.outside)] {
            for packet in packets {
                let text = describe(packet, &mut |port| name(&mut self.chosen, self.range, port));
                self.lines.push(format!("{what}: {side}: {text}"));
            }
        }
        (seen.inside.into_iter().next(), seen.outside.into_iter().next())
    }

    /// Sends packets from inside; gives all that came out outside.
    pub(crate) fn all_out(&mut self, what: &str, packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let count = packets.len();
        let seen = packets.into_iter().flat_map(|p| self.world.send(true, p).outside).collect();
        self.lines.push(format!("{what}: {count} sent"));
        seen
    }

    /// Sends a packet from inside without a line; gives what came out outside.
    pub(crate) fn quiet(&mut self, packet: Vec<u8>) -> Vec<u8> {
        self.world.send(true, packet).outside.remove(0)
    }

    /// Adds a line of the script's own.
    pub(crate) fn note(&mut self, line: String) {
        self.lines.push(line);
    }

    /// A datagram from inside; gives the outside endpoint that stands for its sender.
    pub(crate) fn udp(&mut self, from: &str, to: &str) -> Option<SocketAddr> {
        let packet = self.out(&format!("{from} to {to}"), udp(from, sock(to)))?;
        Some(source(&packet))
    }

    /// A datagram from outside to such an endpoint.
    pub(crate) fn udp_back(&mut self, from: &str, to: Option<SocketAddr>) {
        let Some(to) = to else { return self.note(format!("{from}: to nobody")) };
        self.back(&format!("{from} to the outside"), udp(from, to));
    }

    pub(crate) fn wait(&mut self, millis: u64) {
        self.world.wait(Duration::from_millis(millis));
    }
}

fn name(chosen: &mut BTreeMap<u16, usize>, range: (u16, u16), port: u16) -> String {
    if KNOWN.contains(&port) {
        return port.to_string();
    }
    let next = chosen.len() + 1;
    let number = *chosen.entry(port).or_insert(next);
    let odd = if (range.0..=range.1).contains(&port) { "" } else { " out of range" };
    format!("#{number}{odd}")
}

/// The source of a packet.
pub(crate) fn source(packet: &[u8]) -> SocketAddr {
    let view = View::parse(packet).unwrap();
    SocketAddr::new(view.ip.source, view.ports().0)
}

/// Rules of the kernel and the router of the engine that claims to be the same.
pub(crate) struct Pair<'a> {
    pub(crate) rules: &'a str,
    pub(crate) settings: &'a [(&'a str, &'a str)],
    pub(crate) config: RouterConfig,
    /// From and to which ports the routers choose.
    pub(crate) range: (u16, u16),
}

/// What both worlds say to a script, kernel first, and whether it is `good`. None where the kernel
/// cannot be asked.
pub(crate) fn both(
    pair: &Pair<'_>,
    script: impl Fn(&mut Script<'_>),
    good: impl Fn(&[String], &[String]) -> bool,
) -> Option<(Vec<String>, Vec<String>)> {
    if !can_run() {
        return None;
    }
    let lines = |world: &mut dyn World| {
        let chosen = BTreeMap::new();
        let mut run = Script { world, lines: Vec::new(), chosen, range: pair.range };
        script(&mut run);
        run.lines
    };
    let simulated = lines(&mut Simulated::new(pair.config.clone()));
    let mut said = Vec::new();
    // A busy machine may be late, and the kernel's random port may by chance be one that means
    // something to the script: 1 in 5,000.
    for _ in 0..3 {
        let mut kernel = Kernel::new(pair.rules, pair.settings);
        said = lines(&mut kernel);
        if !kernel.late() && good(&said, &simulated) {
            break;
        }
    }
    Some((said, simulated))
}

/// Both worlds say the same.
pub(crate) fn same(pair: &Pair<'_>, script: impl Fn(&mut Script<'_>)) {
    let Some((kernel, engine)) = both(pair, script, |k, e| k == e) else { return };
    let at = kernel.iter().zip(&engine).position(|(k, e)| k != e);
    let at = at.unwrap_or(kernel.len().min(engine.len()));
    assert!(
        kernel == engine,
        "line {at} differs\nkernel: {:#?}\nengine: {:#?}\nall of the kernel's: {kernel:#?}",
        kernel.get(at),
        engine.get(at)
    );
}

/// Both worlds begin with `alike` and then say what is expected of each.
pub(crate) fn differ(
    pair: &Pair<'_>,
    script: impl Fn(&mut Script<'_>),
    alike: &[&str],
    kernel: &[&str],
    engine: &[&str],
) {
    let (kernel, engine) = ([alike, kernel].concat(), [alike, engine].concat());
    let Some((said, simulated)) = both(pair, script, |said, _| said == kernel) else { return };
    assert_eq!(said, kernel, "the kernel");
    assert_eq!(simulated, engine, "the engine");
}
