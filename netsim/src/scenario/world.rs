//! What a scenario's world is made of, and reading it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::flaw::Place;
use super::link::read_wire;
use super::nat::{read_firewall, read_nat};
use super::read::{Table, Value};
use crate::firewall::FirewallConfig;
use crate::prefix::Prefix;
use crate::preset::Preset;
use crate::router::RouterConfig;
use crate::topology::Wire;

/// The network that every scenario has: the core that servers and homes hang in.
pub const INTERNET: &str = "internet";

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Whether it is a routed backbone rather than a segment.
    pub core: bool,
    /// Addresses in it; a core has none of its own.
    pub subnets: Vec<Prefix>,
    /// Where it was written.
    pub place: Place,
}

/// A router's side towards a network that it is the gateway of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The network.
    pub network: String,
    /// The router's addresses there.
    pub addresses: Vec<IpAddr>,
    /// Prefixes behind further routers in that network.
    pub beyond: Vec<Prefix>,
    /// The link.
    pub wire: Wire,
}

/// A router.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Its name.
    pub name: String,
    /// The preset it was made from.
    pub preset: Option<Preset>,
    /// What it does.
    pub config: RouterConfig,
    /// The network outside.
    pub network: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that the network outside sends to it.
    pub routed: Vec<Prefix>,
    /// The link of its uplink.
    pub wire: Wire,
    /// The networks inside.
    pub inside: Vec<Inside>,
    /// Where it was written.
    pub place: Place,
}

/// A host's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The network it is in.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its link.
    pub wire: Wire,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its interfaces, at least one.
    pub interfaces: Vec<Interface>,
    /// Where it was written.
    pub place: Place,
}

/// The machine that runs `meshwire broker`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Which.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Where it was written.
    pub place: Place,
}

/// A meshwire node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name in the mesh.
    pub name: String,
    /// The machine it runs on.
    pub host: String,
    /// Whether it runs when the timeline begins. It has joined in any case.
    pub up: bool,
    /// Which paths its messages may take.
    pub paths: Paths,
    /// Where it was written.
    pub place: Place,
}

/// Which paths a node's messages may take, as `meshwire up --paths` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Paths {
    /// Direct ones where there are any.
    #[default]
    Auto,
    /// The broker's relay alone.
    RelayOnly,
    /// Direct ones that hide the machine's addresses: through TURN servers.
    HideAddresses,
}

impl Paths {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::RelayOnly, Self::HideAddresses];

    /// Its word, in scenarios and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::RelayOnly => "relay-only",
            Self::HideAddresses => "hide-addresses",
        }
    }
}

pub(super) fn read_paths(table: &Table<'_, '_>) -> Option<Paths> {
    table.get("paths").and_then(|v| v.word(&Paths::ALL.map(|p| (p.name(), p))))
}

pub(super) fn addresses(value: Option<Value<'_, '_>>) -> Vec<IpAddr> {
    value.map(|v| v.list().iter().filter_map(Value::address).collect()).unwrap_or_default()
}

fn prefixes(value: Option<Value<'_, '_>>) -> Vec<Prefix> {
    value.map(|v| v.list().iter().filter_map(Value::prefix).collect()).unwrap_or_default()
}

pub(super) fn read_network(table: &Table<'_, '_>) -> Option<Network> {
    let name = table.need("name").and_then(|v| v.name());
    let core = table.get("core").and_then(|v| v.flag()).unwrap_or(false);
    let subnets = prefixes(table.get("subnets"));
    table.end();
    Some(Network { name: name?, core, subnets, place: table.place.clone() })
}

/// Reads `preset`, or `nat` and `firewall`.
pub(super) fn read_config(table: &Table<'_, '_>) -> (Option<Preset>, RouterConfig) {
    let preset = table.get("preset").and_then(|v| read_preset(&v));
    let nat = table.inner("nat").map(|t| read_nat(&t));
    let firewall = table.inner("firewall");
    let firewall: Option<FirewallConfig> = firewall.map(|t| read_firewall(&t));
    if preset.is_some() && (nat.is_some() || firewall.is_some()) {
        table.wrong("give either a preset, or nat and firewall of your own");
    }
    let own = RouterConfig { nat, firewall, ..RouterConfig::default() };
    (preset, preset.map_or(own, Preset::router))
}

pub(super) fn read_preset(value: &Value<'_, '_>) -> Option<Preset> {
    value.word(&Preset::ALL.map(|p| (p.name(), p)))
}

pub(super) fn read_router(table: &Table<'_, '_>) -> Option<Router> {
    let name = table.need("name").and_then(|v| v.name());
    let (preset, mut config) = read_config(table);
    if let Some(ping) = table.get("answers_ping").and_then(|v| v.flag()) {
        config.answers_ping = ping;
    }
    let network = table.get("network").map_or(Some(INTERNET.to_owned()), |v| v.name());
    let list = addresses(table.need("addresses"));
    let routed = prefixes(table.get("routed"));
    let wire = read_wire(table);
    let inside = table.tables("inside").iter().filter_map(read_inside).collect();
    table.end();
    Some(Router {
        name: name?,
        preset,
        config,
        network: network?,
        addresses: list,
        routed,
        wire,
        inside,
        place: table.place.clone(),
    })
}

fn read_inside(table: &Table<'_, '_>) -> Option<Inside> {
    let network = table.need("network").and_then(|v| v.name());
    let list = addresses(table.need("addresses"));
    let beyond = prefixes(table.get("beyond"));
    let wire = read_wire(table);
    table.end();
    Some(Inside { network: network?, addresses: list, beyond, wire })
}

pub(super) fn read_host(table: &Table<'_, '_>) -> Option<Host> {
    let name = table.need("name").and_then(|v| v.name());
    let interfaces = if table.has("interface") {
        let read = |t: &Table<'_, '_>| {
            let interface = read_interface(t);
            t.end();
            interface
        };
        table.tables("interface").iter().filter_map(read).collect()
    } else {
        Vec::from_iter(read_interface(table))
    };
    table.end();
    Some(Host { name: name?, interfaces, place: table.place.clone() })
}

fn read_interface(table: &Table<'_, '_>) -> Option<Interface> {
    let network = table.need("network").and_then(|v| v.name());
    let list = addresses(table.need("addresses"));
    let wire = read_wire(table);
    Some(Interface { network: network?, addresses: list, wire })
}

/// Refuses names that are there twice.
pub(super) fn check_names<'p>(
    all: impl IntoIterator<Item = (&'p str, &'p Place)>,
    wrong: &mut impl FnMut(&Place, String),
) {
    let mut seen = BTreeSet::new();
    for (name, place) in all {
        if !seen.insert(name) {
            wrong(place, format!("the name {name:?} is used twice; give each its own"));
        }
    }
}
