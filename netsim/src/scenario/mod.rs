//! Scenarios: a world, what happens in it, and what must be true in the end, as a TOML file.
//!
//! Reading one does no I/O. Everything that can be wrong with a file is said when it is read, with line,
//! column and key: unknown keys with the nearest valid one, names that nobody has, links and NATs that
//! cannot be, changes that the world refuses. docs/scenarios.md describes the keys.
//!
//! ```
//! use meshwire_netsim::scenario::Document;
//!
//! let text = r#"
//! [scenario]
//! name = "two-homes"
//!
//! [[home]]
//! name = "ana"
//! preset = "full-cone"
//! link = { latency = "20ms", loss = "5%" }
//!
//! [[server]]
//! name = "web"
//! "#;
//! let document = Document::parse(text).expect("a scenario");
//! let scenario = &document.cells()[0].scenario;
//! let plan = scenario.plan(7).expect("a world");
//! assert_eq!(plan.map.host("web").map(|h| h.public), Some(true));
//!
//! let wrong = text.replace("latency", "latencey");
//! let flaws = Document::parse(&wrong).expect_err("an unknown key");
//! assert!(flaws.to_string().starts_with(
//!     r#"line 8, column 10, home.link.latencey: there is no such key; did you mean "latency"?"#
//! ));
//! ```

mod builtin;
mod check;
mod flaw;
mod home;
mod link;
mod nat;
mod plan;
mod read;
mod refer;
mod timeline;
mod units;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

pub use builtin::{BUILT_IN, built_in};
pub use check::{Assert, Bounds, Carrier, Check, Delivered, EVERY, PathCheck, PathKind};
pub use flaw::{Flaw, Flaws, Place};
pub use plan::{Machine, Map, Plan};
pub use timeline::{Action, Awaited, Disturbance, Exec, LinkChange, Send, Step, WaitFor, When};
use toml::de::DeTable;
pub use units::say_duration;
pub use world::{Broker, Host, INTERNET, Inside, Interface, Network, Node, Paths, Router};

use crate::preset::Preset;
use home::Home;
use read::{Source, Table};

/// The longest file that is read, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Runs that one file's matrix may make.
const MAX_CELLS: usize = 256;
/// Members of a list of `[[node]]`s that `count` makes.
const MAX_COUNT: u64 = 1_000;
/// How long a scenario may last when it does not say.
const LIMIT: Duration = Duration::from_secs(300);
/// How long is waited, when everything has arrived, for what must not come any more.
const LINGER: Duration = Duration::from_secs(2);
/// HTTPS' port, the only one that some presets let through.
const BROKER_PORT: u16 = 443;

/// A world, what happens in it, and what must be true in the end.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Everything random in it, where nobody says otherwise.
    pub seed: u64,
    /// How long it may take, from the timeline's begin.
    pub limit: Duration,
    /// How long is waited at the end for what must not come.
    pub linger: Duration,
    /// The networks beside [`INTERNET`].
    pub networks: Vec<Network>,
    /// The routers, outer ones first.
    pub routers: Vec<Router>,
    /// The machines.
    pub hosts: Vec<Host>,
    /// Who runs the broker.
    pub broker: Option<Broker>,
    /// The meshwire nodes; the first founds the mesh.
    pub nodes: Vec<Node>,
    /// What happens, in order.
    pub timeline: Vec<Step>,
    /// What must be true.
    pub asserts: Vec<Assert>,
}

/// One run of a file: the scenario with the values that its matrix has there.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What `$key` stands for.
    pub values: BTreeMap<String, String>,
    /// The scenario.
    pub scenario: Scenario,
}

impl Cell {
    /// `preset=hotel`; nothing for a file without a matrix.
    #[must_use]
    pub fn label(&self) -> String {
        let each: Vec<String> = self.values.iter().map(|(k, v)| format!("{k}={v}")).collect();
        each.join(" ")
    }
}

