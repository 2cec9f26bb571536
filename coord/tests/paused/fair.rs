//! Streams through the broker: who does not keep up, takes too much or comes and goes is the only one to notice.

use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::StreamId;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Bye, Frame, ReceiptAck};
use meshwire_signaling::stream::carry::{Carry, FRONT, PAIR_WINDOW, STREAM_WINDOW, Way, front};
use meshwire_signaling::stream::{Header, Kind, Suite};
use meshwire_transport::link::{LinkEvent, MessageLink as _};
use meshwire_transport::net::BoxStream;
use meshwire_transport::stream::Windows;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::streams::{
    MIB, STREAMS, Told, connect, gauge, listen, raw, receive, record, send, stream, stream_with,
    way,
};
use super::world::{World, key, next_envelope, receipt};

const FULL: usize = 32_768;

fn control(way: Way, stream: u8, number: u64) -> Message {
    let (kind, suite) = (Kind::Control, Suite::Aes256Gcm);
    let header = Header { kind, suite, stream: StreamId([stream; 16]), number };
    let mut out = [&front(&way)[..], &header.encode()].concat();
    out.resize(FRONT + 74, 0xee);
    Message::binary(out)
}

fn frame(frame: impl Into<Frame>) -> Message {
    Message::binary(frame.into().encode(Encoding::MsgPack))
}

fn back(told: &Told) -> u64 {
    told.credit.values().sum()
}

async fn dropped(world: &World, cause: &str) -> u64 {
    gauge(world, &format!("broker_stream_records_dropped_total{{cause=\"{cause}\"}}")).await
}

/// The next record that comes.
async fn next_record(ws: &mut WebSocketStream<BoxStream>) -> Option<Vec<u8>> {
    let next = async {
        while let Some(Ok(message)) = ws.next().await {
            let bytes = message.into_data();
            if matches!(Carry::parse(&bytes), Ok(Carry::Record { .. })) {
                return Some(bytes.to_vec());
            }
        }
        None
    };
    timeout(Duration::from_secs(5), next).await.ok().flatten()
}

