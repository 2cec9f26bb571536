//! Real brokers and nodes as child processes, and verbs with a home of their own.
//!
//! - [`Broker::start`] gives a broker on a free loopback port; [`Broker::kill`] is SIGKILL,
//!   [`Broker::restart`] starts it again on the same port and data.
//! - [`Home::new`] is a home; [`Home::run`] runs a verb with `--json` in it. [`Home::up`] and
//!   [`Home::down`] are the verbs; [`Home::node`] is `up --foreground` as a child that can be killed.
//! - [`pair`] gives a broker, a mesh and two members, ana and bob.
//!
//! Everything ends with the test, passed or not: processes are killed by their handles (a background
//! node by its id) and folders removed. Waits are for events, bounded by [`PATIENCE`].

// Each test binary uses a part; helpers panic, which is what they are for.
#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods, clippy::missing_panics_doc)]

mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub use process::{Output, Running, until};

/// Longest wait for anything: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test, with nothing of the caller's environment that would change what it does.
pub fn meshwire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwire"));
    for name in [
        "MESHWIRE_HOME",
        "MESHWIRE_HTTP",
        "MESHWIRE_SESSION",
        "MESHWIRE_LOG_FORMAT",
        "MESHWIRE_ADMIN_TOKEN",
        "MESHWIRE_TEST_MUTANT",
        "MESHWIRE_TEST_PAUSE",
        "MESHWIRE_TEST_WITHOUT",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A broker in a process of its own.
pub struct Broker {
    /// How nodes reach it.
    pub url: String,
    /// Where it listens, `127.0.0.1:PORT`.
    pub addr: String,
    /// Its key.
    pub key: String,
    /// Its admin token.
    pub token: String,
    /// Its data folder.
    pub data: PathBuf,
    /// What it says on stderr goes here.
    pub log: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    running: Option<Running>,
    _folder: TempDir,
}

impl Broker {
    /// A broker on a free port, with further arguments.
    pub fn start(args: &[&str]) -> Self {
        Self::with_env(args, &[])
    }

    /// A broker with further arguments and environment, such as `RUST_LOG`.
    pub fn with_env(args: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let mut broker = Self {
            url: String::new(),
            addr: "127.0.0.1:0".to_owned(),
            key: String::new(),
            token: String::new(),
            data: folder.path().join("data"),
            log: folder.path().join("broker.log"),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: env.iter().map(owned).collect(),
            running: None,
            _folder: folder,
        };
        broker.restart();
        broker
    }

    /// Starts it (again), on the same port, data and log.
    pub fn restart(&mut self) {
        self.restart_as(|command| command);
    }

    /// As [`Self::restart`], with another environment, say, or under a tracer.
    pub fn restart_as(&mut self, change: impl FnOnce(Command) -> Command) {
        drop(self.running.take());
        let mut command = meshwire();
        command.args(["broker", "--json", "--listen", &self.addr, "--data"]).arg(&self.data);
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        let running = Running::start(change(command), Some(&self.log));
        let ready = running.json_line();
        assert_eq!(ready["event"], "listening", "{ready}");
        let text = |key: &str| ready[key].as_str().unwrap().to_owned();
        (self.url, self.addr, self.key) = (text("url"), text("addr"), text("key"));
        if let Some(token) = ready["admin_token"].as_str() {
            token.clone_into(&mut self.token);
        }
        self.running = Some(running);
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// SIGTERM, and waits for its end; its exit code.
    pub fn stop(&mut self) -> i32 {
        self.running.take().expect("the broker runs").terminate()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the broker runs").pid()
    }

    /// The value of a series without labels at `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.addr).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let value = answer.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().unwrap()
    }
}

/// A home; its node, if up, ends with it.
pub struct Home {
    path: PathBuf,
    _folder: TempDir,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// A fresh home.
    pub fn new() -> Self {
        Self::named("home")
    }

    /// A fresh home whose folder has this name.
    pub fn named(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        Self { path: folder.path().join(name), _folder: folder }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A verb in this home, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = meshwire();
        command.env("MESHWIRE_HOME", &self.path).args(args);
        command
    }

    /// Runs a verb with `--json` to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(&["--json"]);
        command.args(args);
        process::run(command, None)
    }

    /// As [`Self::run`], with something on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(&["--json"]);
        command.args(args);
        process::run(command, Some(input))
    }

    /// As [`Self::run`], with environment.
    pub fn run_with_env(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        let mut command = self.command(&["--json"]);
        command.args(args).envs(env.iter().copied());
        process::run(command, None)
    }

    /// Runs a verb as a person does, without `--json`.
    pub fn text(&self, args: &[&str]) -> Output {
        process::run(self.command(args), None)
    }

    /// Runs a verb that must succeed; its JSON.
    pub fn ok(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert_eq!(output.status, 0, "meshwire {args:?}: {}", output.stderr);
        output.json
    }

    /// Starts a verb with `--json` whose lines are read as they come.
    pub fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(&["--json"]);
        command.args(args);
        Running::start(command, None)
    }

    /// `up`; the background node's process id.
    pub fn up(&self) -> u32 {
        let up = self.ok(&["up"]);
        u32::try_from(up["pid"].as_u64().unwrap()).unwrap()
    }

    /// `down`.
    pub fn down(&self) {
        self.ok(&["down"]);
    }

    /// `up --foreground` as a child; it is up when this returns, and dropping it is SIGKILL.
    pub fn node(&self) -> Running {
        self.node_with_env(&[])
    }

    /// As [`Self::node`], with environment.
    pub fn node_with_env(&self, env: &[(&str, &str)]) -> Running {
        self.node_as(|mut command| {
            command.envs(env.iter().copied());
            command
        })
    }

    /// As [`Self::node`], with another environment, say, or under a tracer.
    pub fn node_as(&self, change: impl FnOnce(Command) -> Command) -> Running {
        let command = change(self.command(&["--json", "up", "--foreground"]));
        let node = Running::start(command, Some(&self.node_log()));
        let ready = node.json_line();
        assert_eq!(ready["event"], "up", "{ready}");
        node
    }

    /// What [`Self::node`] says on stderr goes here.
    pub fn node_log(&self) -> PathBuf {
        self.path.with_extension("log")
    }

    /// Creates a mesh as its owner.
    pub fn create_mesh(&self, mesh: &str, broker: &Broker, name: &str) -> Value {
        let mut command = self.command(&["--json", "mesh", "create", mesh, "--name", name]);
        command.args(["--broker", &broker.url]).env("MESHWIRE_ADMIN_TOKEN", &broker.token);
        let output = process::run(command, None);
        assert_eq!(output.status, 0, "mesh create: {}", output.stderr);
        output.json
    }

    /// Makes an invite for this machine; the link.
    pub fn invite(&self, args: &[&str]) -> String {
        let mut all = vec!["invite", "--local"];
        all.extend(args);
        self.ok(&all)["link"].as_str().unwrap().to_owned()
    }

    /// Joins by a link.
    pub fn join(&self, link: &str, name: &str) -> Value {
        self.ok(&["join", link, "--name", name])
    }

    /// Everything in the inbox, left unread.
    pub fn inbox(&self) -> Vec<Value> {
        let listed = self.ok(&["inbox", "--peek", "--limit", "1000"]);
        listed["messages"].as_array().unwrap().clone()
    }

    /// The texts of [`Self::inbox`], in order.
    pub fn texts(&self) -> Vec<String> {
        let text = |m: &Value| m["message"].as_str().unwrap().to_owned();
        self.inbox().iter().map(text).collect()
    }

    /// Sends, waits for `delivered`, and gives the message.
    pub fn deliver(&self, to: &str, text: &str) -> Value {
        self.ok(&["send", to, text, "--wait", "delivered", "--timeout", "60s"])
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.path.exists() {
            return;
        }
        // The id of a node that `up` started and nobody has taken down.
        let status = process::run(self.command(&["--json", "down"]), None);
        if status.status != 0 && !std::thread::panicking() {
            panic!("down: {}", status.stderr);
        }
    }
}

/// A mesh named `home` with two members.
pub struct Pair {
    /// Its owner, named `ana`.
    pub ana: Home,
    /// A member, named `bob`.
    pub bob: Home,
    /// Its broker.
    pub broker: Broker,
}

/// A broker and two joined homes that know each other; no node is up.
pub fn pair() -> Pair {
    pair_on(Broker::start(&[]))
}

/// Two joined homes on a broker.
pub fn pair_on(broker: Broker) -> Pair {
    let (ana, bob) = (Home::new(), Home::new());
    ana.create_mesh("home", &broker, "ana");
    bob.join(&ana.invite(&[]), "bob");
    let known = ana.ok(&["peers"]);
    assert_eq!(known["peers"].as_array().unwrap().len(), 2, "{known}");
    Pair { ana, bob, broker }
}
