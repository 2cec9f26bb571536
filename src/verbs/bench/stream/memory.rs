//! Streams within this process: the transport's core alone, both sides of it, over links that hand each record over.

use std::sync::Arc;
use std::time::Duration;

use meshwire_signaling::stream::{Ends, Fresh, Secret};
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use meshwire_transport::link::PathKind;
use meshwire_transport::net::{Net, random};
use meshwire_transport::quic::bare::BareEnd;
use meshwire_transport::stream::{Budget, LinkId, Live, Stream, Windows, buffer};
use tokio::sync::Notify;
use tokio::task::{JoinSet, coop};
use tokio::time::Instant;

use super::end::{finish, receive_raw, send_raw};
use super::flow::{Times, receive, send};

/// As a node's.
const BUDGET: u64 = 256 << 20;
/// What the link says of its round trip.
const RTT: Duration = Duration::from_micros(100);

/// All streams at once, each with links of its own.
pub(super) async fn ours(net: &dyn Net, streams: u32, bytes: u64) -> anyhow::Result<Times> {
    let budgets = [(); 2].map(|()| Budget::new(BUDGET));
    // As much for each as there may be of them.
    let initial = (BUDGET / 4 / u64::from(streams)).min(Windows::default().initial);
    let windows = Windows { initial, ..Windows::default() };
    let (mut near, mut far, mut carrying) = (Vec::new(), JoinSet::new(), JoinSet::new());
    for _ in 0..streams {
        let (a, b) = pair(net, &windows, &budgets)?;
        let [one, other] = [LinkId::fresh(), LinkId::fresh()];
        carrying.spawn(carry(up(&a, one), (b.clone(), other)));
        carrying.spawn(carry(up(&b, other), (a.clone(), one)));
        near.extend(a.halves());
        if let Some((read, write)) = b.halves() {
            far.spawn(receive(read, write));
        }
    }
    let times = send(near, bytes).await?;
    finish(far).await?;
    Ok(times)
}

/// Raw quinn, from this process to itself.
pub(super) async fn raw(ends: &[BareEnd; 2], streams: u32, bytes: u64) -> anyhow::Result<Times> {
    let [near, far] = ends;
    far.listen(near.fingerprint())?;
    let sending = send_raw(near, far.addr(), far.fingerprint(), streams, bytes);
    let (times, ()) = tokio::try_join!(sending, receive_raw(far, streams))?;
    Ok(times)
}

/// Both sides of a stream: opener, acceptor.
fn pair(net: &dyn Net, windows: &Windows, budgets: &[Budget; 2]) -> anyhow::Result<(Live, Live)> {
    let [opener, acceptor] = [PublicKey(random(net)), PublicKey(random(net))];
    let ends = Ends { mesh: MeshId([0; 32]), stream: StreamId(random(net)), opener, acceptor };
    let now = Instant::now();
    let (a, open) =
        Stream::open(Secret::new(random(net)), "bench", ends, windows, &budgets[0], now)?;
    let fresh = Fresh(random(net));
    let b = Stream::accept(&open, ends, fresh, windows, &budgets[1], now)?;
    Ok((Live::start(a), Live::start(b)))
}

/// A side whose link is up, and what is told when it has something to say.
struct Up {
    live: Live,
    link: LinkId,
    woken: Arc<Notify>,
}

fn up(live: &Live, link: LinkId) -> Up {
    let woken = Arc::new(Notify::new());
    let wake = Arc::clone(&woken);
    live.link_up(link, PathKind::Memory, Some(RTT), Arc::new(move || wake.notify_one()));
    Up { live: live.clone(), link, woken }
}

/// Hands the other side everything that this one says.
async fn carry(from: Up, (to, at): (Live, LinkId)) {
    loop {
        let Some(record) = from.live.poll_transmit(from.link) else {
            if from.live.is_over() {
                return;
            }
            from.woken.notified().await;
            continue;
        };
        // A link's copy, as a socket makes one.
        let mut copy = buffer(record.len());
        copy.extend_from_slice(&record);
        // What is not taken comes again.
        let _ = to.receive(at, copy);
        coop::consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_transport::net::OsNet;

    #[tokio::test]
    async fn all_bytes_come_through() {
        let times = ours(&OsNet, 3, 3 << 20).await.unwrap();
        assert!(times.last >= times.first);
    }
}
