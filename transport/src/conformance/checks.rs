//! The checks themselves.

use std::future::Future;
use std::time::Duration;

use meshwire_signaling::Envelope;
use meshwire_signaling::limits::MAX_BODY;
use meshwire_signaling::receipt::{Receipt, Verdict};
use meshwire_signaling::seal::OVERHEAD;
use meshwire_signaling::{Hash, id::Blob};
use tokio::time::timeout;

use super::{PATIENCE, Player, Rig};
use crate::link::{Answer, Handed, LinkError, MessageLink, Ticket};

/// How long the slow reader reads nothing. What is checked holds however far the sender gets.
const NAP: Duration = Duration::from_millis(500);

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not done within {PATIENCE:?}"),
    }
}

async fn send(link: &dyn MessageLink, envelope: Envelope) -> Ticket {
    match in_time("a send", link.send(envelope)).await {
        Ok(ticket) => ticket,
        Err(e) => panic!("a send was refused: {e}"),
    }
}

async fn handed(ticket: Ticket) -> Handed {
    match in_time("a ticket", ticket).await {
        Ok(handed) => handed,
        Err(e) => panic!("the carrier did not take an envelope: {e}"),
    }
}

pub(super) async fn up_comes_first(rig: Rig) {
    let (a, b) = Player::both(rig).await;
    assert_eq!(a.end.link.kind(), b.end.link.kind());
}

pub(super) async fn an_envelope_arrives_intact(rig: Rig) {
    let (mut a, mut b) = Player::both(rig).await;
    let link = a.end.link.clone();
    let (_, envelope) = a.seal(1, b"hello");
    let sent = envelope.clone();
    a.reading(async { handed(send(&*link, sent).await).await }).await;
    let got = b.envelope().await;
    // A carrier may add the author's chain, which lies outside of what is signed.
    let bytes = |e: &Envelope| (e.header.clone(), e.body.clone(), e.sig);
    assert_eq!(
        bytes(&got),
        bytes(&envelope),
        "header, body and signature arrive as they were sent"
    );
    b.deliver(&got).await;
}

pub(super) async fn call_order_is_kept(rig: Rig) {
    const N: u64 = 200;
    let (mut a, mut b) = Player::both(rig).await;
    let link = a.end.link.clone();
    let envelopes: Vec<_> = (1..=N).map(|n| a.seal(n, &n.to_be_bytes()).1).collect();
    let sending = async {
        let mut tickets = Vec::new();
        for envelope in envelopes {
            tickets.push(send(&*link, envelope).await);
        }
        for ticket in tickets {
            handed(ticket).await;
        }
    };
    let receiving = async {
        for n in 1..=N {
            let got = b.envelope().await;
            let (_, seq, text) = b.open(&got);
            assert_eq!((seq, text), (n, n.to_be_bytes().to_vec()), "envelopes keep their order");
            b.deliver(&got).await;
        }
    };
    a.reading(async { tokio::join!(sending, receiving) }).await;
}

pub(super) async fn a_receipt_comes_back(rig: Rig) {
    let (mut a, mut b) = Player::both(rig).await;
    let link = a.end.link.clone();
    let (id, envelope) = a.seal(1, b"hello");
    let sent = envelope.clone();
    a.reading(async { handed(send(&*link, sent).await).await }).await;
    let got = b.envelope().await;
    b.deliver(&got).await;
    let receipt = a.receipt(id).await;
    assert!(a.believes(&receipt, &envelope), "the author can verify the receipt");
    let (key, by) = (a.key(), a.other);
    let confirmed = a.reading(async { link.confirm(key, id, by).await }).await;
    assert_eq!(confirmed, Ok(()), "the author confirms");
}

pub(super) async fn both_directions_work_at_once(rig: Rig) {
    const N: u64 = 50;
    async fn play(mut me: Player) {
        let link = me.end.link.clone();
        let envelopes: Vec<_> = (1..=N).map(|n| me.seal(n, b"to and fro")).collect();
        let batch: Vec<_> = envelopes.iter().map(|(_, e)| e.clone()).collect();
        me.reading(async {
            for envelope in batch {
                handed(send(&*link, envelope).await).await;
            }
        })
        .await;
        for n in 1..=N {
            let got = me.envelope().await;
            assert_eq!(me.open(&got).1, n, "envelopes keep their order");
            me.deliver(&got).await;
        }
        for (id, envelope) in &envelopes {
            let receipt = me.receipt(*id).await;
            assert!(me.believes(&receipt, envelope), "the author can verify the receipt");
        }
    }
    let (a, b) = Player::both(rig).await;
    tokio::join!(Box::pin(play(a)), Box::pin(play(b)));
}

