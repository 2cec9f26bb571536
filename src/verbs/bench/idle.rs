//! `meshwire bench idle`

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use meshwire_peer::path::PathMode;
use meshwire_signaling::PublicKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::hub::{Ask, Joined, Peers, Weight};
use super::worker::Worker;
use super::world::{Keep, Member, PATIENCE, World, join, open};
use crate::context::{Context, POLL};
use crate::exit::Exit;
use crate::output::Table;

/// Peers of a mesh: every member verifies every other's chain, which for a thousand in one mesh takes
/// this machine minutes, and is not what is measured.
const PER_MESH: u32 = 50;
/// Paths that are sought at once.
const AT_ONCE: usize = 8;
/// How long to wait before anything is weighed: what negotiations leave behind goes away by then.
const REST: Duration = Duration::from_secs(3);
/// How long the last paths that came up get until they rest: they make sure of themselves more often while
/// something was said in the last ten seconds.
const SETTLED: Duration = Duration::from_secs(15);

/// Measure what pairs take that are connected directly and say nothing
///
/// One node, in a process of its own and with its store on disk, has direct paths to many others; all
/// others are in this process, in meshes of 50. Shows its memory per pair, and what it does while
/// nothing happens.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire bench idle\n  \
    meshwire bench idle --count 1000                   takes a minute or two")]
pub(super) struct Args {
    /// Pairs
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=2_000))]
    count: u32,
    /// How long nothing is said, in seconds
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=240))]
    seconds: u64,
}

/// What `--json` prints. Memory in bytes, times in microseconds.
#[derive(Debug, Serialize)]
struct Measured {
    pairs: u32,
    meshes: usize,
    seconds: u64,
    /// The node alone, in its meshes.
    rss_alone: u64,
    /// With all peers online, before any direct path.
    rss_known: u64,
    /// With all direct paths, at the end.
    rss_direct: u64,
    /// What a direct path adds, beyond what is known of a peer that is online.
    per_path: u64,
    /// What a pair takes altogether.
    per_pair: u64,
    /// Processor time of the node meanwhile.
    cpu_us: u64,
    /// How often a thread of the node woke up.
    wakeups: u64,
    optimised: bool,
}

/// The node that is weighed.
struct Hub(Worker);

impl Hub {
    fn start(world: &World) -> anyhow::Result<Self> {
        Ok(Self(Worker::start("node", &world.folder().join("hub"), ["bench", "hub"])?))
    }

    async fn ask<T: DeserializeOwned>(&mut self, ask: &Ask) -> anyhow::Result<T> {
        self.0.ask(ask, PATIENCE).await
    }

