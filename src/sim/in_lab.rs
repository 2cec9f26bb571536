//! Runs a scenario with programs in network namespaces, in real time: `meshwire broker` and `meshwire
//! up` of this very program, each with a home of its own in a temporary folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::lab::{Lab, LabError, Options as LabOptions};
use meshwire_netsim::scenario::{Cell, Exec, Map, Node, Scenario, say_duration};
use meshwire_netsim::{Change, HostId};
use meshwire_peer::Home;
use meshwire_peer::api::{
    ApiError, AskPath, CreateInvite, CreateMesh, Done, Join, PathReport, Send,
};
use meshwire_peer::client::Client;
use meshwire_signaling::Priority;
use meshwire_signaling::invite::Role;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::books::{Books, Wanted};
use super::capture::Capture;
use super::command::Command;
use super::driver::{BROKER, Driver, knows};
use super::facts::Facts;
use super::measure::{blocking, measure};
use super::process::{Process, last_line, own_program};
use super::program::Program;
use super::report::{MAX_LAB_NODES, Report, SimError};
use super::run::{Options, Play};

/// Between two looks at what has happened: a look asks each node.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// How long nodes may take to join and connect.
const PATIENCE: Duration = Duration::from_secs(60);
/// Uses and life of the invite by which all nodes but the first join.
const USES: u32 = 1_000;
const INVITE_TTL_MS: u64 = 24 * 3_600_000;

/// Runs one cell of a scenario.
///
/// First it measures the links between the hosts and the broker's, and fails when they are not what was
/// asked.
///
/// # Errors
/// [`SimError`]; [`SimError::Unable`] where there can be no lab. An assertion that does not hold is no
/// error.
pub async fn in_lab(cell: &Cell, options: &Options) -> Result<Report, SimError> {
    let scenario = &cell.scenario;
    if scenario.nodes.len() > MAX_LAB_NODES {
        return Err(SimError::Unable(format!(
            "the lab runs at most {MAX_LAB_NODES} nodes, each a process of its own, and not {}: use \
             fewer, or --driver virtual",
            scenario.nodes.len()
        )));
    }
    let seed = options.seed.unwrap_or(scenario.seed);
    let plan = scenario.plan(seed).map_err(|f| SimError::Unable(f.to_string()))?;
    let map = plan.map;
    let file = |(path, error)| SimError::File { path, error };
    let capture = Capture::create(options.trace.as_deref(), None, &map).map_err(file)?;
    if let Some(dir) = &options.pcap {
        std::fs::create_dir_all(dir).map_err(|e| file((dir.clone(), e)))?;
    }
    let lab_options = LabOptions { pcap: options.pcap.clone(), ..LabOptions::default() };
    let builder = plan.builder;
    let lab = blocking(move || Lab::start(builder, lab_options)).await?.map_err(|e| match e {
        LabError::Missing(missing) => SimError::Unable(missing.to_string()),
        e => SimError::SetUp(e.to_string()),
    })?;
    let lab = Arc::new(lab);
    measure(&lab, scenario, &map, options).await?;
    if !capture.is_idle() {
        let hook = capture.hook();
        let set = lab.inspect(move |engine| engine.set_trace(hook));
        set.map_err(|e| SimError::Broken(e.to_string()))?;
    }
    let mut facts = Facts::default();
    let mut driver = Programs::new(lab, scenario, &map).map_err(SimError::SetUp)?;
    options.tell(|| format!("{}: broker and {} nodes", scenario.name, scenario.nodes.len()));
    driver.set_up(scenario, &mut facts).await.map_err(SimError::SetUp)?;
    let play = Play::new(scenario, options, Driver::Lab(Box::new(driver)), map, facts, seed);
    let (report, driver) = Box::pin(play.play(cell)).await?;
    if let Driver::Lab(driver) = driver {
        driver.end().await?;
    }
    let path = || options.trace.clone().unwrap_or_default();
    capture.finish().map_err(|e| file((path(), e)))?;
    Ok(report)
}

/// Broker and nodes as programs in a lab. What ends first stands first.
pub(super) struct Programs {
    commands: Vec<Command>,
    nodes: BTreeMap<String, Program>,
    broker: Option<Process>,
    site: Option<(HostId, String, u16)>,
    lab: Arc<Lab>,
    begin: Instant,
    program: PathBuf,
    folder: TempDir,
}

