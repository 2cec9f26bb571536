//! A file from one node to another, by `meshwire pipe`, while its paths change: it begins before there is a direct
//! path, goes on directly, and in its middle the broker is killed.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use meshwire_signaling::Hash;
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::cast::{Cast, NAMES};
use super::script::{POLL, Row};

/// Bytes that come by the relay before a direct path can be made.
const RELAYED: u64 = 1 << 20;
/// Written at once at the beginning.
const FIRST: usize = 2 << 20;
/// Written while a direct path is made, piece by piece, at most.
const MIDDLE: usize = 4 << 20;
/// See [`MIDDLE`].
const PIECE: usize = 64 << 10;
/// Written after the broker has been killed, at least.
const REST: usize = 8 << 20;
/// Characters of a hash that people need.
const SHORT: usize = 16;

/// What became of the file on its way.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Travel {
    /// How long it is.
    bytes: u64,
    /// Bytes that the broker brought, as counted between it and the node that they came to.
    relayed: u64,
    /// The others.
    direct: u64,
    /// Bytes that were written after the broker had been killed.
    alone: u64,
    /// SHA-256 of what was sent, and of what came.
    sha256: String,
}

impl fmt::Display for Travel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [relayed, direct, alone] =
            [self.relayed, self.direct, self.alone].map(|bytes| bytes as f64 / 1e6);
        let hash = self.sha256.get(..SHORT).unwrap_or_default();
        write!(
            f,
            "{relayed:.1} MB by the relay, then {direct:.1} MB directly, the last {alone:.1} MB \
             without a broker; SHA-256 equal, {hash}\u{2026}"
        )
    }
}

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

    /// What it said last.
    fn last(&self) -> String {
        let text = std::fs::read_to_string(&self.said).unwrap_or_default();
        text.lines().last().unwrap_or("nothing").to_owned()
    }

    /// Which path it had at the beginning, and which at the end.
    fn paths(&self) -> String {
        let events = self.events();
        let path = |event: &str, at: &str| {
            let said = events.iter().find(|e| e["event"] == event);
            said.and_then(|e| e.pointer(at)).and_then(Value::as_str).map(str::to_owned)
        };
        let mut paths = vec![path("stream", "/stream/path/kind"), path("end", "/path/kind")];
        paths.dedup();
        paths.into_iter().flatten().collect::<Vec<_>>().join(", ")
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
    let mut file = vec![0; FIRST + MIDDLE + REST];
    cast.net().fill(&mut file);
    let (came, nothing) = (cast.folder().join("came"), cast.folder().join("nothing"));
    // Its node ends, and with it each direct path to it: pipe is one by itself.
    cast.down(to).await?;
    cast.gate().shut(RELAYED);
    let listen = ["pipe", "--listen", "--from", NAMES[from], "--timeout", &seconds];
    let mut listener = End::start(cast, to, &listen, &came)?;
    drop(listener.child.stdin.take());
    let until = Instant::now() + limit;
    present(cast, from, to, until).await?;
    let mut sender = End::start(cast, from, &["pipe", NAMES[to], "--timeout", &seconds], &nothing)?;
    let mut input = sender.child.stdin.take().context("pipe has no standard input")?;
    let sent = match timeout_at(until, until_direct(cast, from, &file, &mut input)).await {
        Ok(sent) => sent.with_context(|| format!("the sender said {}", sender.last()))?,
        Err(_) => bail!("it has found no direct path in time; the sender said {}", sender.last()),
    };
    row.state = "half".to_owned();
    cast.kill_broker();
    let until = Instant::now() + limit;
    let rest = async {
        input.write_all(&file[sent..]).await?;
        input.shutdown().await
    };
    match timeout_at(until, rest).await {
        Ok(written) => written.context("the rest")?,
        Err(_) => bail!("the rest is not taken; the sender said {}", sender.last()),
    }
    drop(input);
    sender.well(until).await.context("the sender")?;
    listener.well(until).await.context("the listener")?;
    let arrived = Hash::of(&std::fs::read(&came)?);
    if arrived != Hash::of(&file) {
        bail!("what came is not what was sent");
    }
    let (bytes, relayed) = (file.len() as u64, cast.gate().relayed());
    let travel = Travel {
        bytes,
        relayed,
        direct: bytes.saturating_sub(relayed),
        alone: bytes.saturating_sub(sent as u64),
        sha256: arrived.to_string(),
    };
    row.path = sender.paths();
    changed(&row.path, &travel)?;
    row.file = Some(travel);
    "delivered".clone_into(&mut row.state);
    Ok(())
}

/// Writes until the stream goes directly; how much that was.
async fn until_direct(
    cast: &Cast,
    from: usize,
    file: &[u8],
    input: &mut ChildStdin,
) -> anyhow::Result<usize> {
    let mut sent = FIRST;
    input.write_all(&file[..sent]).await?;
    while !is_direct(cast, from).await? {
        // It changes its path while it moves.
        let piece = PIECE.min(FIRST + MIDDLE - sent);
        input.write_all(&file[sent..sent + piece]).await?;
        sent += piece;
        sleep(POLL).await;
    }
    Ok(sent)
}

/// Refuses a file that had one path alone: by its sender's own word at the beginning and at the end, and by what was
/// counted on its way.
fn changed(paths: &str, travel: &Travel) -> anyhow::Result<()> {
    if paths != "relay, direct" {
        bail!("it should go by the relay first and directly then, but went by {paths:?}");
    }
    if travel.relayed < RELAYED {
        bail!("only {} bytes of it went by the relay", travel.relayed);
    }
    if travel.direct < REST as u64 {
        bail!("only {} bytes of it went directly", travel.direct);
    }
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

/// Whether its stream goes directly.
async fn is_direct(cast: &Cast, from: usize) -> anyhow::Result<bool> {
    let listed = cast.verb(from, &["stream", "list"]).await?;
    let streams = listed["streams"].as_array().context("no streams are listed")?;
    Ok(streams.iter().any(|s| s["state"] == "open" && s["path"]["kind"] == "direct"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_had_one_path_alone_is_refused() {
        let good = Travel { relayed: RELAYED, direct: REST as u64, ..Travel::default() };
        changed("relay, direct", &good).unwrap();
        for paths in ["relay", "direct", "direct, relay", ""] {
            assert!(changed(paths, &good).is_err(), "{paths}");
        }
        assert!(
            changed("relay, direct", &Travel { relayed: RELAYED - 1, ..good.clone() }).is_err()
        );
        assert!(changed("relay, direct", &Travel { direct: REST as u64 - 1, ..good }).is_err());
    }

    #[test]
    fn it_says_how_it_went() {
        let travel = Travel {
            bytes: 14_680_064,
            relayed: 2_100_000,
            direct: 12_580_064,
            alone: 8_400_000,
            sha256: "0123456789abcdef".repeat(4),
        };
        let said = "2.1 MB by the relay, then 12.6 MB directly, the last 8.4 MB without a broker; \
                    SHA-256 equal, 0123456789abcdef\u{2026}";
        assert_eq!(travel.to_string(), said);
    }
}