/// A file: one scenario for each cell of its matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    cells: Vec<Cell>,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Flaws> {
        if text.len() > MAX_FILE {
            let message = format!("a scenario has at most {MAX_FILE} bytes, this {}", text.len());
            return Err(Flaws::new(vec![Place::default().flaw(message)]));
        }
        let root = DeTable::parse(text).map_err(|e| {
            let place = Place::new(text, &e.span().unwrap_or_default(), "");
            Flaws::new(vec![place.flaw(e.message())])
        })?;
        let source = |cell| Source { text, cell, flaws: RefCell::default() };
        let first = source(BTreeMap::new());
        let combinations = read_matrix(&Table::new(&first, Place::default(), root.get_ref()));
        let mut flaws = first.flaws.into_inner();
        let mut cells = Vec::new();
        for values in combinations {
            let source = source(values.clone());
            let table = Table::new(&source, Place::new(text, &(0..0), ""), root.get_ref());
            let scenario = Scenario::read(&table);
            if source.flaws.borrow().is_empty() {
                scenario.check(&source);
            }
            flaws.extend(source.flaws.into_inner());
            cells.push(Cell { values, scenario });
        }
        if flaws.is_empty() { Ok(Self { cells }) } else { Err(Flaws::new(flaws)) }
    }

    /// Its runs: at least one.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Only the runs in which `$key` is `value`.
    ///
    /// # Errors
    /// What the matrix has instead.
    pub fn only(mut self, key: &str, value: &str) -> Result<Self, String> {
        let keys: Vec<String> =
            self.cells.first().map(|c| c.values.keys().cloned().collect()).unwrap_or_default();
        let names = || keys.iter().map(String::as_str);
        if keys.is_empty() {
            return Err("this scenario has no [matrix]: there is nothing to set".to_owned());
        }
        if !keys.iter().any(|k| k == key) {
            let (tip, all) = (flaw::tip(key, names()), flaw::choices(names()));
            return Err(format!("[matrix] has no {key:?}{tip}; it has {all}"));
        }
        let mut values: Vec<String> =
            self.cells.iter().filter_map(|c| c.values.get(key).cloned()).collect();
        values.sort();
        values.dedup();
        self.cells.retain(|c| c.values.get(key).is_some_and(|v| v == value));
        if self.cells.is_empty() {
            let all = || values.iter().map(String::as_str);
            let (tip, all) = (flaw::tip(value, all()), flaw::choices(all()));
            return Err(format!("{key} is never {value:?}{tip}; it is {all}"));
        }
        Ok(self)
    }
}

/// Every combination of the matrix' values; a single empty one without a matrix.
fn read_matrix(root: &Table<'_, '_>) -> Vec<BTreeMap<String, String>> {
    let mut all = vec![BTreeMap::new()];
    let Some(table) = root.inner("matrix") else { return all };
    for (key, place) in table.present() {
        let Some(value) = table.any(key) else { continue };
        let values: Vec<String> = if key == "preset" && value.is_text() {
            value.word(&[("all", ())]);
            Preset::ALL.iter().map(|p| p.name().to_owned()).collect()
        } else {
            value.list().iter().filter_map(read::Value::text).collect()
        };
        if values.is_empty() || all.len().saturating_mul(values.len()) > MAX_CELLS {
            let text =
                format!("a matrix makes 1 to {MAX_CELLS} runs, each key with 1 value or more");
            table.source.flaw(&place, text);
            continue;
        }
        let with = |cell: &BTreeMap<String, String>, value: &String| {
            let mut cell = cell.clone();
            cell.insert(key.to_owned(), value.clone());
            cell
        };
        all = all.iter().flat_map(|c| values.iter().map(move |v| with(c, v))).collect();
    }
    all
}

