//! A file from one node to another, by `meshwire pipe`, while its paths change: it begins before there is a direct
//! path, and in its middle the broker is killed.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::cast::{Cast, NAMES};
use super::script::{POLL, Row};

/// Before the broker is killed, and after.
const HALF: usize = 4 << 20;

/// What one end of the pipe is.
struct End {
    child: Child,
    said: std::path::PathBuf,
}

impl End {
    fn start(cast: &Cast, who: usize, args: &[&str], output: &Path) -> anyhow::Result<Self> {
        let said = cast.folder().join(format!("pipe-{}.log", NAMES[who]));
        let mut command = tokio::process::Command::from(cast.command(NAMES[who], args));
        command.stdin(Stdio::piped()).kill_on_drop(true);
        command.stdout(std::fs::File::create(output)?).stderr(std::fs::File::create(&said)?);
        Ok(Self { child: command.spawn()?, said })
    }

    /// The lines of JSON that it has said beside its bytes.
    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.said).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until it has ended well.
    async fn well(&mut self, until: Instant) -> anyhow::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        match timeout(left, self.child.wait()).await {
            Err(_) => bail!("it has not ended in time"),
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(ended) => {
                ended?;
                let events = self.events();
                let said = events.iter().rev().find_map(|e| e["error"]["message"].as_str());
                bail!("{}", said.unwrap_or("it failed"))
            }
        }
    }
}

/// Sends a file of random bytes; `row` tells how far it came.
pub(super) async fn send(
    cast: &mut Cast,
    from: usize,
    to: usize,
    limit: Duration,
    row: &mut Row,
) -> anyhow::Result<()> {
    let seconds = format!("{}s", limit.as_secs());
    let mut file = vec![0; 2 * HALF];
    cast.net().fill(&mut file);
    let (came, nothing) = (cast.folder().join("came"), cast.folder().join("nothing"));
    // Its node ends, and with it each direct path to it: pipe is one by itself.
    cast.down(to).await?;
    let listen = ["pipe", "--listen", "--from", NAMES[from], "--timeout", &seconds];
    let mut listener = End::start(cast, to, &listen, &came)?;
    drop(listener.child.stdin.take());
    let until = Instant::now() + limit;
    // Before it is there nobody would seek a direct path to it: the file begins on the relay.
    present(cast, from, to, until).await?;
    let mut sender = End::start(cast, from, &["pipe", NAMES[to], "--timeout", &seconds], &nothing)?;
    let mut input = sender.child.stdin.take().context("pipe has no standard input")?;
    let first = async {
        input.write_all(&file[..HALF]).await?;
        input.flush().await?;
        while std::fs::metadata(&came)?.len() < HALF as u64 {
            sleep(POLL).await;
        }
        anyhow::Ok(())
    };
    match timeout(limit, first).await {
        Ok(done) => done.context("the first half")?,
        Err(_) => bail!("its first half has not come: {:?}", sender.events()),
    }
    row.state = "half".to_owned();
    direct(cast, from, until).await?;
    cast.kill_broker();
    input.write_all(&file[HALF..]).await?;
    drop(input);
    sender.well(until).await.context("the sender")?;
    listener.well(until).await.context("the listener")?;
    if std::fs::read(&came)? != file {
        bail!("what came is not what was sent");
    }
    let events = sender.events();
    let path = |event: &str, at: &str| {
        let said = events.iter().find(|e| e["event"] == event);
        said.and_then(|e| e.pointer(at)).and_then(Value::as_str).map(str::to_owned)
    };
    let mut paths = vec![path("stream", "/stream/path/kind"), path("end", "/path/kind")];
    paths.dedup();
    row.path = paths.into_iter().flatten().collect::<Vec<_>>().join(", ");
    "delivered".clone_into(&mut row.state);
    Ok(())
}

/// Waits until one hears that the other is there.
async fn present(cast: &Cast, from: usize, to: usize, until: Instant) -> anyhow::Result<()> {
    loop {
        let listed = cast.verb(from, &["peers"]).await?;
        let peers = listed["peers"].as_array().context("no peers are listed")?;
        if peers.iter().any(|p| p["name"] == NAMES[to] && p["online"] == true) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{} has not come: {listed}", NAMES[to]);
        }
        sleep(POLL).await;
    }
}

/// Waits until its stream goes directly.
async fn direct(cast: &Cast, from: usize, until: Instant) -> anyhow::Result<()> {
    loop {
        let listed = cast.verb(from, &["stream", "list"]).await?;
        let streams = listed["streams"].as_array().context("no streams are listed")?;
        if streams.iter().any(|s| s["state"] == "open" && s["path"]["kind"] == "direct") {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("it has found no direct path: {listed}");
        }
        sleep(POLL).await;
    }
}
