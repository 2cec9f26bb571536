//! Streams that run, over links in memory, in virtual time.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshwire_signaling::Priority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::{Budget, LinkId, Live, ReadHalf, Stream, StreamError, Windows, WriteHalf};
use super::super::{Rejected, buffer};
use super::{FRESH, ends, secret};
use crate::link::PathKind;

const ONE_WAY: Duration = Duration::from_millis(10);

fn pair() -> (Live, Live) {
    let (windows, budget, now) = (Windows::default(), Budget::new(64 << 20), Instant::now());
    let (a, open) = Stream::open(secret(1), "test", ends(1), &windows, &budget, now).unwrap();
    let b = Stream::accept(&open, ends(1), FRESH, &windows, &budget, now).unwrap();
    (Live::start(a), Live::start(b))
}

/// Carries records one way until it is aborted; counts how often it was woken.
struct Wire {
    carrying: JoinHandle<()>,
    woken: Arc<AtomicUsize>,
}

fn wire(link: LinkId, from: &Live, to: &Live) -> Wire {
    let (notify, woken) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (ring, count) = (Arc::clone(&notify), Arc::clone(&woken));
    let wake = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        ring.notify_one();
    });
    from.link_up(link, PathKind::Relay, Some(ONE_WAY * 2), wake);
    let (from, to) = (from.clone(), to.clone());
    let carrying = tokio::spawn(async move {
        loop {
            notify.notified().await;
            while let Some(record) = from.poll_transmit(link) {
                let mut copy = buffer(record.len());
                copy.extend_from_slice(&record);
                let to = to.clone();
                tokio::spawn(async move {
                    sleep(ONE_WAY).await;
                    assert!(matches!(to.receive(link, copy), Ok(()) | Err(Rejected::Record(_))));
                });
            }
        }
    });
    Wire { carrying, woken }
}

/// A link both ways.
fn link(a: &Live, b: &Live) -> [Wire; 2] {
    let link = LinkId::fresh();
    [wire(link, a, b), wire(link, b, a)]
}

fn halves(live: &Live) -> (ReadHalf, WriteHalf) {
    live.halves().unwrap()
}

