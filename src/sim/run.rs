//! Plays a scenario: does what its timeline says, looks what comes of it, and judges. The same for both
//! drivers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::scenario::{
    Action, Awaited, Carrier, Cell, Check, Exec, Map, Place, Scenario, Send, Step, When,
    say_duration,
};
use meshwire_netsim::{Engine, IfaceId, Reason, Traffic};
use tokio::time::sleep;

use super::driver::Driver;
use super::facts::{Facts, text};
use super::judge::{Judged, Verdict, judge};
use super::report::{Report, Row, SimError, millis};

/// Who is told how far a run is.
pub type Teller = Arc<dyn Fn(String) + std::marker::Send + Sync>;

/// How to run a scenario.
#[derive(Clone, Default)]
pub struct Options {
    /// Everything random; the scenario's own seed if none.
    pub seed: Option<u64>,
    /// Where the engine's trace goes.
    pub trace: Option<PathBuf>,
    /// The folder for capture files, one for each host's interface: `ana-eth0.pcap`.
    pub pcap: Option<PathBuf>,
    /// Who is told how far it is.
    pub tell: Option<Teller>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, trace, pcap, .. } = self;
        let mut out = f.debug_struct("Options");
        out.field("seed", seed).field("trace", trace).field("pcap", pcap).finish_non_exhaustive()
    }
}

impl Options {
    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(tell) = &self.tell {
            tell(what());
        }
    }
}

/// What the engine's books say in the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    links: BTreeMap<String, Traffic>,
    hosts: BTreeMap<String, Traffic>,
    dropped: BTreeMap<&'static str, u64>,
    packets: u64,
    dropped_in_all: u64,
}

/// Which of the engine's books a scenario needs.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    links: Vec<(String, IfaceId)>,
    hosts: Vec<(String, Vec<IfaceId>)>,
}

impl Wanted {
    fn new(scenario: &Scenario, map: &Map) -> Self {
        let (mut links, mut hosts) = (Vec::new(), Vec::new());
        for assert in &scenario.asserts {
            match &assert.check {
                Check::Bytes { of: Carrier::Link(name), .. } => {
                    links.extend(map.link(name).map(|id| (name.clone(), id)));
                }
                Check::Bytes { of: Carrier::Host(name), .. } => {
                    let ids = |m: &meshwire_netsim::scenario::Machine| {
                        m.interfaces.iter().map(|(id, _)| *id).collect()
                    };
                    hosts.extend(map.host(name).map(|m| (name.clone(), ids(m))));
                }
                _ => {}
            }
        }
        Self { links, hosts }
    }

    /// Reads them.
    pub(super) fn read(&self, engine: &Engine) -> Books {
        let one = |id: &IfaceId| engine.traffic(*id).unwrap_or_default();
        let add = |a: Traffic, b: Traffic| Traffic {
            up_packets: a.up_packets.saturating_add(b.up_packets),
            up_bytes: a.up_bytes.saturating_add(b.up_bytes),
            down_packets: a.down_packets.saturating_add(b.down_packets),
            down_bytes: a.down_bytes.saturating_add(b.down_bytes),
        };
        let all = |ids: &[IfaceId]| ids.iter().map(one).fold(Traffic::default(), add);
        let ledger = engine.ledger();
        Books {
            links: self.links.iter().map(|(name, id)| (name.clone(), one(id))).collect(),
            hosts: self.hosts.iter().map(|(name, ids)| (name.clone(), all(ids))).collect(),
            dropped: Reason::ALL.iter().map(|r| (r.name(), ledger.dropped(*r))).collect(),
            packets: ledger.entered,
            dropped_in_all: ledger.dropped_in_all(),
        }
    }
}

/// A scenario under way.
pub(super) struct Play<'a> {
    scenario: &'a Scenario,
    options: &'a Options,
    driver: Driver,
    facts: Facts,
    map: Map,
    wanted: Wanted,
    books: Books,
    /// When the timeline began.
    begin: Duration,
    seed: u64,
}

/// Why a timeline ended before its end, for people.
type Trouble = String;

fn at(place: &Place, what: impl fmt::Display) -> Trouble {
    format!("line {}: {what}", place.line)
}

