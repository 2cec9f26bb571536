//! Runs a scenario in this process, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use meshwire_netsim::Change;
use meshwire_netsim::scenario::{Cell, Map, Paths, Scenario};
use meshwire_netsim::simnet::{self, Sim, Stage};
use meshwire_peer::api::{AskPath, Done, PathReport};
use meshwire_peer::node::Event;
use meshwire_peer::path::PathMode;
use meshwire_signaling::EnvelopeId;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{sleep, timeout};

use super::books::{Books, Wanted};
use super::capture::Capture;
use super::driver::{BROKER, Driver, knows, note};
use super::facts::Facts;
use super::report::{Report, SimError, panic_text};
use super::run::{Options, Play};
use super::virtual_world::{BrokerSite, VirtualWorld};

/// Between two looks at what has happened. Looking costs nearly nothing.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// How long nodes may take to join and connect, over whatever links they have.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs one cell of a scenario.
///
/// It has a thread and a runtime of its own, and blocks until it is done.
///
/// # Errors
/// [`SimError`]. An assertion that does not hold is no error.
pub fn in_virtual(cell: &Cell, options: &Options) -> Result<Report, SimError> {
    if let Some(step) = cell.scenario.lab_step() {
        let text = format!(
            "line {}: exec runs programs, which only the lab can: use --driver lab",
            step.place.line
        );
        return Err(SimError::Unable(text));
    }
    let seed = options.seed.unwrap_or(cell.scenario.seed);
    std::thread::scope(|scope| {
        let run = || simnet::run(seed, async |stage| Box::pin(perform(stage, cell, options)).await);
        scope.spawn(run).join().unwrap_or_else(|panic| {
            Err(SimError::Broken(format!("seed {seed}: {}", panic_text(&*panic))))
        })
    })
}

async fn perform(stage: Stage, cell: &Cell, options: &Options) -> Result<Report, SimError> {
    // The environment has the last word on it.
    let (scenario, seed) = (&cell.scenario, stage.seed());
    let plan = scenario.plan(seed).map_err(|f| SimError::Unable(f.to_string()))?;
    let map = plan.map;
    let capture = Capture::create(options.trace.as_deref(), options.pcap.as_deref(), &map)
        .map_err(|(path, error)| SimError::File { path, error })?;
    let sim = Sim::new(stage, plan.builder);
    if !capture.is_idle() {
        let hook = capture.hook();
        sim.inspect(|engine| engine.set_trace(hook));
    }
    let mut facts = Facts::default();
    let mut driver = Virtual { sim, world: None, ears: BTreeMap::new() };
    driver.rename(&map);
    options.tell(|| format!("{}: broker and {} nodes", scenario.name, scenario.nodes.len()));
    driver.set_up(scenario, &map, &mut facts).await?;
    let play = Play::new(scenario, options, Driver::Virtual(Box::new(driver)), map, facts, seed);
    let (report, _) = Box::pin(play.play(cell)).await?;
    let path = || options.trace.clone().or(options.pcap.clone()).unwrap_or_default();
    capture.finish().map_err(|error| SimError::File { path: path(), error })?;
    Ok(report)
}

/// Waits until every node knows every other one, so that the timeline can begin.
async fn acquainted(world: &VirtualWorld) -> Result<(), String> {
    let all = world.nodes().count();
    for node in world.nodes() {
        loop {
            let status = node.node().map_err(words)?.status(Done {}).await.map_err(words)?;
            if status.meshes.first().is_some_and(|m| knows(m, all)) {
                break;
            }
            sleep(TICK).await;
        }
    }
    Ok(())
}

/// What a scenario calls it, as a node knows it.
fn mode(paths: Paths) -> PathMode {
    match paths {
        Paths::RelayOnly => PathMode::RelayOnly,
        Paths::HideAddresses => PathMode::HideAddresses,
        _ => PathMode::Auto,
    }
}

/// Broker and nodes in one simulation.
pub(super) struct Virtual {
    sim: Sim,
    world: Option<VirtualWorld>,
    /// What each running node tells.
    ears: BTreeMap<String, Receiver<Event>>,
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

impl Virtual {
    async fn set_up(
        &mut self,
        scenario: &Scenario,
        map: &Map,
        facts: &mut Facts,
    ) -> Result<(), SimError> {
        let wrong = |e: String| SimError::SetUp(e);
        let Some(broker) = &scenario.broker else { return Ok(()) };
        let host = map.host(&broker.host).ok_or_else(|| wrong("no such host".to_owned()))?;
        let mut site = BrokerSite::on(host.id, &broker.host);
        site.port = broker.port;
        site.url = format!("http://{}:{}", broker.host, broker.port);
        site.turn = scenario.nodes.iter().any(|n| n.paths != Paths::RelayOnly);
        let world = VirtualWorld::start(self.sim.clone(), site).await;
        let world = self.world.insert(world.map_err(|e| wrong(words(e)))?);
        let late = || wrong(format!("not all nodes joined within {} s", PATIENCE.as_secs()));
        for alike in scenario.nodes.chunk_by(|a, b| a.paths == b.paths) {
            let nodes: Vec<_> = alike
                .iter()
                .filter_map(|n| Some((n.name.clone(), map.host(&n.host)?.id)))
                .collect();
            for (name, _) in &nodes {
                facts.started.insert(name.clone(), super::driver::since(self.sim.now()));
            }
            world.set_paths(alike.first().map(|n| mode(n.paths)).unwrap_or_default());
            let added = timeout(PATIENCE, Box::pin(world.add_all(&nodes))).await;
            added.map_err(|_| late())?.map_err(|e| wrong(words(e)))?;
        }
        for node in world.nodes() {
            let connected = timeout(PATIENCE, node.connected()).await;
            connected.map_err(|_| late())?.map_err(|e| wrong(words(e)))?;
        }
        timeout(PATIENCE, acquainted(world)).await.map_err(|_| late())?.map_err(wrong)?;
        for node in &scenario.nodes {
            if node.up {
                self.listen(&node.name, facts).await.map_err(wrong)?;
            } else {
                self.stop(&node.name).await.map_err(wrong)?;
                facts.started.remove(&node.name);
            }
        }
        Ok(())
    }