/// What was about to be written to a reader that never took it is given back like all that waited behind it.
#[tokio::test(start_paused = true)]
async fn all_credit_comes_back_from_a_reader_that_goes_while_it_is_written_to() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let mut mallory = raw(&world, 2).await;
    for taken in 0..8 {
        let mut bob = raw(&world, 3).await;
        let sent = 16 * FULL as u64;
        for number in 0..16 {
            mallory.send(record(way(2, 3), 1, number, FULL)).await.unwrap();
        }
        let mut told = back(&listen(&mut mallory).await);
        // He takes some: as many are written all at once, more than his pipe holds.
        for _ in 0..taken {
            assert!(next_record(&mut bob).await.is_some());
        }
        sleep(Duration::from_millis(100)).await;
        assert!(gauge(&world, "broker_stream_bytes_queued ").await > 0, "{taken} taken");
        drop(bob);
        told += back(&listen(&mut mallory).await);
        assert_eq!(told, sent, "{taken} taken");
    }
    assert_eq!(gauge(&world, "broker_stream_bytes_queued ").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_trickle_of_a_reader_costs_a_window_and_others_nothing() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let wire = world.wire();
    let (bob, mut bob_events) = world.connect_as(2, wire.clone(), STREAMS).await;
    let (cleo, mut cleo_events) = connect(&world, 3).await;
    // What his program would take is no limit: his line is.
    let windows = Windows { initial: 16 << 20, ..Windows::default() };
    let (a, b) = stream_with(&world, windows, 1, 1, 2);
    let _carried = (a.carry(&ana), b.carry(&bob));
    a.live.accepted().await.unwrap();
    wire.trickle(0);
    let slow = send(a.write, 4 * MIB, 1);
    let got = receive(b.read);
    for round in 0..60 {
        let start = Instant::now();
        let (a, c) = stream(&world, 2 + round, 1, 3);
        let _carried = (a.carry(&ana), c.carry(&cleo));
        let (sent, got) = (send(a.write, MIB, round), receive(c.read));
        assert_eq!(sent.await.unwrap(), got.await.unwrap());
        ana.send(world.letter(1, 3, u64::from(round))).await.unwrap().await.unwrap();
        let inbound = next_envelope(&mut cleo_events).await;
        cleo.answer(receipt(&world, &inbound, 3)).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        let queued = gauge(&world, "broker_stream_bytes_queued ").await;
        while let Ok(event) = bob_events.try_recv() {
            assert!(!matches!(event, LinkEvent::Down { .. }), "{event:?}");
        }
        // A window, and states that ask whether he is there.
        assert!((STREAM_WINDOW / 2..=STREAM_WINDOW + 4_096).contains(&queued), "{queued}");
        sleep(Duration::from_secs(2)).await;
        // Nothing for 10 s, then 5 KB a second: he lives.
        wire.trickle(if round < 5 { 0 } else { 10_000 });
    }
    assert!(!slow.is_finished());
    wire.thaw();
    assert_eq!(slow.await.unwrap(), got.await.unwrap());
    for cause in ["window", "memory", "ended"] {
        assert_eq!(dropped(&world, cause).await, 0, "{cause}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_that_take_all_the_memory_they_can_leave_some_for_the_next() {
    const HOGS: u8 = 6;
    let world = World::with(|policy| policy.stream_memory = 32 << 20).await;
    let (ana, _ana_events) = connect(&world, 1).await;
    for n in 2..12 {
        world.admit(&ana, n).await;
    }
    let deaf = [8, 9, 10];
    let mut hogs = Vec::new();
    let _connected = [raw(&world, 8).await, raw(&world, 9).await, raw(&world, 10).await];
    for n in 2..2 + HOGS {
        let mut hog = raw(&world, n).await;
        for to in deaf {
            for number in 0..PAIR_WINDOW / FULL as u64 {
                hog.send(record(way(n, to), to, number, FULL)).await.unwrap();
            }
        }
        listen(&mut hog).await;
        hogs.push(hog);
    }
    assert!(dropped(&world, "memory").await > 100);
    let before = dropped(&world, "memory").await;
    let (bob, _bob_events) = connect(&world, 11).await;
    let (a, b) = stream(&world, 1, 1, 11);
    let _carried = (a.carry(&ana), b.carry(&bob));
    let (start, sent) = (Instant::now(), send(a.write, 8 * MIB, 1));
    assert_eq!(receive(b.read).await.unwrap(), sent.await.unwrap());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(dropped(&world, "memory").await, before, "nothing of it is lost");
}

#[tokio::test(start_paused = true)]
async fn streams_do_not_notice_who_comes_and_goes() {
    const RATE: u64 = 8;
    let world = World::with(|policy| policy.rate = RATE).await;
    let (ana, _ana_events) = connect(&world, 1).await;
    for n in [2, 3, 4] {
        world.admit(&ana, n).await;
    }
    let mut cleo = raw(&world, 2).await;
    let mut bob = raw(&world, 3).await;
    let mut sent = 0;
    for _ in 0..12 * RATE {
        cleo.send(record(way(2, 3), 1, sent, 100)).await.unwrap();
        sent += 1;
        assert!(next_record(&mut bob).await.is_some(), "record {sent}");
        // One who comes, leaves on purpose, and then says so again and again.
        let mut dan = raw(&world, 4).await;
        for _ in 0..4 {
            dan.send(frame(Bye {})).await.unwrap();
        }
        drop(dan);
    }
    assert_eq!(dropped(&world, "away").await, 0);
}

#[tokio::test(start_paused = true)]
async fn records_to_strangers_do_not_cost_the_answers_to_mail() {
    let world = World::with(|policy| policy.rate = 10).await;
    let (ana, mut ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let (bob, mut bob_events) = connect(&world, 2).await;
    ana.send(world.letter(1, 2, 1)).await.unwrap().await.unwrap();
    let inbound = next_envelope(&mut bob_events).await;
    let id = inbound.envelope.header().unwrap().id;
    bob.answer(receipt(&world, &inbound, 2)).await.unwrap();
    while !matches!(ana_events.recv().await.unwrap(), LinkEvent::Receipt { .. }) {}
    ana.close().await;
    // The receipt is not confirmed yet.
    let mut ana = raw(&world, 1).await;
    for n in 10..210 {
        ana.send(record(way(1, n), n, 0, 100)).await.unwrap();
    }
    let (from, by) = (key(1).public(), key(2).public());
    ana.send(frame(ReceiptAck { from, id, by })).await.unwrap();
    listen(&mut ana).await;
    drop(ana);
    let mut again = raw(&world, 1).await;
    while let Ok(Some(Ok(message))) = timeout(Duration::from_secs(5), again.next()).await {
        let got = Frame::decode(Encoding::MsgPack, &message.into_data());
        assert!(!matches!(got, Ok(Frame::Receipt(_))), "it was confirmed");
    }
}

#[tokio::test(start_paused = true)]
async fn states_of_a_member_over_its_rate_do_not_wait_with_its_bulk() {
    let world = World::with(|policy| policy.stream_rate = 64 << 10).await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let mut cleo = raw(&world, 2).await;
    let mut bob = raw(&world, 3).await;
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = bob.next().await {} });
    // What goes nowhere is not charged.
    for number in 0..100 {
        cleo.send(record(way(2, 99), 9, number, FULL)).await.unwrap();
    }
    assert_eq!(back(&listen(&mut cleo).await), 100 * FULL as u64);
    assert_eq!(gauge(&world, "broker_stream_bytes_over_rate_total ").await, 0);
    for number in 0..30 {
        cleo.send(record(way(2, 3), 1, number, FULL)).await.unwrap();
    }
    let told = listen(&mut cleo).await;
    assert!(back(&told) < 8 * FULL as u64, "{told:?}");
    let over = gauge(&world, "broker_stream_bytes_over_rate_total ").await;
    assert!((20 * FULL as u64..30 * FULL as u64).contains(&over), "{over}");
    for round in 0..3 {
        for number in 1..=50 {
            cleo.send(control(way(2, 3), 2, 100 * round + number)).await.unwrap();
        }
        let told = listen(&mut cleo).await;
        let of = |n| told.credit.get(&(StreamId([n; 16]), key(3).public())).copied();
        assert_eq!((of(1), of(2)), (None, Some(50 * 74)));
    }
    // Too many are like bulk.
    for number in 1..1_000 {
        cleo.send(control(way(2, 3), 3, number)).await.unwrap();
    }
    let told = back(&listen(&mut cleo).await);
    assert!((10_000..60_000).contains(&told), "{told} of 74,000");
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_passes_the_bulk_that_waits() {
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    world.admit(&ana, 2).await;
    let mut cleo = raw(&world, 2).await;
    let mut most = 0;
    // Wherever in its records the broker had to stop.
    for taken in 0..8 {
        let to = 10 + taken;
        world.admit(&ana, to).await;
        let mut bob = raw(&world, to).await;
        for number in 0..100 {
            cleo.send(record(way(2, to), 1, number, FULL)).await.unwrap();
        }
        listen(&mut cleo).await;
        for _ in 0..taken {
            assert!(next_record(&mut bob).await.is_some());
        }
        ana.send(world.letter(1, to, to.into())).await.unwrap().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let mut before = 0;
        while let Some(Ok(message)) = bob.next().await {
            let bytes = message.into_data();
            if matches!(Frame::decode(Encoding::MsgPack, &bytes), Ok(Frame::Message(_))) {
                break;
            }
            before += bytes.len();
        }
        most = most.max(before);
    }
    // A bit more than two in the pipe, and four that the broker writes at once.
    assert!(most <= 7 * (FULL + FRONT), "{most}");
}

#[tokio::test(start_paused = true)]
async fn members_share_a_reader_alike_whatever_the_number_of_their_streams() {
    const MANY: u8 = 20;
    let world = World::new().await;
    let (ana, _ana_events) = connect(&world, 1).await;
    for n in [2, 3, 4] {
        world.admit(&ana, n).await;
    }
    let mut bob = raw(&world, 3).await;
    let (mut cleo, mut dan) = (raw(&world, 2).await, raw(&world, 4).await);
    for number in 0..6 {
        for stream in 0..MANY {
            cleo.send(record(way(2, 3), stream, number, FULL)).await.unwrap();
        }
    }
    for number in 0..100 {
        dan.send(record(way(4, 3), MANY, number, FULL)).await.unwrap();
    }
    for socket in [&mut cleo, &mut dan] {
        listen(socket).await;
    }
    // Those that were written before dan came.
    for _ in 0..10 {
        assert!(next_record(&mut bob).await.is_some());
    }
    let mut of_stream = [0; MANY as usize + 1];
    for _ in 0..160 {
        let bytes = next_record(&mut bob).await.unwrap();
        let Ok(Carry::Record { header, .. }) = Carry::parse(&bytes) else { panic!("a record") };
        of_stream[usize::from(header.stream.0[0])] += 1;
    }
    let [cleos @ .., dans] = of_stream;
    assert!((79..=81).contains(&dans), "{of_stream:?}");
    assert!(cleos.iter().all(|n| (3..=5).contains(n)), "{of_stream:?}");
}
