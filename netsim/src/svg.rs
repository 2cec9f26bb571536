//! A scenario's topology as a picture: one self-contained SVG, readable on light and dark ground.
//!
//! The core is a bar; machines that are in it stand above, what is behind routers hangs below. A network
//! that no router leads to is a bar of its own beside it; further interfaces of a machine are dashed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::link::{Jitter, LinkConfig, Loss};
use crate::nat::NatConfig;
use crate::prefix::Prefix;
use crate::router::RouterConfig;
use crate::scenario::{Host, INTERNET, Router, Scenario, say_duration};
use crate::topology::Wire;

/// Width of a letter of 12 px, about.
const LETTER: f64 = 7.0;
const LINE: f64 = 15.0;
const GAP: f64 = 24.0;
const MARGIN: f64 = 20.0;
/// Height of a network's bar.
const BAR: f64 = 26.0;
/// Networks within networks that are drawn; deeper ones are said to be there.
const DEPTH: usize = 16;

const STYLE: &str = "
  text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #1f2328; text-anchor: middle; }
  .small { font-size: 11px; fill: #59636e; }
  .link { text-anchor: start; }
  .name { font-weight: 600; }
  .net { fill: #d8e9fb; stroke: #3b82c4; }
  .router { fill: #fff3d6; stroke: #b58105; }
  .host { fill: #f0f1f3; stroke: #7a828b; }
  .node { fill: #dcf5e3; stroke: #2f9150; }
  .broker { fill: #ecdffb; stroke: #8250c8; }
  .wire { stroke: #7a828b; stroke-width: 1.5; fill: none; }
  .more { stroke-dasharray: 4 3; }
  .ground { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .small { fill: #9da7b1; }
    .net { fill: #14304d; stroke: #5aa0e0; }
    .router { fill: #3d3010; stroke: #d5a021; }
    .host { fill: #2a2f36; stroke: #8b949e; }
    .node { fill: #12351f; stroke: #46b368; }
    .broker { fill: #2f2145; stroke: #a87be6; }
    .wire { stroke: #8b949e; }
    .ground { fill: #0d1117; }
  }
";

/// The picture.
#[must_use]
pub fn picture(scenario: &Scenario) -> String {
    let tree = Tree::new(scenario);
    let mut out = Drawing::default();
    let mut x = MARGIN;
    let above = tree.roots.iter().map(Net::above).fold(0.0, f64::max);
    for root in &tree.roots {
        root.draw(&mut out, x, MARGIN + above);
        x += root.width() + GAP;
    }
    for (from, network) in &tree.further {
        out.further(from, network);
    }
    let (width, height) = (x - GAP + MARGIN, out.bottom + MARGIN);
    let title = escape(&scenario.name);
    let about = escape(&scenario.about);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
         <title>{title}</title>\n<desc>{about}</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n{}{}</svg>\n",
        out.wires, out.boxes
    )
}

/// A machine or router, with the networks that hang on it.
struct Item {
    class: &'static str,
    /// What is written in its box; the first line is its name.
    lines: Vec<String>,
    /// What is written beside its link.
    link: Vec<String>,
    nets: Vec<Net>,
}

struct Net {
    name: String,
    label: String,
    /// Machines above the bar.
    top: Vec<Item>,
    /// Everything below it.
    items: Vec<Item>,
}

struct Tree {
    roots: Vec<Net>,
    /// Names of machines and of the networks that their further interfaces are in.
    further: Vec<(String, String)>,
}

impl Tree {
    fn new(scenario: &Scenario) -> Self {
        let inner: Vec<&str> = scenario
            .routers
            .iter()
            .flat_map(|r| r.inside.iter().map(|i| i.network.as_str()))
            .collect();
        let outer = scenario.networks.iter().map(|n| n.name.as_str());
        let roots = std::iter::once(INTERNET).chain(outer.filter(|n| !inner.contains(n)));
        let net = |name: &str| Net::of(scenario, name, 0);
        let further = |host: &Host| {
            let name = host.name.clone();
            host.interfaces.iter().skip(1).map(move |i| (name.clone(), i.network.clone())).collect()
        };
        let further: Vec<Vec<_>> = scenario.hosts.iter().map(further).collect();
        Self { roots: roots.map(net).collect(), further: further.into_iter().flatten().collect() }
    }
}

impl Net {
    fn of(scenario: &Scenario, name: &str, depth: usize) -> Self {
        let known = scenario.networks.iter().find(|n| n.name == name);
        let core = known.is_none_or(|n| n.core);
        let label = match known {
            Some(n) if !n.subnets.is_empty() => {
                let v4 = |p: &&Prefix| p.address().is_ipv4();
                let shown = n.subnets.iter().find(v4).or(n.subnets.first());
                format!("{name} · {}", shown.map(ToString::to_string).unwrap_or_default())
            }
            _ => name.to_owned(),
        };
        let here = |h: &&Host| h.interfaces.first().is_some_and(|i| i.network == name);
        let hosts = scenario.hosts.iter().filter(here).map(|h| host_item(scenario, h));
        let routers = scenario.routers.iter().filter(|r| r.network == name);
        let routers = routers.map(|r| router_item(scenario, r, depth));
        let (top, items) = if core {
            (hosts.collect(), routers.collect())
        } else {
            (Vec::new(), hosts.chain(routers).collect())
        };
        Self { name: name.to_owned(), label, top, items }
    }

    fn row(items: &[Item]) -> f64 {
        let widths: f64 = items.iter().map(Item::width).sum();
        widths + GAP * f64::from(u16::try_from(items.len().saturating_sub(1)).unwrap_or(0))
    }

    fn width(&self) -> f64 {
        let label = text_width(&self.label) + 24.0;
        label.max(Self::row(&self.top)).max(Self::row(&self.items))
    }

    /// Height of what stands above the bar.
    fn above(&self) -> f64 {
        self.top.iter().map(|i| i.height() + i.wire()).fold(0.0, f64::max)
    }

    /// Draws with the bar's upper left corner at `x`, `y`.
    fn draw(&self, out: &mut Drawing, x: f64, y: f64) {
        let width = self.width();
        out.bar(&self.name, &self.label, (x, y), width);
        let mut at = x + (width - Self::row(&self.top)) / 2.0;
        for item in &self.top {
            let middle = at + item.width() / 2.0;
            let foot = y - item.wire();
            out.wire(middle, foot, y, &item.link);
            out.item(item, middle, foot - item.height());
            at += item.width() + GAP;
        }
        let mut at = x + (width - Self::row(&self.items)) / 2.0;
        for item in &self.items {
            let middle = at + item.width() / 2.0;
            let head = y + BAR + item.wire();
            out.wire(middle, y + BAR, head, &item.link);
            out.item(item, middle, head);
            let foot = head + item.height();
            let widths: f64 = item.nets.iter().map(Self::width).sum();
            let gaps =
                GAP * f64::from(u16::try_from(item.nets.len().saturating_sub(1)).unwrap_or(0));
            let mut left = middle - (widths + gaps) / 2.0;
            for net in &item.nets {
                let centre = left + net.width() / 2.0;
                out.path((middle, foot), (centre, foot + GAP), "wire");
                net.draw(out, left, foot + GAP);
                left += net.width() + GAP;
            }
            at += item.width() + GAP;
        }
    }
}

impl Item {
    fn own_width(&self) -> f64 {
        let lines = self.lines.iter().map(|l| text_width(l)).fold(0.0, f64::max);
        // A link's text stands beside its line, on the right.
        let link = self.link.iter().map(|l| 2.0 * text_width(l) + 12.0).fold(0.0, f64::max);
        (lines + 20.0).max(link)
    }

    fn width(&self) -> f64 {
        let nets: f64 = self.nets.iter().map(|n| n.width() + GAP).sum();
        self.own_width().max(nets - GAP)
    }

    fn height(&self) -> f64 {
        lines_height(&self.lines) + 12.0
    }

    fn wire(&self) -> f64 {
        lines_height(&self.link).max(LINE) + 10.0
    }
}

fn lines_height(lines: &[String]) -> f64 {
    LINE * f64::from(u16::try_from(lines.len()).unwrap_or(u16::MAX))
}

fn text_width(text: &str) -> f64 {
    LETTER * f64::from(u16::try_from(text.chars().count()).unwrap_or(u16::MAX))
}

fn host_item(scenario: &Scenario, host: &Host) -> Item {
    let mut lines = vec![host.name.clone()];
    let broker = scenario.broker.as_ref().is_some_and(|b| b.host == host.name);
    let nodes: Vec<&str> =
        scenario.nodes.iter().filter(|n| n.host == host.name).map(|n| n.name.as_str()).collect();
    if broker {
        lines.push("broker".to_owned());
    }
    match nodes.as_slice() {
        [] => {}
        [only] if *only == host.name => lines.push("node".to_owned()),
        all => lines.push(format!("node {}", all.join(", "))),
    }
    let first = host.interfaces.first();
    lines.extend(first.and_then(|i| i.addresses.first()).map(ToString::to_string));
    let class = match (broker, nodes.is_empty()) {
        (true, _) => "broker",
        (false, false) => "node",
        (false, true) => "host",
    };
    let link = first.map(|i| link_lines(&i.wire)).unwrap_or_default();
    Item { class, lines, link, nets: Vec::new() }
}

fn router_item(scenario: &Scenario, router: &Router, depth: usize) -> Item {
    let mut lines = vec![router.name.clone(), kind(router)];
    lines.extend(router.addresses.first().map(ToString::to_string));
    let nets = if depth < DEPTH {
        let inside = router.inside.iter();
        inside.map(|i| Net::of(scenario, &i.network, depth + 1)).collect()
    } else {
        lines.push("…".to_owned());
        Vec::new()
    };
    Item { class: "router", lines, link: link_lines(&router.wire), nets }
}

/// What a router is, in a few words.
fn kind(router: &Router) -> String {
    if let Some(preset) = router.preset {
        return preset.name().to_owned();
    }
    let RouterConfig { nat, firewall, .. } = &router.config;
    let nat = match nat {
        None => None,
        Some(NatConfig::OneToOne(_)) => Some("1:1"),
        Some(NatConfig::Ports(_)) => Some("NAT"),
    };
    let words: Vec<&str> = nat.into_iter().chain(firewall.as_ref().map(|_| "firewall")).collect();
    if words.is_empty() { "router".to_owned() } else { words.join(", ") }
}

/// What a link does, in the words of a scenario; nothing for a perfect wire.
fn link_lines(wire: &Wire) -> Vec<String> {
    if wire.up == wire.down {
        return words(&wire.up);
    }
    let way = |arrow, config| {
        let words = words(config);
        let words = if words.is_empty() { "perfect".to_owned() } else { words.join(", ") };
        format!("{arrow} {words}")
    };
    vec![way("↑", &wire.up), way("↓", &wire.down)]
}

fn words(config: &LinkConfig) -> Vec<String> {
    let percent = |chance: crate::Chance| {
        let text = format!("{:.3}", chance.get() * 100.0);
        format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
    };
    let mut words = Vec::new();
    let jitter = match config.jitter {
        Jitter::None => String::new(),
        Jitter::Uniform(spread) | Jitter::Normal(spread) => format!(" ± {}", say_duration(spread)),
    };
    if !config.latency.is_zero() || !jitter.is_empty() {
        words.push(format!("{}{jitter}", say_duration(config.latency)));
    }
    match config.loss {
        Loss::None => {}
        Loss::Independent(chance) => words.push(format!("{} loss", percent(chance))),
        Loss::Burst { .. } => words.push("bursts of loss".to_owned()),
    }
    if let Some(rate) = config.rate {
        words.push(say_rate(rate.bits_per_second));
    }
    if let Some(reorder) = config.reorder {
        words.push(format!("{} reordered", percent(reorder.chance)));
    }
    if config.duplicate != crate::Chance::NEVER {
        words.push(format!("{} twice", percent(config.duplicate)));
    }
    if config.corrupt != crate::Chance::NEVER {
        words.push(format!("{} broken", percent(config.corrupt)));
    }
    if config.mtu != LinkConfig::default().mtu {
        let silent = if config.mtu_signal { "" } else { ", silent" };
        words.push(format!("MTU {}{silent}", config.mtu));
    }
    words
}

fn say_rate(bits: u64) -> String {
    let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1000, "kbit/s")];
    let unit = units.into_iter().find(|(unit, _)| bits >= *unit && bits.is_multiple_of(unit / 10));
    let Some((unit, name)) = unit else { return format!("{bits} bit/s") };
    match (bits / unit, bits % unit / (unit / 10)) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, tenth) => format!("{whole}.{tenth} {name}"),
    }
}

#[derive(Default)]
struct Drawing {
    wires: String,
    boxes: String,
    bottom: f64,
    /// Where bars and boxes are, for further interfaces: x and y of their middles.
    places: BTreeMap<String, (f64, f64)>,
}

impl Drawing {
    fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), round: f64) {
        self.bottom = self.bottom.max(y + height);
        let _ = writeln!(
            self.boxes,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" rx=\"{round:.0}\"/>"
        );
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = escape(text);
        let _ =
            writeln!(self.boxes, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    fn bar(&mut self, name: &str, label: &str, (x, y): (f64, f64), width: f64) {
        self.rect("net", (x, y), (width, BAR), BAR / 2.0);
        self.text("name", x + width / 2.0, y + 17.0, label);
        self.places.insert(name.to_owned(), (x + width / 2.0, y + BAR / 2.0));
    }

    fn item(&mut self, item: &Item, middle: f64, y: f64) {
        let lines = item.lines.iter().map(|l| text_width(l)).fold(0.0, f64::max);
        let width = lines + 20.0;
        let height = item.height();
        self.rect(item.class, (middle - width / 2.0, y), (width, height), 6.0);
        let mut at = y + 16.0;
        for (line, class) in
            item.lines.iter().zip(std::iter::once("name").chain(std::iter::repeat("small")))
        {
            self.text(class, middle, at, line);
            at += LINE;
        }
        if let Some(name) = item.lines.first() {
            self.places.insert(name.clone(), (middle, y + height / 2.0));
        }
    }

    fn wire(&mut self, x: f64, top: f64, bottom: f64, link: &[String]) {
        self.path((x, top), (x, bottom), "wire");
        let mut at = top + (bottom - top - lines_height(link)) / 2.0 + 11.0;
        for line in link {
            self.text("small link", x + 7.0, at, line);
            at += LINE;
        }
    }

    fn path(&mut self, (x, y): (f64, f64), (to_x, to_y): (f64, f64), class: &str) {
        let _ = writeln!(
            self.wires,
            "<path class=\"{class}\" d=\"M{x:.1} {y:.1} L{to_x:.1} {to_y:.1}\"/>"
        );
    }

    /// A further interface: from a machine to a network's bar.
    fn further(&mut self, machine: &str, network: &str) {
        let ends = self.places.get(machine).copied().zip(self.places.get(network).copied());
        if let Some((from, to)) = ends {
            self.path(from, to, "wire more");
        }
    }
}

fn escape(text: &str) -> String {
    let visible = text.chars().filter(|c| !c.is_control());
    visible.fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
        out
    })
}