    pub(super) fn now(&self) -> Duration {
        super::driver::since(self.sim.now())
    }

    fn world(&mut self) -> Result<&mut VirtualWorld, String> {
        self.world.as_mut().ok_or_else(|| "there is no broker".to_owned())
    }

    /// Hears what a node tells, and looks what it has told before.
    async fn listen(&mut self, name: &str, facts: &mut Facts) -> Result<(), String> {
        let node = self.world()?.node(name).map_err(words)?;
        let ear = node.node().map_err(words)?.events();
        self.ears.insert(name.to_owned(), ear);
        self.resync(name, facts).await
    }

    /// Asks a node for everything that its events tell of.
    async fn resync(&mut self, name: &str, facts: &mut Facts) -> Result<(), String> {
        let now = self.now();
        let node = self.world()?.node(name).map_err(words)?;
        facts.link(name, node.link().await.map_err(words)? == "up", now);
        let own = |s: &&super::facts::Sent| s.from == name && s.receipt.is_none();
        let ids: Vec<String> = facts.sent.iter().filter(own).filter_map(|s| s.id.clone()).collect();
        for id in ids {
            if let Ok(id) = id.parse::<EnvelopeId>() {
                let message = node.message(id).await.map_err(words)?;
                note(facts, &message, now);
            }
        }
        for row in node.inbox().await.map_err(words)? {
            facts.surely_received(name, &row.message, now);
        }
        Ok(())
    }

    pub(super) async fn look(&mut self, facts: &mut Facts) {
        let now = self.now();
        let mut behind = Vec::new();
        let mut moved = Vec::new();
        for (name, ear) in &mut self.ears {
            loop {
                match ear.try_recv() {
                    Ok(Event::Link { up, .. }) => {
                        facts.link(name, up, now);
                    }
                    Ok(Event::Message(row)) => {
                        let text = String::from_utf8_lossy(&row.item.content);
                        facts.received(name, &text, now);
                    }
                    Ok(Event::Outbox { id, .. }) => moved.push((name.clone(), id)),
                    Ok(_) => {}
                    Err(TryRecvError::Lagged(_)) => behind.push(name.clone()),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
        }
        let Some(world) = &self.world else { return };
        for (name, id) in moved {
            // A node that was stopped meanwhile is asked after its next start.
            if let Ok(node) = world.node(&name)
                && let Ok(message) = node.message(id).await
            {
                note(facts, &message, now);
            }
        }
        for name in behind {
            // The same.
            let _ = self.resync(&name, facts).await;
        }
    }

    pub(super) async fn path(&self, from: &str, to: &str) -> Option<PathReport> {
        let node = self.world.as_ref()?.node(from).ok()?.node().ok()?;
        node.path(AskPath { mesh: None, peer: to.to_owned() }).await.ok()
    }

    pub(super) fn books(&self, wanted: &Wanted) -> Books {
        self.sim.inspect(|engine| wanted.read(engine))
    }

    pub(super) async fn send(
        &mut self,
        from: &str,
        to: &str,
        text: &str,
    ) -> Result<String, String> {
        let node = self.world()?.node(from).map_err(words)?;
        node.send(to, text).await.map(words).map_err(words)
    }

    pub(super) async fn stop(&mut self, who: &str) -> Result<(), String> {
        if who == BROKER {
            return self.world()?.broker_mut().stop().await.map_err(words);
        }
        self.world()?.node_mut(who).map_err(words)?.stop().await.map_err(words)
    }

    pub(super) async fn start(&mut self, who: &str, facts: &mut Facts) -> Result<(), String> {
        if who == BROKER {
            return Box::pin(self.world()?.broker_mut().start()).await.map_err(words);
        }
        Box::pin(self.world()?.node_mut(who).map_err(words)?.start()).await.map_err(words)?;
        self.listen(who, facts).await
    }

    pub(super) fn change(&self, change: Change) -> Result<(), String> {
        self.sim.control(change).map_err(words)
    }

    /// Lets names resolve to the addresses that machines have now.
    pub(super) fn rename(&self, map: &Map) {
        for (name, machine) in map.hosts().filter(|(_, m)| m.public) {
            let addresses: Vec<_> = machine.addresses().collect();
            self.sim.set_name(name, &addresses);
        }
    }
}
