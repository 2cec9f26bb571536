//! Hosts: loopback, IPv6, several addresses, names, clocks.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use meshwire_netsim::simnet::{EPOCH_MS, Internet, check};
use meshwire_netsim::{Change, Direction, LinkState, Preset, Wire};
use meshwire_transport::net::{Net, Transmit};
use tokio::time::{Instant, sleep};

use super::{Outcome, PORT, Pair, addr, content, exchange, latency, listen};

#[test]
fn a_host_talks_to_itself_without_any_network() {
    check(1, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Hotel, latency(10), latency(10));
        for (iface, state) in
            [(pair.home.iface, LinkState::Down), (pair.home.uplink, LinkState::Down)]
        {
            pair.sim.control(Change::State { iface, direction: Direction::Both, state })?;
        }
        let start = Instant::now();
        for (bind, host) in [
            ("127.0.0.1:700", "127.0.0.1"),
            ("127.0.0.1:701", "localhost"),
            ("0.0.0.0:702", "10.0.1.2"),
            ("[::1]:703", "::1"),
            ("[::]:704", "[2001:db8:3:1::2]"),
        ] {
            let listener = pair.client.tcp_bind(addr(bind)).await?;
            let port = listener.local_addr()?.port();
            let (near, far) = tokio::join!(pair.client.tcp_connect(host, port), listener.accept());
            let data = content(100_000, 1);
            let (a, b) = tokio::join!(exchange(near?, &data), exchange(far?.0, &data));
            assert!(a? == data && b? == data, "{host}");
        }
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
        let (a, b) = (
            pair.client.udp_bind(addr("127.0.0.1:0")).await?,
            pair.client.udp_bind(addr("0.0.0.0:0")).await?,
        );
        // Loopback takes what no link would.
        let data = content(60_000, 1);
        b.send_to(&data, a.local_addr()?).await?;
        let mut buf = vec![0; 65_536];
        let (length, from) = a.recv_from(&mut buf).await?;
        assert!(buf[..length] == data);
        assert_eq!(from, ([127, 0, 0, 1], b.local_addr()?.port()).into());
        let elsewhere = pair.server.tcp_connect("127.0.0.1", 702).await;
        assert_eq!(elsewhere.err().map(|e| e.kind()), Some(ErrorKind::ConnectionRefused));
        Ok(())
    });
}

#[test]
fn names_are_tried_in_their_order() {
    check(2, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::FullCone, latency(10), latency(10));
        let listener = pair.server.tcp_bind(addr("[2001:db8:1::1]:443")).await?;
        let connecting = pair.client.tcp_connect("server", PORT);
        let (near, far) = tokio::join!(connecting, listener.accept());
        assert!(near.is_ok());
        assert_eq!(far?.1.ip(), pair.home.v6, "IPv4 was refused first");
        let unknown = pair.client.tcp_connect("servre", PORT).await.err().unwrap();
        let text = "no host is named \"servre\"; names here are: server";
        assert_eq!(unknown.to_string(), text);
        pair.sim.set_name("servre", &["2001:db8:1::1".parse()?]);
        assert!(pair.client.tcp_connect("servre", PORT).await.is_ok());
        Ok(())
    });
}

#[test]
fn without_ipv4_only_ipv6_is_tried() {
    check(3, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Ipv6Only, latency(10), latency(10));
        let start = Instant::now();
        let (_, far) = pair.connect().await;
        drop(far);
        assert_eq!(start.elapsed(), Duration::from_millis(60), "one and a half round trips");
        let v4 = pair.client.tcp_connect("203.0.113.1", PORT).await;
        assert_eq!(v4.err().map(|e| e.kind()), Some(ErrorKind::NetworkUnreachable));
        assert_eq!(pair.client.addresses(), [pair.home.v6]);
        Ok(())
    });
}