impl Programs {
    fn new(lab: Arc<Lab>, scenario: &Scenario, map: &Map) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("meshwire-sim-").tempdir();
        let site = scenario.broker.as_ref().and_then(|b| {
            let machine = map.host(&b.host)?;
            // A broker that has no name in the world goes by its address.
            let address = machine.addresses().next()?;
            let name = if machine.public { b.host.clone() } else { address.to_string() };
            Some((machine.id, name, b.port))
        });
        let mut programs = Self {
            commands: Vec::new(),
            nodes: BTreeMap::new(),
            broker: None,
            site,
            lab,
            begin: Instant::now(),
            program: own_program()?,
            folder: folder.map_err(|e| format!("no temporary folder: {e}"))?,
        };
        for node in &scenario.nodes {
            let host = map.host(&node.host).ok_or_else(|| format!("{} has no host", node.name))?.id;
            let home = Home::open(&programs.home(&node.name)).map_err(|e| e.to_string())?;
            let client = Client::new(home.socket());
            let paths = node.paths;
            let program = Program { host, client, paths, running: None, seen: None };
            programs.nodes.insert(node.name.clone(), program);
        }
        Ok(programs)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    async fn run(
        &self,
        host: HostId,
        home: &str,
        args: &[&str],
    ) -> Result<(Process, Value), String> {
        let command = self.lab.command(host, &self.program);
        let mut command = command.map_err(|e| e.to_string())?;
        command.arg("--json").arg("--home").arg(self.home(home)).args(args);
        let started = Process::start(command, &self.log(home)).await;
        started.map_err(|e| format!("{home}: {e}"))
    }

    async fn set_up(&mut self, scenario: &Scenario, facts: &mut Facts) -> Result<(), String> {
        if scenario.broker.is_none() {
            return Ok(());
        }
        let token = self.start_broker().await?;
        let token = token.ok_or_else(|| "the broker printed no admin token".to_owned())?;
        let mut invite = None;
        for Node { name, .. } in &scenario.nodes {
            self.start(name, facts).await?;
            let client = &self.node(name)?.client;
            let said = |e: ApiError| format!("{name}: {e}");
            invite = match invite {
                Some(invite) => {
                    let join = Join { invite, member_name: name.clone() };
                    timeout(PATIENCE, self.node(name)?.join(&join))
                        .await
                        .map_err(|_| format!("{name} did not join in time"))?
                        .map_err(said)?;
                    Some(join.invite)
                }
                None => {
                    let mesh = CreateMesh {
                        name: "sim".to_owned(),
                        broker_url: self.url()?,
                        admin_token: token.clone(),
                        member_name: name.clone(),
                    };
                    let made = timeout(PATIENCE, client.create_mesh(&mesh)).await;
                    made.map_err(|_| format!("{name} did not found the mesh"))?.map_err(said)?;
                    self.until_connected(name, facts).await?;
                    let terms = CreateInvite {
                        mesh: None,
                        uses: USES,
                        ttl_ms: INVITE_TTL_MS,
                        role: Role::Member,
                        broker_url: None,
                    };
                    let client = &self.node(name)?.client;
                    Some(client.invite(&terms).await.map_err(said)?.link)
                }
            };
        }
        for node in &scenario.nodes {
            self.until_connected(&node.name, facts).await?;
            self.until_acquainted(&node.name).await?;
        }
        for node in &scenario.nodes {
            if !node.up {
                self.stop(&node.name).await?;
                facts.started.remove(&node.name);
            }
        }
        Ok(())
    }

