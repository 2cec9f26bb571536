//! An open that is taken more than once: by a node whose clock or disk was set back, at a hostile broker's wish; or
//! because its opener repeats itself.

use bytes::{Bytes, BytesMut};
use meshwire_signaling::stream::{Fresh, Header, RecordError};
use tokio::time::Instant;

use super::super::{Budget, LinkId, Read, Rejected, Stream, StreamError, Windows};
use super::chaos::play_accepting;
use super::sim::{Hostile, data};
use super::{ends, secret};
use crate::link::PathKind;

const LINK: LinkId = LinkId(0);

/// The same open, the same bytes in both directions, over the same schedule of path events: the ciphertexts under one
/// number are the key streams but for what both have. Where an open's secret was all that keys come from, they were
/// the same, and would have been for other bytes.
#[test]
fn nonces_never_repeat_whatever_is_resumed_or_taken_again() {
    let (mut compared, mut resent) = (0, 0);
    for seed in 2_000..2_030 {
        eprintln!("seed {seed}");
        let hostile = Hostile { repeat: 20, replay: 20, ..Hostile::default() };
        // Within each run, one ciphertext per number: the simulation looks at every record.
        let [first, again] = [1, 2].map(|n| play_accepting(seed, hostile, Fresh([n; 32])));
        for (key, one) in &first.nonces {
            let Some(other) = again.nonces.get(key) else { continue };
            let front = Header::parse(one).unwrap().kind.prefix();
            let (one, other) = (&one[front..], &other[front..]);
            let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
            // One byte in 256 is equal by chance.
            assert!(same <= 12 + one.len() / 64, "{key:?}: {same} of {} bytes", one.len());
            compared += 1;
        }
        resent += first.streams.iter().flatten().map(|s| s.counters().resent).sum::<u64>();
    }
    assert!(compared > 3_000 && resent > 30, "{compared} records, {resent} sent again");
}

/// An opener, and the acceptors that take its open one after the other.
fn taken(acceptors: u8) -> (Stream, Vec<Stream>, Instant) {
    let (now, budget, windows) = (Instant::now(), Budget::new(1 << 30), Windows::default());
    let (mut a, open) = Stream::open(secret(0), "x", ends(0), &windows, &budget, now).unwrap();
    a.link_up(LINK, PathKind::Memory, None, now);
    let acceptors = (0..acceptors).map(|n| {
        let fresh = Fresh([n; 32]);
        let mut b = Stream::accept(&open, ends(0), fresh, &windows, &budget, now).unwrap();
        b.link_up(LINK, PathKind::Memory, None, now);
        b
    });
    let acceptors = acceptors.collect();
    (a, acceptors, now)
}

fn said(stream: &mut Stream, now: Instant) -> Vec<Bytes> {
    std::iter::from_fn(|| stream.poll_transmit(LINK, now)).collect()
}

fn hear(stream: &mut Stream, records: &[Bytes], now: Instant) -> usize {
    let taken = |r: &&Bytes| stream.receive(LINK, BytesMut::from(&r[..]), now).is_ok();
    records.iter().filter(taken).count()
}

#[test]
fn an_opener_speaks_with_the_acceptance_that_it_heard_first_alone() {
    let (mut a, mut all, now) = taken(3);
    let text = data(1, 100_000);
    a.write(&text, now).unwrap();
    a.finish(now);
    let mut before = Vec::new();
    for (n, b) in (0_u8..).zip(&mut all) {
        b.write(&[n; 100], now).unwrap();
        before.push(said(b, now));
    }
    // An accept and a chunk; the other acceptances' chunk is one that it lacks.
    assert_eq!(hear(&mut a, &before[1][..1], now), 1);
    assert!(a.is_accepted());
    let mut records = said(&mut a, now);
    for n in [0, 2] {
        let (b, said_before) = (&mut all[n], &before[n]);
        assert_eq!(hear(&mut a, &said_before[1..], now), 0, "another acceptance's");
        assert_eq!(
            hear(&mut a, &said_before[..1], now),
            1,
            "its number has come, whatever it says"
        );
        assert_eq!(hear(b, &records, now), 0);
        assert_eq!(b.read(1, now), Ok(Read::Pending));
    }
    assert_eq!(hear(&mut all[1], &records, now), records.len());
    // It has heard the opener: what it says now is shorter.
    assert_eq!(hear(&mut a, &before[1], now), 2);
    assert_eq!(a.read(999, now), Ok(Read::Data(Bytes::from_static(&[1; 100]))));
    assert_eq!(before[1][0][0], 3);
    before[1] = said(&mut all[1], now);
    assert!(before[1].iter().all(|r| r[0] == 2), "an accept after it was heard");
    hear(&mut a, &before[1], now);
    records = said(&mut a, now);
    hear(&mut all[1], &records, now);
    assert!(a.is_sent());
    let mut got = Vec::new();
    while let Ok(Read::Data(bytes)) = all[1].read(usize::MAX, now) {
        got.extend_from_slice(&bytes);
    }
    assert!(got == text);
}

/// Whoever carries an accept can change what it adds to the keys; then it is none, and the true one still counts.
#[test]
fn a_changed_accept_delays_and_weakens_nothing() {
    let (mut a, mut all, now) = taken(1);
    let b = &mut all[0];
    b.write(b"early", now).unwrap();
    let said = said(b, now);
    let (accept, early) = said.split_first().unwrap();
    for at in 0..accept.len() {
        let mut bad = accept.to_vec();
        bad[at] ^= 0x10;
        assert_eq!(hear(&mut a, &[bad.into()], now), 0, "byte {at}");
        assert!(!a.is_accepted());
    }
    // A chunk that comes before: nothing tells its key.
    let record = BytesMut::from(&early[0][..]);
    assert_eq!(a.receive(LINK, record, now), Err(Rejected::Record(RecordError::Early)));
    assert_eq!(hear(&mut a, &said, now), said.len());
    assert_eq!(a.read(9, now), Ok(Read::Data(Bytes::from_static(b"early"))));
}

#[test]
fn an_accept_of_what_was_given_up_is_none() {
    let (mut a, mut all, now) = taken(1);
    a.reset(1, "", now);
    assert_eq!(hear(&mut a, &said(&mut all[0], now), now), 1);
    assert!(!a.is_accepted());
    // The other side hears that it has come to nothing.
    assert_eq!(hear(&mut all[0], &said(&mut a, now), now), 1);
    assert!(matches!(all[0].error(), Some(StreamError::Reset { code: 1, .. })));
}

/// A relay may lose the first record; whoever accepted goes on saying so until it is heard.
#[test]
fn an_accept_is_repeated_until_the_opener_is_heard() {
    let (mut a, mut all, mut now) = taken(1);
    let b = &mut all[0];
    assert_eq!(said(b, now).len(), 1);
    let mut lost = 0;
    while now < Instant::now() + super::super::timers::SILENCE / 2 {
        now = b.poll_timeout().unwrap();
        b.handle_timeout(now);
        lost += said(b, now).iter().filter(|r| r[0] == 3).count();
    }
    assert!((5..20).contains(&lost), "{lost}");
    now = b.poll_timeout().unwrap();
    b.handle_timeout(now);
    hear(&mut a, &said(b, now), now);
    assert!(a.is_accepted());
    hear(b, &said(&mut a, now), now);
    // Nothing is left to be confirmed: the next that it says is that it is there.
    assert!(b.poll_timeout().unwrap() >= now + super::super::timers::SILENCE / 8);
}