#[test]
fn a_host_with_several_addresses_uses_the_nearest_or_the_chosen() {
    check(4, async |stage| -> Outcome {
        let mut net = Internet::new(stage)?;
        let core = net.core();
        let server = net.server("server", latency(5))?;
        let home = net.home("home", Preset::FullCone, latency(5))?;
        let ips: [IpAddr; 3] =
            ["198.51.100.1".parse()?, "198.51.100.2".parse()?, "10.0.1.9".parse()?];
        let builder = net.builder();
        let both = builder.host("both")?;
        let outer = builder.attach(both, core, &ips[..2], Wire::default())?;
        // Its second leg is in the home's own network.
        builder.attach(both, home.lan, &ips[2..], Wire::default())?;
        let sim = net.start();
        let (both, server, near) = (sim.host(both), sim.host(server), sim.host(home.host));
        assert_eq!(both.addresses(), ips);
        let (there, here) =
            (server.udp_bind(addr("0.0.0.0:7")).await?, near.udp_bind(addr("0.0.0.0:7")).await?);
        let socket = both.udp_bind(addr("0.0.0.0:1")).await?;
        let mut buf = [0; 8];
        socket.send_to(b"x", addr("203.0.113.1:7")).await?;
        assert_eq!(there.recv_from(&mut buf).await?.1.ip(), ips[0]);
        socket.send_to(b"x", addr("10.0.1.2:7")).await?;
        assert_eq!(here.recv_from(&mut buf).await?.1.ip(), ips[2], "on the link");
        let chosen = Transmit {
            destination: addr("203.0.113.1:7"),
            ecn: None,
            contents: b"x",
            segment_size: None,
            src_ip: Some(ips[1]),
        };
        socket.try_send(&chosen)?;
        assert_eq!(there.recv_from(&mut buf).await?.1.ip(), ips[1]);
        let foreign = Transmit { src_ip: Some("192.0.2.1".parse()?), ..chosen };
        assert_eq!(socket.try_send(&foreign).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
        // With the first link down, the other one is the way out, through the home's router.
        let (direction, state) = (Direction::Both, LinkState::Down);
        sim.control(Change::State { iface: outer, direction, state })?;
        socket.send_to(b"x", addr("203.0.113.1:7")).await?;
        assert_eq!(there.recv_from(&mut buf).await?.1.ip(), home.outside);
        Ok(())
    });
}

#[test]
fn clocks_agree_and_can_be_wrong() {
    check(5, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(10), latency(10));
        let (client, server) = (&pair.client, &pair.server);
        assert_eq!((client.unix_ms(), server.unix_ms()), (EPOCH_MS, EPOCH_MS));
        let start = client.now();
        sleep(Duration::from_millis(86_399)).await;
        let _ends = pair.connect().await;
        assert_eq!(client.unix_ms(), EPOCH_MS + 86_459);
        assert_eq!(client.now() - start, Duration::from_millis(86_459));
        assert_eq!(pair.sim.now().as_nanos(), 86_459_000_000);
        client.set_clock_skew_ms(-3_600_000);
        server.set_clock_skew_ms(5);
        assert_eq!(client.unix_ms(), EPOCH_MS + 86_459 - 3_600_000);
        assert_eq!(server.unix_ms(), EPOCH_MS + 86_464);
        assert_eq!(client.now() - start, Duration::from_millis(86_459), "it may not jump");
        Ok(())
    });
}

#[test]
fn many_connections_over_one_listener_stay_apart() {
    check(6, async |stage| -> Outcome {
        let mut net = Internet::new(stage)?;
        let server = net.server("server", latency(5))?;
        let homes: Vec<_> = (0..20)
            .map(|n| net.home(&format!("h{n}"), Preset::Cgnat, latency(n)).map(|h| h.host))
            .collect::<Result<_, _>>()?;
        let sim = net.start();
        let listener = listen(&sim.host(server), PORT).await;
        let serving = tokio::spawn(async move {
            for _ in 0..20 * 5 {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(stream);
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    tokio::io::AsyncWriteExt::shutdown(&mut write).await.unwrap();
                });
            }
        });
        let clients = (0..20 * 5).map(|n| {
            let host = sim.host(homes[n % 20]);
            async move {
                let data = content(20_000, n as u64);
                let stream = host.tcp_connect("server", PORT).await.unwrap();
                assert!(exchange(stream, &data).await.unwrap() == data, "{n}");
            }
        });
        futures_util::future::join_all(clients).await;
        serving.await?;
        Ok(())
    });
}