    async fn until_connected(&mut self, name: &str, facts: &mut Facts) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while !facts.connected(name) {
            if Instant::now() > until {
                let time = say_duration(PATIENCE);
                let last = last_line(&self.log(name));
                let last = last.map(|l| format!("; its log ends: {l}")).unwrap_or_default();
                return Err(format!("{name} is not connected after {time}{last}"));
            }
            sleep(TICK).await;
            self.look(facts).await;
        }
        Ok(())
    }

    /// Waits until a node knows every other one, so that the timeline can begin.
    async fn until_acquainted(&self, name: &str) -> Result<(), String> {
        let (node, all) = (self.node(name)?, self.nodes.len());
        let wait = async {
            loop {
                let status = node.client.status(&Done {}).await.map_err(|e| e.to_string())?;
                if status.meshes.first().is_some_and(|m| knows(m, all)) {
                    return Ok(());
                }
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, wait).await.map_err(|_| format!("{name} does not know all others"))?
    }

    fn url(&self) -> Result<String, String> {
        let (_, name, port) = self.site.as_ref().ok_or("there is no broker")?;
        let name = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        Ok(format!("https://{name}:{port}"))
    }

    async fn start_broker(&mut self) -> Result<Option<String>, String> {
        if self.broker.is_some() {
            return Err("the broker runs already".to_owned());
        }
        let (host, _, port) = self.site.clone().ok_or("there is no broker")?;
        let (listen, url) = (format!("[::]:{port}"), self.url()?);
        let args = ["broker", "--listen", &listen, "--public-url", &url];
        let (process, ready) = self.run(host, BROKER, &args).await?;
        self.broker = Some(process);
        Ok(ready["admin_token"].as_str().map(str::to_owned))
    }

    fn node(&self, name: &str) -> Result<&Program, String> {
        self.nodes.get(name).ok_or_else(|| format!("there is no node {name}"))
    }

    pub(super) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    pub(super) async fn start(&mut self, who: &str, facts: &mut Facts) -> Result<(), String> {
        if who == BROKER {
            return self.start_broker().await.map(drop);
        }
        let node = self.node(who)?;
        if node.running.is_some() {
            return Err(format!("{who} runs already"));
        }
        facts.started.insert(who.to_owned(), self.now());
        let args = ["up", "--foreground", "--paths", node.paths.name()];
        let (process, _) = self.run(node.host, who, &args).await?;
        if let Some(node) = self.nodes.get_mut(who) {
            node.running = Some(process);
        }
        Ok(())
    }

    pub(super) async fn stop(&mut self, who: &str) -> Result<(), String> {
        let stopped = |who: &str| format!("{who} is stopped already");
        if who == BROKER {
            let broker = self.broker.take().ok_or_else(|| stopped(who))?;
            return broker.terminate().await;
        }
        let node = self.nodes.get_mut(who).ok_or_else(|| format!("there is no node {who}"))?;
        let mut process = node.running.take().ok_or_else(|| stopped(who))?;
        node.client.shutdown().await.map_err(|e| e.to_string())?;
        process.ended().await
    }

    pub(super) async fn send(
        &mut self,
        from: &str,
        to: &str,
        text: &str,
    ) -> Result<String, String> {
        let node = self.node(from)?;
        if node.running.is_none() {
            return Err(format!("{from} is stopped: start it first"));
        }
        let ask = Send {
            mesh: None,
            to: to.to_owned(),
            message: text.to_owned(),
            priority: Priority::default(),
            reply_to: None,
            idempotency_key: None,
            ttl_ms: None,
            wait: None,
            timeout_ms: None,
        };
        let sent = node.client.send(&ask).await.map_err(|e| e.to_string())?;
        Ok(sent.id.to_string())
    }

    pub(super) async fn look(&mut self, facts: &mut Facts) {
        for (name, node) in &mut self.nodes {
            if node.running.is_some() {
                // A node that goes down while it is asked is asked after its next start.
                let _ = node.look(name, facts, self.begin).await;
            } else {
                facts.link(name, false, self.begin.elapsed());
            }
        }
        for command in &self.commands {
            if let (Some(exit), Some(id)) = (command.exit(), &command.id) {
                facts.exits.insert(id.clone(), exit);
            }
        }
    }

    pub(super) async fn path(&self, from: &str, to: &str) -> Option<PathReport> {
        let node = self.nodes.get(from).filter(|n| n.running.is_some())?;
        node.client.path(&AskPath { mesh: None, peer: to.to_owned() }).await.ok()
    }

    pub(super) fn books(&self, wanted: &Wanted) -> Books {
        let wanted = wanted.clone();
        // A lab that has ended has no books; the timeline says so.
        self.lab.inspect(move |engine| wanted.read(engine)).unwrap_or_default()
    }

    pub(super) fn change(&self, change: Change) -> Result<(), String> {
        self.lab.control(change).map_err(|e| e.to_string())
    }

    pub(super) fn exec(&mut self, host: HostId, exec: &Exec) -> Result<usize, String> {
        let number = self.commands.len();
        let (folder, log) = (self.folder.path(), self.log(&format!("exec-{number}")));
        self.commands.push(Command::start(&self.lab, host, exec, folder, log, self.begin)?);
        Ok(number)
    }

    pub(super) fn name_command(&mut self, number: usize, id: Option<&str>) {
        if let Some(command) = self.commands.get_mut(number) {
            command.id = id.map(str::to_owned);
        }
    }

    pub(super) fn ended(&self, number: usize) -> bool {
        self.commands.get(number).is_none_or(|c| c.exit().is_some())
    }

    /// Ends everything, and says what does not go away.
    async fn end(mut self) -> Result<(), SimError> {
        self.commands.clear();
        self.nodes.clear();
        self.broker = None;
        match Arc::into_inner(self.lab) {
            Some(lab) => {
                blocking(move || lab.shutdown()).await?.map_err(|e| SimError::Broken(e.to_string()))
            }
            None => Ok(()),
        }
    }
}