/// A driver that waits for the stream's turn hears of what does not wait for it, and of another priority.
#[tokio::test(start_paused = true)]
async fn a_link_that_is_awake_is_woken_for_what_is_more_urgent() {
    let (_a, b) = pair();
    let (link, woken) = (LinkId::fresh(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&woken);
    let wake = move || {
        count.fetch_add(1, Ordering::Relaxed);
    };
    b.link_up(link, PathKind::Relay, None, Arc::new(wake));
    while b.poll_transmit(link).is_some() {}
    let rings = || woken.swap(0, Ordering::Relaxed);
    rings();
    let (read, mut write) = halves(&b);
    write.write_all(&[1; 1_000]).await.unwrap();
    assert_eq!((rings(), b.turn(link)), (1, (Priority::Next, false)));
    write.write_all(&[1; 1_000]).await.unwrap();
    assert_eq!(rings(), 0);
    read.stop(300);
    assert_eq!((rings(), b.turn(link)), (1, (Priority::Next, true)));
    assert!(b.poll_transmit(link).is_some_and(|state| state.len() < 512));
    assert_eq!((rings(), b.turn(link)), (0, (Priority::Next, false)));
    b.set_priority(Priority::Low);
    assert_eq!((rings(), b.turn(link)), (1, (Priority::Low, false)));
    b.set_priority(Priority::Low);
    assert_eq!(rings(), 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_go_through_and_the_end_is_known() {
    let (a, b) = pair();
    let ((_ar, mut aw), (mut br, mut bw)) = (halves(&a), halves(&b));
    let [forth, _back] = link(&a, &b);
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 241).unwrap()).collect();
    let expected = data.clone();
    let writing = tokio::spawn(async move {
        aw.write_all(&data).await.unwrap();
        aw.shutdown().await.unwrap();
        aw.shutdown().await.unwrap();
        let refused = aw.write_all(b"more").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::BrokenPipe);
        aw.finished().await
    });
    let mut got = Vec::new();
    br.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
    assert_eq!(writing.await.unwrap(), Ok(()));
    bw.finish();
    timeout(Duration::from_secs(1), async { tokio::join!(a.over(), b.over()) }).await.unwrap();
    // 92 records, and a wake for a batch of them.
    let woken = forth.woken.load(Ordering::Relaxed);
    assert!(woken < 92, "{woken}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_wakes_nobody() {
    let (a, b) = pair();
    let wires = link(&a, &b);
    sleep(Duration::from_secs(10)).await;
    let count = || wires.each_ref().map(|w| w.woken.load(Ordering::Relaxed));
    let before = count();
    sleep(Duration::from_secs(600)).await;
    assert!(!a.is_over() && !b.is_over());
    let after = count();
    // Each asks when nothing was heard for 15 s.
    for (before, after) in before.into_iter().zip(after) {
        assert!((20..=130).contains(&(after - before)), "{before} to {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_writing_half_that_is_dropped_is_no_end() {
    let (a, b) = pair();
    let ((mut ar, mut aw), (mut br, _bw)) = (halves(&a), halves(&b));
    let _link = link(&a, &b);
    aw.write_all(b"the first half").await.unwrap();
    let mut got = [0; 14];
    br.read_exact(&mut got).await.unwrap();
    drop(aw);
    let cut = br.read_u8().await.unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    let cut = ar.read_u8().await.unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test(start_paused = true)]
async fn a_reading_half_that_is_dropped_stops_the_other_side() {
    let (a, b) = pair();
    let ((mut ar, mut aw), (br, mut bw)) = (halves(&a), halves(&b));
    let _link = link(&a, &b);
    let waiting = tokio::spawn(async move {
        let stopped = loop {
            if let Err(stopped) = aw.write_all(&[7; 100_000]).await {
                break stopped;
            }
        };
        assert_eq!(aw.finished().await, Err(StreamError::Stopped { code: 0 }));
        stopped
    });
    sleep(Duration::from_secs(1)).await;
    drop(br);
    assert_eq!(waiting.await.unwrap().kind(), ErrorKind::BrokenPipe);
    // The other direction goes on.
    bw.write_all(b"still here").await.unwrap();
    bw.finish();
    let mut got = String::new();
    ar.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "still here");
    timeout(Duration::from_secs(1), async { tokio::join!(a.over(), b.over()) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stop_and_reset_bring_their_codes() {
    let (a, b) = pair();
    let ((ar, aw), (br, bw)) = (halves(&a), halves(&b));
    let _link = link(&a, &b);
    a.accepted().await.unwrap();
    br.stop(301);
    assert_eq!(aw.finished().await, Err(StreamError::Stopped { code: 301 }));
    aw.reset(302, "enough");
    let gone = StreamError::Reset { code: 302, reason: "enough".to_owned() };
    assert_eq!(bw.finished().await, Err(gone.clone()));
    assert_eq!((b.error(), a.error()), (Some(gone), Some(StreamError::Cancelled { code: 302 })));
    drop((ar, bw));
}

#[tokio::test(start_paused = true)]
async fn an_open_that_nobody_answers_fails() {
    let (a, _b) = pair();
    let (mut read, write) = halves(&a);
    let before = Instant::now();
    assert_eq!(a.accepted().await, Err(StreamError::Unanswered));
    assert_eq!(before.elapsed().as_secs(), 60);
    assert_eq!(read.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(write.finished().await, Err(StreamError::Unanswered));
    a.over().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_dies_is_replaced_by_another() {
    let (a, b) = pair();
    let ((_ar, mut aw), (mut br, _bw)) = (halves(&a), halves(&b));
    let writing = tokio::spawn(async move {
        aw.write_all(&[5; 2_000_000]).await.unwrap();
        aw.finish();
        aw.finished().await
    });
    let mut got = 0;
    for _ in 0..5 {
        let id = LinkId::fresh();
        let wires = [wire(id, &a, &b), wire(id, &b, &a)];
        let part = br.read_exact(&mut [0; 300_000]).await.unwrap();
        got += part;
        for wire in &wires {
            wire.carrying.abort();
        }
        for live in [&a, &b] {
            live.link_down(id);
        }
    }
    let _last = link(&a, &b);
    let mut rest = Vec::new();
    br.read_to_end(&mut rest).await.unwrap();
    assert_eq!(got + rest.len(), 2_000_000);
    assert_eq!(writing.await.unwrap(), Ok(()));
    assert!(a.counters().resent > 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_when_all_is_over() {
    let (a, b) = pair();
    let weak = Arc::downgrade(&a.0);
    let ((ar, mut aw), (br, mut bw)) = (halves(&a), halves(&b));
    let wires = link(&a, &b);
    aw.finish();
    bw.finish();
    a.over().await;
    b.over().await;
    drop((ar, aw, br, bw));
    for wire in wires {
        wire.carrying.abort();
        let _ = wire.carrying.await;
    }
    drop(a);
    sleep(Duration::from_secs(1)).await;
    assert!(weak.upgrade().is_none());
}
