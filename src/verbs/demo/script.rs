//! What is played, and what must be true: each row's message is `delivered` at its author, and its
//! text is in its recipient's inbox; what came of a file is what was sent.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::Sabotage;
use super::cast::{ANA, BOB, CY, Cast, NAMES, text};
use super::file::{self, Travel};
use super::table::Show;

/// Between two looks at a message.
pub(super) const POLL: Duration = Duration::from_millis(30);

/// How it ended.
pub(super) enum Ended {
    /// Everything arrived.
    Well,
    /// Something did not.
    Failed(String),
    /// Somebody had enough of it.
    Cancelled,
}

/// What happens around a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Nothing.
    Plain,
    /// The recipient's node is down and comes back.
    RecipientAway,
    /// The broker is killed while the recipient's node is down; both come back.
    BrokerKilled,
    /// There is a direct path.
    Direct,
    /// It is a file, and no message.
    File,
    /// There is a direct path, and no broker any more.
    DirectAlone,
}

/// A message that is sent.
struct Scene {
    what: &'static str,
    from: usize,
    to: usize,
    act: Act,
}

const SCENES: [Scene; 9] = [
    Scene { what: "a first message", from: ANA, to: BOB, act: Act::Plain },
    Scene { what: "its answer", from: BOB, to: ANA, act: Act::Plain },
    Scene { what: "to a third node", from: BOB, to: CY, act: Act::Plain },
    Scene { what: "to a node that is down", from: ANA, to: CY, act: Act::RecipientAway },
    Scene { what: "across a broker restart", from: ANA, to: CY, act: Act::BrokerKilled },
    Scene { what: "and back afterwards", from: CY, to: ANA, act: Act::Plain },
    Scene { what: "with a direct path", from: ANA, to: BOB, act: Act::Direct },
    Scene { what: "a file, the broker dies", from: ANA, to: CY, act: Act::File },
    Scene { what: "without the broker", from: BOB, to: ANA, act: Act::DirectAlone },
];

/// A message that was sent, as the table shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    /// What it is about.
    pub(super) what: &'static str,
    /// Who sent it.
    pub(super) from: &'static str,
    /// Whom to.
    pub(super) to: &'static str,
    /// What took it.
    pub(super) path: String,
    /// Where it stands.
    pub(super) state: String,
    /// From `send` to that state, in milliseconds.
    pub(super) ms: u64,
    /// Of a file that came: how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<Travel>,
}

/// Plays everything, until the first row that fails.
pub(super) async fn play(
    cast: &mut Cast,
    sabotage: Option<Sabotage>,
    limit: Duration,
    show: &mut Show,
) -> anyhow::Result<Ended> {
    let progress = show.progress("starting a broker and three nodes");
    let prepared = prepare(cast, sabotage).await;
    drop(progress);
    if let Err(e) = prepared {
        return Ok(Ended::Failed(format!("before the first row: {e:#}")));
    }
    show.head()?;
    for (scene, number) in SCENES.iter().zip(1..) {
        let mut row = Row {
            what: scene.what,
            from: NAMES[scene.from],
            to: NAMES[scene.to],
            path: "-".to_owned(),
            state: "-".to_owned(),
            ms: 0,
            file: None,
        };
        let progress = show.progress(format!("row {number}: {}", scene.what));
        let restarts = sabotage != Some(Sabotage::NoRestart);
        let played = perform(cast, scene, number, restarts, limit, &mut row).await;
        drop(progress);
        show.row(row)?;
        if let Err(e) = played {
            return Ok(Ended::Failed(format!("row {number} {:?}: {e:#}", scene.what)));
        }
    }
    Ok(Ended::Well)
}

/// Broker, mesh, invites, joins, nodes.
async fn prepare(cast: &mut Cast, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let token = cast.start_broker().await?.context("the broker printed no admin token")?;
    cast.create_mesh(&token).await.context("mesh create")?;
    cast.up(ANA).await?;
    for who in [BOB, CY] {
        let invite = cast.verb(ANA, &["invite", "--local"]).await.context("invite")?;
        let link = cast.way(who, sabotage, &text(&invite, "link")?).await?;
        cast.verb(who, &["join", &link, "--name", NAMES[who]]).await.context("join")?;
        cast.up(who).await?;
    }
    Ok(())
}