impl<'a> Play<'a> {
    /// A scenario whose broker and nodes are up.
    pub(super) fn new(
        scenario: &'a Scenario,
        options: &'a Options,
        driver: Driver,
        map: Map,
        facts: Facts,
        seed: u64,
    ) -> Self {
        let begin = driver.now();
        let wanted = Wanted::new(scenario, &map);
        let books = Books::default();
        Self { scenario, options, driver, facts, map, wanted, books, begin, seed }
    }

    /// Plays it to its end; the driver comes back to be shut down.
    pub(super) async fn play(mut self, cell: &Cell) -> Result<(Report, Driver), SimError> {
        let trouble = self.timeline().await.err();
        self.facts.done = Some(self.driver.now());
        // What a broken timeline left undone will not become true.
        if trouble.is_none() {
            self.settle().await;
        }
        self.look().await;
        let rows = self.rows();
        let passed = trouble.is_none() && rows.iter().all(|r| r.passed);
        let arrived = |s: &&super::facts::Sent| s.receipt.is_some() && !s.received.is_empty();
        let report = Report {
            scenario: self.scenario.name.clone(),
            cell: cell.label(),
            driver: self.driver.kind(),
            seed: self.seed,
            passed,
            trouble,
            took_ms: millis(self.since_begin()),
            sent: self.facts.sent.len(),
            delivered: self.facts.sent.iter().filter(arrived).count(),
            packets: self.books.packets,
            dropped: self.books.dropped_in_all,
            asserts: rows,
        };
        Ok((report, self.driver))
    }

    fn since_begin(&self) -> Duration {
        self.driver.now().saturating_sub(self.begin)
    }

    fn over(&self) -> bool {
        self.since_begin() >= self.scenario.limit
    }

    /// Takes in what has happened.
    async fn look(&mut self) {
        self.driver.look(&mut self.facts).await;
        self.books = self.driver.books(&self.wanted);
        self.facts.links_carried.clone_from(&self.books.links);
        self.facts.hosts_carried.clone_from(&self.books.hosts);
        self.facts.dropped.clone_from(&self.books.dropped);
    }

    /// Looks on until `time` after the begin.
    async fn until(&mut self, time: Duration, place: &Place) -> Result<(), Trouble> {
        loop {
            self.look().await;
            let left = time.saturating_sub(self.since_begin());
            if left.is_zero() {
                return Ok(());
            }
            if self.over() {
                return Err(at(place, self.limit_reached()));
            }
            sleep(left.min(self.driver.tick())).await;
        }
    }

    fn limit_reached(&self) -> String {
        format!("the scenario's limit of {} was reached", say_duration(self.scenario.limit))
    }

    async fn timeline(&mut self) -> Result<(), Trouble> {
        let scenario = self.scenario;
        let count = scenario.timeline.len();
        for (step, number) in scenario.timeline.iter().zip(1..) {
            let time = match step.when {
                When::At(time) => time,
                When::After(time) => self.since_begin().saturating_add(time),
            };
            self.options.tell(|| {
                let line = step.place.line;
                format!("{}: step {number} of {count} (line {line})", scenario.name)
            });
            self.until(time, &step.place).await?;
            self.perform(step).await?;
            if let Some(id) = &step.id {
                self.facts.steps.insert(id.clone(), self.driver.now());
            }
        }
        Ok(())
    }

    async fn perform(&mut self, step: &Step) -> Result<(), Trouble> {
        let place = &step.place;
        match &step.action {
            Action::Send(send) => self.send(send, place).await,
            Action::Stop(who) => self.driver.stop(who).await.map_err(|e| at(place, e)),
            Action::Start(who) => self.start(who, place).await,
            Action::Restart(who) => {
                self.driver.stop(who).await.map_err(|e| at(place, e))?;
                self.start(who, place).await
            }
            Action::World(disturbance) => {
                let changes = self.map.changes(disturbance, place).map_err(|f| f.to_string())?;
                for change in changes {
                    self.driver.change(change).map_err(|e| at(place, e))?;
                }
                self.driver.rename(&self.map);
                Ok(())
            }
            Action::Exec(exec) => self.exec(exec, step).await,
            Action::WaitFor(wait) => self.wait_for(&wait.what, wait.within, place).await,
            _ => Err(at(place, "this version cannot do that")),
        }
    }