impl Scenario {
    fn read(root: &Table<'_, '_>) -> Self {
        let mut scenario = Self { limit: LIMIT, linger: LINGER, seed: 1, ..Self::default() };
        let mut paths = Paths::default();
        if let Some(head) = root.need("scenario").and_then(|v| v.table()) {
            scenario.name = head.need("name").and_then(|v| v.name()).unwrap_or_default();
            scenario.about = head.get("about").and_then(|v| v.text()).unwrap_or_default();
            let seed = head.get("seed").and_then(|v| v.count(0..u64::MAX));
            scenario.seed = seed.unwrap_or(scenario.seed);
            let time =
                |v: Option<read::Value<'_, '_>>, d| v.and_then(|v| v.duration()).unwrap_or(d);
            scenario.limit = time(head.get("limit"), LIMIT);
            scenario.linger = time(head.get("linger"), LINGER);
            paths = world::read_paths(&head).unwrap_or_default();
            head.end();
        }
        root.get("matrix");
        scenario.networks = root.tables("network").iter().filter_map(world::read_network).collect();
        scenario.routers = root.tables("router").iter().filter_map(world::read_router).collect();
        scenario.hosts = root.tables("host").iter().filter_map(world::read_host).collect();
        let mut servers = 0;
        for table in root.tables("server") {
            scenario.read_server(&table, &mut servers);
        }
        let mut homes: Vec<Home> = root.tables("home").iter().filter_map(Home::read).collect();
        scenario.read_broker(root, &mut servers);
        for table in root.tables("node") {
            scenario.read_node(&table, paths, &mut homes);
        }
        let built = home::build(root.source, &homes);
        scenario.networks.extend(built.networks);
        scenario.routers.extend(built.routers);
        scenario.hosts.extend(built.hosts);
        scenario.timeline =
            root.tables("timeline").iter().filter_map(timeline::read_step).collect();
        scenario.asserts = root.tables("assert").iter().filter_map(check::read_assert).collect();
        root.end();
        scenario
    }

    fn add_server(&mut self, name: String, number: &mut u16, table: &Table<'_, '_>) {
        *number = number.saturating_add(1);
        let wire = link::read_wire(table);
        self.hosts.push(home::server(name, *number, wire, table.place.clone()));
    }

    fn read_server(&mut self, table: &Table<'_, '_>, number: &mut u16) {
        if let Some(name) = table.need("name").and_then(|v| v.name()) {
            self.add_server(name, number, table);
        }
        table.end();
    }

    fn read_broker(&mut self, root: &Table<'_, '_>, number: &mut u16) {
        let Some(table) = root.inner("broker") else { return };
        let port = table.get("port").map_or(Some(u64::from(BROKER_PORT)), |v| v.count(1..65_536));
        let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(BROKER_PORT);
        let named = table.get("host").and_then(|v| v.name());
        if named.is_none() {
            self.add_server("broker".to_owned(), number, &table);
        }
        let host = named.unwrap_or_else(|| "broker".to_owned());
        table.end();
        self.broker = Some(Broker { host, port, place: table.place.clone() });
    }

    /// A node on a machine that is there, or one with a home of its own.
    fn read_node(&mut self, table: &Table<'_, '_>, paths: Paths, homes: &mut Vec<Home>) {
        let up = table.get("up").and_then(|v| v.flag()).unwrap_or(true);
        let paths = world::read_paths(table).unwrap_or(paths);
        let count = table.get("count").and_then(|v| v.count(1..MAX_COUNT + 1));
        let place = table.place.clone();
        if let Some(host) = table.get("host").and_then(|v| v.name()) {
            if let Some(name) = table.need("name").and_then(|v| v.name()) {
                self.nodes.push(Node { name, host, up, paths, place });
            }
            return table.end();
        }
        if let Some(home) = Home::keys(table) {
            let names = match count {
                None => vec![home.name.clone()],
                Some(count) => (1..=count).map(|n| format!("{}{n}", home.name)).collect(),
            };
            for name in names {
                let host = name.clone();
                homes.push(Home {
                    name: name.clone(),
                    preset: home.preset,
                    wire: home.wire,
                    behind: home.behind.clone(),
                    machines: vec![host.clone()],
                    place: home.place.clone(),
                });
                self.nodes.push(Node { name, host, up, paths, place: place.clone() });
            }
        }
        table.end();
    }
}
