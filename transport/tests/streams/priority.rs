//! Streams of different priorities on one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use meshwire_signaling::Priority;
use meshwire_transport::stream::Windows;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::place::{LONG, Place, bytes};

/// Early streams: together their windows are far more than a connection takes in.
const EARLY: usize = 6;
/// What of these has come before the late one begins.
const FULL: usize = 64 << 20;
/// What the late one has to send.
const LATE: usize = 16 << 20;
const PIECE: usize = 256 << 10;

/// Bytes of the early streams, which never end, that came while all of the late one did.
async fn meanwhile(early: Priority, late: Priority) -> usize {
    let place = Place::default();
    let way = place.connect().await;
    // It is the connection that holds them, and not their readers.
    let windows = Windows { initial: 16 << 20, ..Windows::default() };
    let (mut tasks, mut carried) = (JoinSet::new(), Vec::new());
    let (got, full) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    for n in 0..EARLY {
        let (mut a, mut b) = place.pair(&windows);
        carried.push(way.far.carry(&b.live));
        a.live.set_priority(early);
        let data = bytes(PIECE, u8::try_from(n).unwrap());
        tasks.spawn(async move {
            let whole = &mut a;
            while whole.write.write_all(&data).await.is_ok() {}
        });
        let (got, full) = (Arc::clone(&got), Arc::clone(&full));
        tasks.spawn(async move {
            let (mut piece, whole) = (vec![0; PIECE], &mut b);
            while let Ok(more) = whole.read.read(&mut piece).await {
                if got.fetch_add(more, Ordering::SeqCst) + more >= FULL {
                    full.notify_one();
                }
            }
        });
    }
    let (mut c, mut d) = place.pair(&windows);
    carried.push(way.far.carry(&d.live));
    c.live.set_priority(late);
    timeout(LONG, c.live.accepted()).await.unwrap().unwrap();
    timeout(LONG, full.notified()).await.unwrap();
    let before = got.load(Ordering::SeqCst);
    let writing = tokio::spawn(async move {
        let data = bytes(PIECE, 99);
        for _ in 0..LATE / PIECE {
            c.write.write_all(&data).await.unwrap();
        }
        c
    });
    let reading = tokio::spawn(async move {
        let mut all = vec![0; LATE];
        d.read.read_exact(&mut all).await.unwrap();
        d
    });
    let _ends = timeout(LONG, async { tokio::join!(writing, reading) }).await.unwrap();
    got.load(Ordering::SeqCst) - before
}

/// By what came, not by when it did. Beside what they may share, the early ones still have what QUIC had of them.
#[tokio::test]
async fn the_urgent_pass_what_is_of_low_priority() {
    let equal = meanwhile(Priority::Next, Priority::Next).await;
    assert!(equal > LATE * EARLY / 2, "equals take turns: {equal}");
    for late in [Priority::Now, Priority::Next] {
        let low = meanwhile(Priority::Low, late).await;
        assert!(low > 0 && low < equal / 2, "{late:?}: {low} {equal}");
    }
}