    async fn sees(&mut self, peers: u64) -> anyhow::Result<()> {
        let all = async {
            while self.ask::<Peers>(&Ask::Peers).await?.online < peers {
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(PATIENCE, all).await.map_err(|_| anyhow!("the node does not see all peers"))?
    }

    async fn weigh(&mut self) -> anyhow::Result<Weight> {
        self.ask(&Ask::Weigh).await
    }
}

/// Everybody in this process.
struct Others {
    /// The hub's key in each mesh, and the members there.
    meshes: Vec<(PublicKey, Vec<Member>)>,
}

impl Others {
    /// They join the hub's meshes: as few nodes as possible, each in several meshes.
    async fn join(world: &World, hub: &mut Hub, pairs: u32) -> anyhow::Result<(Self, Weight)> {
        let mut invites = Vec::new();
        for n in 0..pairs.div_ceil(PER_MESH) {
            let invite = world.found(&format!("mesh-{n}")).await?;
            let key = hub.ask::<Joined>(&Ask::Join { invite: invite.clone() }).await?.key;
            invites.push((key, invite));
        }
        sleep(REST).await;
        let alone = hub.weigh().await?;
        let mut meshes: Vec<_> = invites.iter().map(|(key, _)| (*key, Vec::new())).collect();
        for n in 0..pairs.min(PER_MESH) {
            let name = format!("peer-{n}");
            let home = world.folder().join(&name);
            let node = open(world.net(), Keep::Memory, &home, PathMode::Auto).await?;
            // The last mesh may have fewer.
            let share = (n..pairs).step_by(PER_MESH as usize).len();
            for ((_, members), (_, invite)) in meshes.iter_mut().zip(&invites).take(share) {
                let key = join(&node, invite, &name).await?;
                members.push(Member { node: node.clone(), key });
            }
        }
        Ok((Self { meshes }, alone))
    }

    /// Each writes to the hub, until its path is direct.
    async fn connect(&self) -> anyhow::Result<()> {
        let pairs = self.meshes.iter().flat_map(|(hub, members)| members.iter().map(|m| (*hub, m)));
        stream::iter(pairs)
            .map(|(hub, member)| async move {
                member.sees(&hub).await?;
                member.send(&hub, "hello".to_owned()).await?;
                member.is_direct(&hub).await
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn end(self) {
        // Its first mesh has all nodes.
        for member in self.meshes.into_iter().next().map(|(_, all)| all).unwrap_or_default() {
            member.node.close().await;
        }
    }
}

pub(super) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let progress = cx.progress(format!("{} peers join", args.count));
    let world = World::start(Arc::clone(&cx.net)).await?;
    let mut hub = Hub::start(&world)?;
    let (others, alone) = Others::join(&world, &mut hub, args.count).await?;
    let meshes = others.meshes.len();
    // Each mesh has its owner and the hub as well.
    hub.sees(u64::from(args.count) + 2 * meshes as u64).await?;
    sleep(REST).await;
    let known = hub.weigh().await?;
    progress.say(format!("{} direct paths come up", args.count));
    others.connect().await?;
    sleep(SETTLED).await;
    let before = hub.weigh().await?;
    progress.say(format!("nothing is said for {} s", args.seconds));
    sleep(Duration::from_secs(args.seconds)).await;
    let after = hub.weigh().await?;
    hub.0.end().await?;
    others.end().await;
    world.end().await?;
    drop(progress);
    let pairs = u64::from(args.count);
    let measured = Measured {
        pairs: args.count,
        meshes,
        seconds: args.seconds,
        rss_alone: alone.rss,
        rss_known: known.rss,
        rss_direct: after.rss,
        per_path: after.rss.saturating_sub(known.rss) / pairs,
        per_pair: after.rss.saturating_sub(alone.rss) / pairs,
        cpu_us: after.cpu_us.saturating_sub(before.cpu_us),
        wakeups: after.sleeps.saturating_sub(before.sleeps),
        optimised: !cfg!(debug_assertions),
    };
    cx.out.show(&measured, || table(&measured).render(cx.out.width()))?;
    Ok(Exit::Ok)
}

fn table(measured: &Measured) -> Table {
    let Measured { pairs, seconds, .. } = measured;
    let share = Duration::from_micros(measured.cpu_us).as_secs_f64() / *seconds as f64;
    let mut rows = vec![
        [format!("memory, in {} meshes, nobody there", measured.meshes), mib(measured.rss_alone)],
        [format!("memory, {pairs} peers online"), mib(measured.rss_known)],
        [format!("memory, {pairs} direct paths"), mib(measured.rss_direct)],
        ["per direct path".to_owned(), kb(measured.per_path)],
        ["per pair, with what is known of the peer".to_owned(), kb(measured.per_pair)],
        [
            format!("processor time in {seconds} s idle"),
            format!("{:.1} ms, {:.2} % of a core", measured.cpu_us as f64 / 1e3, share * 100.0),
        ],
        [
            "threads woken".to_owned(),
            format!("{:.1} times a second", measured.wakeups as f64 / *seconds as f64),
        ],
    ];
    if !measured.optimised {
        rows.push(super::unoptimised());
    }
    Table::new(["WHAT", "MEASURED"], rows)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn kb(bytes: u64) -> String {
    format!("{:.1} KB", bytes as f64 / 1e3)
}
