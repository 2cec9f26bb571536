//! Plays a scenario: does what its timeline says, looks what comes of it, and judges. The same for both
//! drivers.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::scenario::{
    Action, Awaited, Cell, Exec, Map, Place, Scenario, Send, Step, When, say_duration,
};
use tokio::time::sleep;

use super::books::{Books, Wanted};
use super::driver::{Driver, kind};
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

/// A scenario under way.
pub(super) struct Play<'a> {
    scenario: &'a Scenario,
    options: &'a Options,
    driver: Driver,
    facts: Facts,
    map: Map,
    wanted: Wanted,
    /// What the books said when the timeline began: joining, and what the lab measured.
    before: Books,
    books: Books,
    /// When the timeline began.
    begin: Duration,
    /// When it last looked.
    looked: Duration,
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
        let (before, books) = (driver.books(&wanted), Books::default());
        Self {
            scenario,
            options,
            driver,
            facts,
            map,
            wanted,
            before,
            books,
            begin,
            looked: begin,
            seed,
        }
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
            first_ms: self.facts.first_took().map(millis),
            paths: self.facts.path_changes(),
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
        for (from, to) in &self.wanted.paths {
            if let Some(report) = self.driver.path(from, to).await {
                self.facts.path(from, to, kind(&report), self.driver.now());
            }
        }
        self.books = self.driver.books(&self.wanted).since(&self.before);
        self.facts.links_carried.clone_from(&self.books.links);
        self.facts.hosts_carried.clone_from(&self.books.hosts);
        self.facts.dropped.clone_from(&self.books.dropped);
        self.looked = self.driver.now();
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
                let looked = self.driver.now().saturating_sub(self.looked);
                // Where nothing lies between two messages, a look at everything may take longer than they.
                if due > self.since_begin() || looked >= self.driver.tick() {
                    self.until(due, place).await?;
                }
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
                Awaited::Path { from, to, kind } => {
                    let there = facts.last_path(from, to).is_some_and(|p| p.kind == Some(*kind));
                    (there, format!("{from}'s messages to {to} to go by {}", kind.name()))
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
