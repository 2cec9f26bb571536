//! A process of this program that is asked a JSON line at a time, and answers each with one.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long it may take to say goodbye to its peers.
const FAREWELL: Duration = Duration::from_secs(5);

/// The variable that says what is logged.
const LOG: &str = "RUST_LOG";

/// See the module's documentation. It ends with this.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    /// None for one that is not asked anything.
    ask: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    what: &'static str,
}

impl Worker {
    /// Starts one with this home; `what` it is to people.
    pub(super) fn start<S: AsRef<OsStr>>(
        what: &'static str,
        home: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own path")?;
        let mut command = Command::new(program);
        command.arg("--json").arg("--home").arg(home).args(args);
        if std::env::var_os(LOG).is_none() {
            // What it would tell an operator is nothing to whoever measures.
            command.env(LOG, "warn");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting the {what}"))?;
        let ask = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("its output")?).lines();
        Ok(Self { child, ask, answers, what })
    }

    /// What it says next.
    pub(super) async fn hear<T: DeserializeOwned>(
        &mut self,
        patience: Duration,
    ) -> anyhow::Result<T> {
        let what = self.what;
        let line = timeout(patience, self.answers.next_line()).await;
        let line = line.map_err(|_| anyhow!("the {what} says nothing for {patience:?}"))??;
        let line = line.with_context(|| format!("the {what} has ended"))?;
        serde_json::from_str(&line).with_context(|| format!("the {what} says {line}"))
    }

    /// Asks, without waiting for the answer.
    pub(super) async fn tell<T: Serialize>(&mut self, ask: &T) -> anyhow::Result<()> {
        let line = format!("{}\n", serde_json::to_string(ask)?);
        let input = self.ask.as_mut().context("it is asked nothing")?;
        let written = input.write_all(line.as_bytes()).await;
        written.with_context(|| format!("the {} has ended", self.what))
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask<A: Serialize, T: DeserializeOwned>(
        &mut self,
        ask: &A,
        patience: Duration,
    ) -> anyhow::Result<T> {
        self.tell(ask).await?;
        self.hear(patience).await
    }

    /// The process's id, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its input ends, and so does it; what it was asked for is known by then, so it gets no more time than this.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        drop(self.ask.take());
        if timeout(FAREWELL, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }

    /// Ends it at once, for one that does not look at its input.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}