/// Plays one scene; `row` tells how far it came.
async fn perform(
    cast: &mut Cast,
    scene: &Scene,
    number: u32,
    restarts: bool,
    limit: Duration,
    row: &mut Row,
) -> anyhow::Result<()> {
    let message = format!("row {number}, {}", scene.what);
    let seconds = format!("{}s", limit.as_secs());
    match scene.act {
        Act::Plain => {}
        Act::File => {
            let start = cast.net().now();
            Box::pin(file::send(cast, scene.from, scene.to, limit, row)).await?;
            row.ms = millis(cast.net().now().saturating_duration_since(start));
            return Ok(());
        }
        Act::RecipientAway => cast.down(scene.to).await?,
        Act::BrokerKilled => {
            cast.down(scene.to).await?;
            cast.kill_broker();
        }
        Act::Direct => direct(cast, scene, limit).await?,
        Act::DirectAlone => {
            direct(cast, scene, limit).await?;
            cast.kill_broker();
        }
    }
    let start = cast.net().now();
    let mut send = vec!["send", NAMES[scene.to], message.as_str()];
    if scene.act == Act::RecipientAway {
        send.extend(["--wait", "accepted", "--timeout", &seconds]);
    }
    let sent = cast.verb(scene.from, &send).await.context("send")?;
    row.state = text(&sent, "state")?;
    let id = text(&sent, "id")?;
    match scene.act {
        Act::Plain | Act::Direct | Act::File | Act::DirectAlone => {}
        Act::RecipientAway => {
            expect(&row.state, "relayed", "while its recipient is down")?;
            cast.up(scene.to).await?;
        }
        Act::BrokerKilled => {
            expect(&row.state, "queued", "while there is no broker")?;
            cast.up(scene.to).await?;
            if restarts {
                cast.start_broker().await?;
            }
        }
    }
    let until = cast.net().now() + limit;
    let delivered = delivered(cast, scene, &id, until, row).await;
    row.ms = millis(cast.net().now().saturating_duration_since(start));
    if let Err(e) = delivered {
        let there = in_inbox(cast, scene, &id, &message).await.unwrap_or(false);
        let word = if there { "is" } else { "is not" };
        bail!("{e:#}; its text {word} in {}'s inbox", row.to);
    }
    while !in_inbox(cast, scene, &id, &message).await? {
        if cast.net().now() > until {
            bail!("it is delivered, but its text is not in {}'s inbox", row.to);
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits until messages would go directly.
async fn direct(cast: &Cast, scene: &Scene, limit: Duration) -> anyhow::Result<()> {
    let until = cast.net().now() + limit;
    loop {
        let path = cast.verb(scene.from, &["path", NAMES[scene.to]]).await?;
        if path["via"] == "direct" {
            return Ok(());
        }
        if cast.net().now() > until {
            bail!("there is no direct path: {}", path["why"]);
        }
        sleep(POLL).await;
    }
}

fn expect(state: &str, wanted: &str, when: &str) -> anyhow::Result<()> {
    if state != wanted {
        bail!("its state is {state} {when}, and should be {wanted}");
    }
    Ok(())
}

/// Waits for the receipt.
async fn delivered(
    cast: &Cast,
    scene: &Scene,
    id: &str,
    until: Instant,
    row: &mut Row,
) -> anyhow::Result<()> {
    loop {
        let status = cast.verb(scene.from, &["message", "status", id]).await?;
        row.state = text(&status, "state")?;
        if let Some(path) = status["path"].as_str() {
            path.clone_into(&mut row.path);
        }
        let reason = status["reason"].as_str().map(|r| format!(" ({r})")).unwrap_or_default();
        match row.state.as_str() {
            "delivered" => return Ok(()),
            state @ ("failed" | "expired") => bail!("its state is {state}{reason}"),
            state if cast.net().now() > until => {
                bail!("no receipt came in time, its state is {state}{reason}")
            }
            _ => sleep(POLL).await,
        }
    }
}

/// Whether the recipient can read the message, from its author.
async fn in_inbox(cast: &Cast, scene: &Scene, id: &str, message: &str) -> anyhow::Result<bool> {
    let listed = cast.verb(scene.to, &["inbox", "--peek", "--limit", "1000"]).await?;
    let messages = listed["messages"].as_array().context("an inbox without messages")?;
    Ok(messages
        .iter()
        .any(|m| m["id"] == id && m["message"] == message && m["from"] == NAMES[scene.from]))
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
