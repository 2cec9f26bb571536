//! What TCP's users rely on, besides that bytes arrive.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::future::join_all;
use meshwire_netsim::simnet::{SocketOptions, check};
use meshwire_netsim::{Change, Direction, LinkState, Preset, Wire};
use meshwire_transport::net::Net as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::{Outcome, PORT, Pair, addr, content, exchange, latency, listen};

#[test]
fn connecting_fails_as_on_a_kernel() {
    check(1, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Corporate, latency(10), latency(10));
        let start = Instant::now();
        let kind = async |host: &str, port| {
            pair.client.tcp_connect(host, port).await.err().map(|e| e.kind())
        };
        assert_eq!(kind("203.0.113.1", PORT).await, Some(ErrorKind::ConnectionRefused));
        assert_eq!(start.elapsed(), Duration::from_millis(40), "one round trip");
        assert_eq!(kind("203.0.113.99", PORT).await, Some(ErrorKind::HostUnreachable));
        assert_eq!(kind("203.0.113.1", 80).await, Some(ErrorKind::ConnectionRefused), "rejected");
        assert_eq!(kind("nowhere", PORT).await, Some(ErrorKind::NotFound));
        assert_eq!(kind("127.0.0.1", PORT).await, Some(ErrorKind::ConnectionRefused));
        let (iface, direction) = (pair.home.uplink, Direction::Both);
        pair.sim.control(Change::State { iface, direction, state: LinkState::BlackHole })?;
        let start = Instant::now();
        assert_eq!(kind("203.0.113.1", PORT).await, Some(ErrorKind::TimedOut));
        // Linux' six retries.
        assert_eq!(start.elapsed().as_secs(), 127);
        Ok(())
    });
}

#[test]
fn one_direction_closes_and_the_other_goes_on() {
    check(2, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(10), latency(10));
        let (mut near, mut far) = pair.connect().await;
        near.write_all(b"last words").await?;
        near.shutdown().await?;
        assert_eq!(near.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        let mut got = String::new();
        far.read_to_string(&mut got).await?;
        assert_eq!(got, "last words");
        sleep(Duration::from_secs(1_000)).await;
        let data = content(300_000, 1);
        let sending = async {
            far.write_all(&data).await?;
            far.shutdown().await
        };
        let mut back = Vec::new();
        let (sent, read) = tokio::join!(sending, near.read_to_end(&mut back));
        sent?;
        read?;
        assert!(back == data);
        Ok(())
    });
}

#[test]
fn a_dropped_stream_ends_in_good_order_even_after_long_silence() {
    check(3, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::FullCone, latency(10), latency(10));
        let (mut near, mut far) = pair.connect().await;
        near.write_all(b"bye").await?;
        sleep(Duration::from_secs(6_000)).await;
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await?;
        assert_eq!(got, b"bye");
        Ok(())
    });
}

#[test]
fn what_nobody_will_read_is_reset() {
    check(4, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(10), latency(10));
        // Unread when it is dropped, and sent after it was dropped.
        for early in [true, false] {
            let (near, mut far) = pair.connect().await;
            if early {
                far.write_all(b"unread").await?;
                sleep(Duration::from_secs(1)).await;
            }
            drop(near);
            sleep(Duration::from_secs(1)).await;
            let _ = far.write_all(b"too late").await;
            sleep(Duration::from_secs(1)).await;
            let error = far.write(b"much too late").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "early: {early}");
        }
        Ok(())
    });
}