pub(super) async fn too_large_is_refused_and_harmless(rig: Rig) {
    let (mut a, mut b) = Player::both(rig).await;
    let link = a.end.link.clone();
    let (_, mut huge) = a.seal(1, b"");
    huge.body = Blob(vec![0; MAX_BODY + 1]);
    let refused = in_time("a send", link.send(huge)).await.map(drop);
    let (len, max) = (MAX_BODY + 1, MAX_BODY);
    assert_eq!(refused, Err(LinkError::TooLarge { len, max }), "too large is refused at once");
    // What seal and encoding add to a text of about this length.
    let frame = a.seal(1, &vec![0; 32_768]).1.body.len() - 32_768;
    let text = vec![0x5a; MAX_BODY - frame];
    let (_, largest) = a.seal(1, &text);
    assert!(largest.body.len() <= MAX_BODY && largest.body.len() > MAX_BODY - OVERHEAD);
    a.reading(async { handed(send(&*link, largest).await).await }).await;
    let got = b.envelope().await;
    assert_eq!(b.open(&got).2, text, "the largest body that is allowed arrives");
    b.deliver(&got).await;
}

pub(super) async fn a_slow_reader_bounds_the_sender(rig: Rig) {
    const N: u64 = 400;
    let (mut a, mut b) = Player::both(rig).await;
    let link = a.end.link.clone();
    let envelopes: Vec<_> = (1..=N).map(|n| a.seal(n, &[0; 1_024]).1).collect();
    let sending = async {
        let mut tickets = Vec::new();
        for envelope in envelopes {
            tickets.push(send(&*link, envelope).await);
        }
        for ticket in tickets {
            handed(ticket).await;
        }
    };
    let receiving = async {
        tokio::time::sleep(NAP).await;
        let waiting = b.end.events.len();
        assert!(waiting < 300, "{waiting} events wait for a reader that does not read");
        for n in 1..=N {
            let got = b.envelope().await;
            assert_eq!(b.open(&got).1, n, "nothing is lost or reordered while nobody reads");
            b.deliver(&got).await;
        }
    };
    a.reading(async { tokio::join!(sending, receiving) }).await;
}

pub(super) async fn a_duplicate_is_no_error(rig: Rig) {
    let (mut a, mut b) = Player::both(rig).await;
    let link = a.end.link.clone();
    let (id, twice) = a.seal(1, b"once");
    let (marker, last) = a.seal(2, b"behind");
    let sending = async {
        handed(send(&*link, twice.clone()).await).await;
        let second = handed(send(&*link, twice).await).await;
        handed(send(&*link, last).await).await;
        second
    };
    let receiving = async {
        let mut times = 0;
        loop {
            let got = b.envelope().await;
            b.deliver(&got).await;
            match b.open(&got).0 {
                got if got == id => times += 1,
                got => {
                    assert_eq!(got, marker, "an envelope that nobody sent");
                    return times;
                }
            }
        }
    };
    let (second, times) = a.reading(async { tokio::join!(sending, receiving) }).await;
    let fine = times == 2 || (times == 1 && second.duplicate);
    assert!(fine, "a duplicate came {times} times and was answered with {second:?}");
}

pub(super) async fn close_ends_everything(rig: Rig) {
    let (a, _b) = Player::both(rig).await;
    in_time("close", a.end.link.close()).await;
    assert!(!a.end.link.is_up(), "a closed link is not up");
    let (id, envelope) = a.seal(1, b"too late");
    let sent = in_time("a send", a.end.link.send(envelope)).await.map(drop);
    assert_eq!(sent, Err(LinkError::Closed), "send after close");
    let (from, by) = (a.key(), a.other);
    let receipt = Receipt { verdict: Verdict::Delivered, reason: None, by, mac: Hash([0; 32]) };
    let answer = Answer::Final { from, id, receipt };
    let answered = in_time("an answer", a.end.link.answer(answer)).await;
    assert_eq!(answered, Err(LinkError::Closed), "answer after close");
    let confirmed = in_time("a confirm", a.end.link.confirm(from, id, by)).await;
    assert_eq!(confirmed, Err(LinkError::Closed), "confirm after close");
    in_time("a second close", a.end.link.close()).await;
    let mut events = a.end.events;
    in_time("the end of the events", async { while events.recv().await.is_some() {} }).await;
}
