//! What links and changes do to connections: exact round trips, black holes, silence, new addresses.

use std::io::ErrorKind;
use std::time::Duration;

use meshwire_netsim::simnet::{check, run};
use meshwire_netsim::{Change, Direction, LinkConfig, LinkState, Preset, Wire};
use meshwire_transport::net::Net as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::{Outcome, PORT, Pair, addr, content, exchange, latency, listen};

#[test]
fn a_round_trip_takes_what_the_links_take_to_the_nanosecond() {
    check(1, async |stage| -> Outcome {
        let odd = Wire {
            up: LinkConfig::with_latency(Duration::from_nanos(7_000_123)),
            down: LinkConfig::with_latency(Duration::from_nanos(9_400_007)),
        };
        let pair = Pair::new(stage, Preset::Symmetric, odd, latency(10));
        let trip = Duration::from_nanos(7_000_123 + 9_400_007 + 20_000_000);
        let (mut near, mut far) = pair.connect().await;
        tokio::spawn(async move {
            let mut byte = [0];
            while far.read_exact(&mut byte).await.is_ok() {
                far.write_all(&byte).await.unwrap();
            }
        });
        for pause in [0, 1, 40, 1_000, 60_000] {
            sleep(Duration::from_millis(pause)).await;
            let (before, mut byte) = (pair.sim.now(), [7]);
            near.write_all(&byte).await?;
            near.read_exact(&mut byte).await?;
            assert_eq!(pair.sim.now().since(before), trip, "after {pause} ms");
        }
        Ok(())
    });
}

#[test]
fn an_mtu_that_nobody_tells_of_is_a_black_hole_for_large_segments_alone() {
    check(2, async |stage| -> Outcome {
        let silent = LinkConfig { mtu: 1280, mtu_signal: false, ..LinkConfig::default() };
        let pair = Pair::new(stage, Preset::FullCone, Wire::both(silent), latency(10));
        let (mut near, mut far) = pair.connect().await;
        let (mut small, begin) = ([0; 100], content(100, 1));
        near.write_all(&begin).await?;
        far.read_exact(&mut small).await?;
        assert_eq!(small[..], begin[..]);
        near.write_all(&content(50_000, 1)).await?;
        let start = Instant::now();
        let error = near.read(&mut small).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // Linux' fifteen retries.
        assert_eq!(start.elapsed().as_secs(), 924);
        Ok(())
    });
}

fn state(pair: &Pair, state: LinkState) {
    let change = Change::State { iface: pair.home.uplink, direction: Direction::Both, state };
    pair.sim.control(change).unwrap();
}

#[test]
fn what_a_black_hole_swallows_comes_when_it_ends() {
    check(3, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Mobile, latency(20), latency(20));
        let (mut near, mut far) = pair.connect().await;
        for gap in [LinkState::BlackHole, LinkState::Down] {
            state(&pair, gap);
            near.write_all(b"are you there?").await?;
            let mut buf = [0; 14];
            let early = timeout(Duration::from_secs(30), far.read_exact(&mut buf)).await;
            assert!(early.is_err(), "nothing passes");
            state(&pair, LinkState::Up);
            timeout(Duration::from_secs(60), far.read_exact(&mut buf)).await??;
            assert_eq!(&buf, b"are you there?");
        }
        Ok(())
    });
}

#[test]
fn a_peer_that_vanishes_is_given_up_by_who_writes_and_not_by_who_listens() {
    check(4, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::FullCone, latency(20), latency(20));
        let (mut near, mut far) = pair.connect().await;
        // Silence before does not count.
        sleep(Duration::from_secs(7_000)).await;
        state(&pair, LinkState::BlackHole);
        far.write_all(b"hello?").await?;
        let start = Instant::now();
        assert_eq!(far.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 924);
        assert_eq!(far.write(b"x").await.unwrap_err().kind(), ErrorKind::TimedOut);
        let idle = timeout(Duration::from_secs(3_600), near.read_u8()).await;
        assert!(idle.is_err(), "without keep-alive nobody asks");
        Ok(())
    });
}

#[test]
fn an_idle_hour_costs_nothing() {
    check(5, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(20), latency(20));
        let (_near, _far) = pair.connect().await;
        let udp = pair.client.udp_bind(addr("0.0.0.0:0")).await?;
        sleep(Duration::from_secs(10)).await;
        let recording = pair.sim.record();
        let mut buf = [0; 1];
        let idle = timeout(Duration::from_secs(3_600), udp.recv_from(&mut buf)).await;
        assert!(idle.is_err());
        assert!(recording.bytes().is_empty(), "nothing was sent");
        Ok(())
    });
}

#[test]
fn a_new_address_ends_old_connections_and_nothing_else() {
    check(6, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::FullCone, latency(10), latency(10));
        let (mut near, mut far) = pair.connect().await;
        let own = listen(&pair.client, 80).await;
        let udp = pair.client.udp_bind(addr("0.0.0.0:9")).await?;
        let bound = pair.client.udp_bind(addr("10.0.1.2:10")).await?;
        let addresses = vec!["10.0.1.77".parse()?];
        pair.sim.control(Change::Address { iface: pair.home.iface, addresses })?;
        assert_eq!(pair.client.addresses(), ["10.0.1.77".parse::<std::net::IpAddr>()?]);

        // What was bound to all addresses has the new one.
        let echo = pair.server.udp_bind(addr("0.0.0.0:7")).await?;
        udp.send_to(b"new", addr("203.0.113.1:7")).await?;
        let mut buf = [0; 8];
        let (_, from) = echo.recv_from(&mut buf).await?;
        echo.send_to(b"back", from).await?;
        assert_eq!(udp.recv_from(&mut buf).await?.0, 4);
        let local = pair.client.tcp_connect("10.0.1.77", 80);
        assert!(tokio::join!(local, own.accept()).0.is_ok());
        // What was bound to the old one is heard of by nobody.
        bound.send_to(b"old", addr("203.0.113.1:7")).await?;
        assert!(timeout(Duration::from_secs(5), echo.recv_from(&mut buf)).await.is_err());
        let error = pair.client.udp_bind(addr("10.0.1.2:11")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains("10.0.1.77"), "{error}");

        near.write_all(b"x").await?;
        far.write_all(b"y").await?;
        assert_eq!(near.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(far.read_u8().await.unwrap_err().kind(), ErrorKind::HostUnreachable);
        let fresh = pair.client.tcp_connect("203.0.113.1", PORT).await;
        assert_eq!(fresh.err().map(|e| e.kind()), Some(ErrorKind::ConnectionRefused));
        Ok(())
    });
}

#[test]
fn a_rate_is_what_bulk_takes() {
    let took = run(7, async |stage| {
        let rate = meshwire_netsim::link::Rate { bits_per_second: 8_000_000, queue_bytes: 100_000 };
        let config =
            LinkConfig { rate: Some(rate), ..LinkConfig::with_latency(Duration::from_millis(5)) };
        let pair = Pair::new(stage, Preset::Open, Wire::both(config), Wire::default());
        let (near, far) = pair.connect().await;
        let start = pair.sim.now();
        let data = content(2_000_000, 1);
        let (_, got) = tokio::join!(exchange(near, &data), exchange(far, &[]));
        assert!(got.unwrap() == data);
        pair.sim.now().since(start)
    });
    // 1 MB/s, 40 bytes of headers for each 1,460; as much again for what the queue dropped.
    assert!(took > Duration::from_millis(2_050), "{took:?}");
    assert!(took < Duration::from_millis(4_100), "{took:?}");
}