    async fn start(&mut self, who: &str, place: &Place) -> Result<(), Trouble> {
        self.facts.started.insert(who.to_owned(), self.driver.now());
        self.driver.start(who, &mut self.facts).await.map_err(|e| at(place, e))
    }

    async fn send(&mut self, send: &Send, place: &Place) -> Result<(), Trouble> {
        let begin = self.since_begin();
        for n in 0..send.count {
            if n > 0 {
                let due = begin.saturating_add(send.every.saturating_mul(n));
                self.until(due, place).await?;
            }
            let number = self.facts.send(&send.from, &send.to, self.driver.now());
            let body = text(number, send.size);
            let sent = self.driver.send(&send.from, &send.to, &body).await;
            self.facts.accepted(number, sent);
        }
        Ok(())
    }

    async fn exec(&mut self, exec: &Exec, step: &Step) -> Result<(), Trouble> {
        let id = step.id.as_deref();
        let machine = self.map.host(&exec.host).ok_or_else(|| at(&step.place, "no such host"))?;
        let number = self.driver.exec(machine.id, exec).map_err(|e| at(&step.place, e))?;
        self.driver.name_command(number, id);
        if exec.background {
            return Ok(());
        }
        while !self.driver.ended(number) {
            self.look().await;
            sleep(self.driver.tick()).await;
        }
        self.look().await;
        Ok(())
    }

    async fn wait_for(
        &mut self,
        what: &Awaited,
        within: Duration,
        place: &Place,
    ) -> Result<(), Trouble> {
        let until = self.since_begin().saturating_add(within);
        loop {
            self.look().await;
            let facts = &self.facts;
            let (there, name) = match what {
                Awaited::Delivered { from, to } => {
                    let all = facts.between(from, to).all(|s| s.receipt.is_some());
                    (all, format!("receipts of what {from} sent to {to}"))
                }
                Awaited::Connected(node) => (facts.connected(node), format!("{node}'s connection")),
                Awaited::Disconnected(node) => {
                    (!facts.connected(node), format!("{node} to lose its connection"))
                }
                Awaited::Exit(id) => (facts.exits.contains_key(id), format!("the end of {id}")),
            };
            if there {
                return Ok(());
            }
            if self.since_begin() >= until {
                let time = say_duration(within);
                return Err(at(place, format!("waited {time} in vain for {name}")));
            }
            if self.over() {
                return Err(at(place, self.limit_reached()));
            }
            sleep(self.driver.tick()).await;
        }
    }

    fn judged(&self) -> Vec<Judged> {
        let now = self.driver.now();
        self.scenario.asserts.iter().map(|a| judge(&a.check, &self.facts, now)).collect()
    }

    /// Waits until nothing is open any more, and then for what must not come.
    async fn settle(&mut self) {
        let name = &self.scenario.name;
        loop {
            self.look().await;
            let judged = self.judged();
            let open = judged.iter().filter(|j| j.verdict == Verdict::Open).count();
            if open == 0 || self.over() {
                let lingers = judged.iter().any(|j| j.verdict == Verdict::Holds);
                let failed = judged.iter().any(|j| !j.passed());
                if lingers && !failed {
                    let end = self.since_begin().saturating_add(self.scenario.linger);
                    // It ends at once where the limit comes first, which changes nothing then.
                    let _ = self.until(end, &Place::default()).await;
                }
                return;
            }
            self.options.tell(|| {
                let all = judged.len();
                let time = say_duration(Duration::from_secs(self.since_begin().as_secs()));
                format!("{name}: {} of {all} assertions true after {time}", all - open)
            });
            sleep(self.driver.tick()).await;
        }
    }

    fn rows(&self) -> Vec<Row> {
        let row = |(assert, judged): (&meshwire_netsim::scenario::Assert, Judged)| Row {
            line: assert.place.line,
            name: assert.check.subject(),
            wanted: assert.check.wanted(),
            passed: judged.passed(),
            got: judged.got,
        };
        self.scenario.asserts.iter().zip(self.judged()).map(row).collect()
    }
}
