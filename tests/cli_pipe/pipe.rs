//! `meshwire pipe` as a child process, with what it says on stderr.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Home, PATIENCE};

pub(crate) struct Pipe {
    child: Child,
    said: Receiver<String>,
    log: Vec<String>,
}

/// How one has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    /// Everything that it said on stderr.
    pub(crate) said: Vec<Value>,
}

impl Ended {
    /// The last word on what went through.
    pub(crate) fn end(&self) -> &Value {
        let end = self.said.iter().find(|v| v["event"] == "end");
        end.unwrap_or_else(|| panic!("no end: {self:?}"))
    }

    /// Its exit code, and its error's.
    pub(crate) fn code(&self) -> (i32, &str) {
        let error = self.said.last().and_then(|v| v["error"]["code"].as_str());
        (self.status, error.unwrap_or_default())
    }

    /// Its error's words.
    pub(crate) fn message(&self) -> &str {
        let error = self.said.last().and_then(|v| v["error"]["message"].as_str());
        error.unwrap_or_default()
    }
}

impl Pipe {
    /// `meshwire pipe` with these arguments.
    pub(crate) fn start(
        home: &Home,
        args: &[&str],
        input: impl Into<Stdio>,
        output: impl Into<Stdio>,
    ) -> Self {
        Self::spawn(verb(home, args), input, output)
    }

    /// The same, as nohup would start it.
    pub(crate) fn ignoring_hangups(
        home: &Home,
        args: &[&str],
        input: impl Into<Stdio>,
        output: impl Into<Stdio>,
    ) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
        Self::through(shell, &verb(home, args), input, output)
    }

    /// The same, as a terminal's shell would start it, also where this test was started by nohup.
    pub(crate) fn hearing_hangups(
        home: &Home,
        args: &[&str],
        input: impl Into<Stdio>,
        output: impl Into<Stdio>,
    ) -> Self {
        let mut env = Command::new("env");
        env.arg("--default-signal=HUP");
        Self::through(env, &verb(home, args), input, output)
    }

    /// Starts a verb by a command that becomes it.
    fn through(
        mut command: Command,
        verb: &Command,
        input: impl Into<Stdio>,
        output: impl Into<Stdio>,
    ) -> Self {
        command.arg(verb.get_program()).args(verb.get_args());
        for (name, value) in verb.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self::spawn(command, input, output)
    }

    fn spawn(mut command: Command, input: impl Into<Stdio>, output: impl Into<Stdio>) -> Self {
        command.stdin(input).stdout(output).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, said) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { child, said, log: Vec::new() }
    }

    /// Waits until there is a stream.
    pub(crate) fn connected(&mut self) -> Value {
        let line = self.said.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|e| panic!("no stream: {e}"));
        self.log.push(line.clone());
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(said["event"], "stream", "{line}");
        said["stream"].clone()
    }

    /// Looks whether there is none for a while, as a peer that is there does not listen.
    pub(crate) fn connected_not_yet(&self) {
        assert!(self.said.recv_timeout(Duration::from_secs(6)).is_err());
    }

    /// Its end, and what it has written.
    pub(crate) fn output(mut self) -> (Ended, Vec<u8>) {
        let mut out = Vec::new();
        self.stdout().read_to_end(&mut out).unwrap();
        (self.wait(), out)
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// Its end, in time.
    pub(crate) fn wait(self) -> Ended {
        self.wait_for(PATIENCE)
    }

    /// Its end, in this time.
    pub(crate) fn wait_for(mut self, patience: Duration) -> Ended {
        let until = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "it does not end, and said {:?}", self.log);
            thread::sleep(Duration::from_millis(5));
        };
        while let Ok(line) = self.said.recv_timeout(PATIENCE) {
            self.log.push(line);
        }
        let read =
            |line: &String| serde_json::from_str(line).unwrap_or_else(|_| line.clone().into());
        Ended { status, said: self.log.iter().map(read).collect() }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A signal by its name, such as INT for Ctrl-C.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

fn verb(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command(&["--json", "pipe"]);
    command.args(args).env("MESHWIRE_NO_PORT_MAPPING", "1");
    command
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes until nobody takes it any more.
pub(crate) fn pour(mut into: ChildStdin) -> thread::JoinHandle<()> {
    thread::spawn(move || while into.write_all(&[7; 4096]).is_ok() {})
}
