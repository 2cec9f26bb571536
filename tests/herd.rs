//! A broker's restart brings all its nodes back soon, not all at once, and is news to nobody: not
//! after a stop in good order, which tells them when to come back, and not after SIGKILL.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers
#![allow(clippy::print_stdout)] // the figures, for whoever asks how fast it is

mod common;
#[path = "herd/mesh.rs"]
mod mesh;

use std::fs::read_to_string;
use std::time::Duration;

use meshwire_signaling::frame::HelloAckBody;
use meshwire_transport::link::LinkEvent;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, timeout};

use common::{Broker, PATIENCE};
use mesh::Mesh;

/// Nodes of one broker.
const PEERS: usize = 500;
/// All are back within this.
const SOON: Duration = Duration::from_secs(10);
/// In no such time do more than [`MOST`] of them say hello.
const WINDOW: Duration = Duration::from_millis(100);
/// With nothing told for so long, there is nothing more to come.
const QUIET: Duration = Duration::from_millis(500);
/// Drawn evenly over the shortest wait, a second, each window has a tenth of them; a machine that is
/// busy otherwise has shown a quarter. Let loose all at once, half and more say it in one.
const MOST: usize = PEERS * 2 / 5;

/// What a link tells that matters here.
enum News {
    Up(usize, Box<HelloAckBody>),
    /// Somebody came or went.
    Moved,
}

/// Reads a link's events until it ends.
fn follow(n: usize, mesh: &Mesh, news: UnboundedSender<News>) -> JoinHandle<()> {
    let (link, mut events) = mesh.link(&mesh.members[n]);
    tokio::spawn(async move {
        let _link = link;
        while let Some(event) = events.recv().await {
            let told = match event {
                LinkEvent::Up(ack) => News::Up(n, ack.unwrap()),
                LinkEvent::Presence(_) => News::Moved,
                LinkEvent::Down { retry_in: None, reason, .. } => panic!("it gave up: {reason}"),
                _ => continue,
            };
            if news.send(told).is_err() {
                return;
            }
        }
    })
}

/// Everything that all links tell.
struct Watch {
    news: UnboundedReceiver<News>,
    /// How often one of them heard of somebody's coming or going.
    moved: usize,
}

impl Watch {
    /// Waits until every link has come up (again); when each did, and how many leases went on.
    async fn all_up(&mut self) -> (Vec<Instant>, usize) {
        let (mut ups, mut resumed) = (vec![None; PEERS], 0);
        while ups.iter().any(Option::is_none) {
            let Ok(told) = timeout(PATIENCE, self.news.recv()).await else {
                panic!("only {} of {PEERS} are up", ups.iter().flatten().count());
            };
            match told.unwrap() {
                News::Up(n, ack) => {
                    let before = ups[n].replace(Instant::now());
                    assert!(before.is_none(), "link {n} was lost once more");
                    resumed += usize::from(ack.lease.is_some_and(|l| l.resumed));
                }
                News::Moved => self.moved += 1,
            }
        }
        let mut ups: Vec<_> = ups.into_iter().flatten().collect();
        ups.sort_unstable();
        (ups, resumed)
    }

    /// Waits until nobody tells anything any more.
    async fn quiet(&mut self) {
        while let Ok(told) = timeout(QUIET, self.news.recv()).await {
            match told.unwrap() {
                News::Up(n, _) => panic!("link {n} was lost once more"),
                News::Moved => self.moved += 1,
            }
        }
    }
}

/// The most moments within [`WINDOW`].
fn crowd(sorted: &[Instant]) -> usize {
    let within =
        |from: &Instant| sorted.iter().filter(|t| *t >= from && **t < *from + WINDOW).count();
    sorted.iter().map(within).max().unwrap_or(0)
}

/// How the broker's run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Stopped,
    Killed,
}

/// Ends the broker's run and starts it again at once; checks how all come back.
async fn restart(broker: &mut Broker, mesh: &Mesh, watch: &mut Watch, ends: Ends) {
    watch.moved = 0;
    let ended = Instant::now();
    block_in_place(|| {
        match ends {
            Ends::Stopped => assert_eq!(broker.stop(), 0),
            Ends::Killed => broker.kill(),
        }
        broker.restart();
    });
    let listens = Instant::now();
    let (ups, resumed) = watch.all_up().await;
    let said = mesh.take_said();
    let last = *ups.last().unwrap();
    let ms = |at: Instant| at.saturating_duration_since(ended).as_millis();
    println!(
        "{ends:?}, ms since then: listens {}; first of {} hellos {}, median {}, last {}; up: median \
         {}, last {}; most hellos within {WINDOW:?}: {}",
        ms(listens),
        said.len(),
        ms(said[0]),
        ms(said[said.len() / 2]),
        ms(said[said.len() - 1]),
        ms(ups[PEERS / 2]),
        ms(last),
        crowd(&said),
    );
    assert!(last - ended < SOON, "{ends:?}: the last one was back after {:?}", last - ended);
    assert!(crowd(&said) < MOST, "{ends:?}: {} hellos within {WINDOW:?}", crowd(&said));
    assert_eq!(resumed, PEERS, "every presence went on");
    watch.quiet().await;
    assert_eq!(watch.moved, 0, "those who were back heard of others");
    let told = ["joined", "left"].map(|w| broker.metric(&format!("broker_presence_{w}_total")));
    assert_eq!(told, [0, 0], "nobody was told to have come or gone");
}

/// How many files this process may have open.
fn files() -> usize {
    let limits = read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_peers_come_back_from_a_restart_soon_and_spread_out() {
    let needed = PEERS + 200;
    assert!(files() >= needed, "ulimit -n is {}: this test needs {needed}", files());
    let mut broker = Broker::start(&[]);
    let mesh = Mesh::create(&broker, PEERS).await;
    let (tell, news) = unbounded_channel();
    let mut watch = Watch { news, moved: 0 };
    let start = Instant::now();
    let _links: Vec<_> = (0..PEERS).map(|n| follow(n, &mesh, tell.clone())).collect();
    watch.all_up().await;
    println!("all at once: {} hellos within {WINDOW:?}", crowd(&mesh.take_said()));
    // Each coming is told to all others; that has to be over.
    watch.quiet().await;
    println!("{PEERS} connected and everybody told after {:?}", start.elapsed());
    for ends in [Ends::Stopped, Ends::Killed] {
        restart(&mut broker, &mesh, &mut watch, ends).await;
    }
}
