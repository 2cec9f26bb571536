//! Child processes with bounded waits.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;

/// What a verb that has ended said.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; -1 if a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The JSON object that it said: on stdout if it succeeded, else the error on stderr.
    pub json: Value,
}

impl Output {
    /// The error's code, such as `not_found`.
    pub fn error_code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }
}

fn last_object(text: &str) -> Value {
    let parsed = text.lines().rev().map(serde_json::from_str);
    parsed.flatten().find(Value::is_object).unwrap_or(Value::Null)
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The child's end, or a panic when it takes too long.
fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{what} did not end");
        }
        thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Looks again and again until something is there, for what announces itself to nobody.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come true");
        thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Runs a command to its end.
pub fn run(mut command: Command, input: Option<&[u8]>) -> Output {
    let what = format!("{command:?}");
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    if let Some(bytes) = input {
        // A verb that refuses early closes its end: that shows in its exit code.
        let _ = child.stdin.take().unwrap().write_all(bytes);
    }
    let status = code(wait(&mut child, &what));
    let (stdout, stderr) = (out.join().unwrap(), err.join().unwrap());
    let json = last_object(if status == 0 { &stdout } else { &stderr });
    Output { status, stdout, stderr, json }
}

/// A child whose lines are read as they come. Dropping it is SIGKILL.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    what: String,
}

impl Running {
    /// Starts a command; its stderr goes to `log`, or nowhere.
    pub fn start(mut command: Command, log: Option<&Path>) -> Self {
        let what = format!("{command:?}");
        let stderr = match log {
            Some(path) => OpenOptions::new().append(true).create(true).open(path).unwrap().into(),
            None => Stdio::null(),
        };
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, what }
    }

    /// Its next line.
    pub fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|e| panic!("{} said nothing more: {e}", self.what))
    }

    /// Its next line, unless it ends without one.
    pub fn maybe_line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(e) => panic!("{} said nothing more: {e}", self.what),
        }
    }

    /// Its next line, as JSON.
    pub fn json_line(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(self) {
        drop(self);
    }

    /// SIGTERM, and waits for its end; its exit code.
    pub fn terminate(self) -> i32 {
        self.signal("TERM")
    }

    /// Ctrl-C, and waits for its end; its exit code.
    pub fn interrupt(self) -> i32 {
        self.signal("INT")
    }

    fn signal(mut self, name: &str) -> i32 {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
        code(wait(&mut self.child, &self.what))
    }

    /// Waits for its end; its exit code.
    pub fn wait(mut self) -> i32 {
        code(wait(&mut self.child, &self.what))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