#[test]
fn a_listener_holds_so_many_and_the_others_try_again() {
    check(5, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(10), latency(10));
        pair.server.set_options(SocketOptions { backlog: 4, ..SocketOptions::default() });
        let listener = listen(&pair.server, PORT).await;
        let start = Instant::now();
        let connecting = join_all((0..6).map(async |_| {
            let stream = pair.client.tcp_connect("server", PORT).await.unwrap();
            (start.elapsed(), stream)
        }));
        let accepting = async {
            sleep(Duration::from_millis(500)).await;
            let mut all = Vec::new();
            for _ in 0..6 {
                all.push(listener.accept().await.unwrap());
            }
            all
        };
        let (connected, accepted) = tokio::join!(connecting, accepting);
        let at_once = connected.iter().filter(|(at, _)| *at == Duration::from_millis(40)).count();
        assert_eq!((at_once, connected.len(), accepted.len()), (4, 6, 6));
        Ok(())
    });
}

#[test]
fn a_listener_that_goes_takes_those_who_wait_along() {
    check(6, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(10), latency(10));
        let listener = listen(&pair.server, PORT).await;
        let mut stream = pair.client.tcp_connect("server", PORT).await?;
        drop(listener);
        assert_eq!(stream.read(&mut [0]).await?, 0);
        let again = pair.client.tcp_connect("server", PORT).await;
        assert_eq!(again.err().map(|e| e.kind()), Some(ErrorKind::ConnectionRefused));
        // The port is free at once.
        let _listener = listen(&pair.server, PORT).await;
        assert!(pair.client.tcp_connect("server", PORT).await.is_ok());
        let taken = pair.server.tcp_bind(addr("[::]:443")).await;
        assert_eq!(taken.err().map(|e| e.kind()), Some(ErrorKind::AddrInUse));
        Ok(())
    });
}

#[test]
fn a_reader_who_is_slow_stops_the_writer() {
    check(7, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(10), latency(10));
        let small = SocketOptions { tcp_buffer: 8192, ..SocketOptions::default() };
        pair.client.set_options(small);
        pair.server.set_options(small);
        let (mut near, mut far) = pair.connect().await;
        let data = content(200_000, 1);
        let held = timeout(Duration::from_secs(3_600), near.write_all(&data)).await;
        assert!(held.is_err(), "two buffers are full");
        let mut got = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(read) = timeout(Duration::from_secs(120), far.read(&mut piece)).await {
            got.extend(&piece[..read?]);
        }
        assert!(got.len() >= 8192 && got.len() <= 2 * 8192, "{} bytes", got.len());
        assert!(data.starts_with(&got));
        // It goes on when there is room again.
        let rest = content(50_000, 2);
        drop(got);
        let (_, got) = tokio::join!(exchange(near, &rest), exchange(far, b"thanks"));
        assert!(got? == rest);
        Ok(())
    });
}

#[test]
fn the_ports_of_a_host_run_out() {
    check(8, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, Wire::default(), Wire::default());
        let few = SocketOptions { ports: (50_000, 50_099), ..SocketOptions::default() };
        pair.client.set_options(few);
        let listener = listen(&pair.server, PORT).await;
        let mut all = Vec::new();
        let error = loop {
            match pair.client.tcp_connect("203.0.113.1", PORT).await {
                Ok(stream) => all.push((stream, listener.accept().await?)),
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert_eq!(all.len(), 100);
        // They come back when this side, which closed first, has waited for late packets.
        drop(all);
        let connect = async || pair.client.tcp_connect("203.0.113.1", PORT).await;
        assert!(connect().await.is_err());
        sleep(Duration::from_secs(11)).await;
        let mut near = connect().await?;
        // Where the other side waits for them, the port can be used at once.
        pair.client.set_options(SocketOptions { ports: (50_000, 50_000), ..few });
        drop(listener.accept().await?);
        assert_eq!(near.read(&mut [0]).await?, 0);
        drop(near);
        sleep(Duration::from_millis(1)).await;
        for _ in 0..3 {
            let (near, far) = tokio::join!(connect(), listener.accept());
            let (mut near, (far, from)) = (near?, far?);
            assert_eq!(from.port(), 50_000);
            drop(far);
            assert_eq!(near.read(&mut [0]).await?, 0);
            drop(near);
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    });
}
