//! UDP sockets, as [`meshwire_transport::net::Datagram`] describes them.

use std::io::{ErrorKind, IoSliceMut};
use std::time::Duration;

use meshwire_netsim::link::Loss;
use meshwire_netsim::simnet::{SocketOptions, check};
use meshwire_netsim::{Chance, Change, Direction, LinkConfig, Preset, Reason, Wire};
use meshwire_transport::net::{Datagram, EcnCodepoint, Net as _, RecvMeta, Transmit};
use tokio::time::timeout;

use super::{Outcome, Pair, addr, content, latency};

const SERVER: &str = "203.0.113.1:53";

fn transmit(contents: &[u8], to: &str) -> Transmit<'static> {
    let contents = contents.to_vec().leak();
    Transmit { destination: addr(to), ecn: None, contents, segment_size: None, src_ip: None }
}

/// The next datagram, if one comes within a second.
async fn next(socket: &dyn Datagram) -> Option<Vec<u8>> {
    let mut buf = vec![0; 65_536];
    let got = timeout(Duration::from_secs(1), socket.recv_from(&mut buf)).await.ok()?;
    buf.truncate(got.unwrap().0);
    Some(buf)
}

#[test]
fn every_preset_answers_on_port_53_or_says_no() {
    for preset in Preset::ALL {
        check(1, async |stage| -> Outcome {
            let pair = Pair::new(stage, preset, latency(5), latency(5));
            let six = preset == Preset::Ipv6Only;
            let (any, far) =
                if six { ("[::]:0", "[2001:db8:1::1]:53") } else { ("0.0.0.0:0", SERVER) };
            let server =
                pair.server.udp_bind(addr(&far.replace("[2001:db8:1::1]", "[::]"))).await?;
            let client = pair.client.udp_bind(addr(any)).await?;
            client.send_to(b"ask", addr(far)).await?;
            let mut buf = [0; 8];
            let asked = timeout(Duration::from_secs(1), server.recv_from(&mut buf)).await;
            if preset == Preset::Corporate {
                assert!(asked.is_err());
                return Ok(());
            }
            let (_, from) = asked??;
            assert_eq!(from.ip(), pair.home.outside, "{preset}");
            server.send_to(b"answer", from).await?;
            assert_eq!(next(&*client).await.as_deref(), Some(&b"answer"[..]), "{preset}");
            Ok(())
        });
    }
}

#[test]
fn a_datagram_is_cut_to_the_buffer_and_may_be_empty() {
    check(2, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, latency(5), latency(5));
        let server = pair.server.udp_bind(addr(SERVER)).await?;
        let client = pair.client.udp_bind(addr("0.0.0.0:0")).await?;
        client.send_to(b"hello", addr(SERVER)).await?;
        client.send_to(b"", addr(SERVER)).await?;
        client.send_to(b"more", addr(SERVER)).await?;
        let mut buf = [0; 4];
        assert_eq!(server.recv_from(&mut buf).await?.0, 4);
        assert_eq!(&buf, b"hell");
        assert_eq!(server.recv_from(&mut buf).await?.0, 0);
        assert_eq!(next(&*server).await.as_deref(), Some(&b"more"[..]));
        Ok(())
    });
}

#[test]
fn a_full_socket_loses_what_comes() {
    check(3, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, Wire::default(), Wire::default());
        let small = SocketOptions { udp_buffer: 10 * (100 + 64), ..SocketOptions::default() };
        pair.server.set_options(small);
        let server = pair.server.udp_bind(addr(SERVER)).await?;
        let client = pair.client.udp_bind(addr("0.0.0.0:0")).await?;
        for n in 0..100_000_u32 {
            let mut data = [0; 100];
            data[..4].copy_from_slice(&n.to_be_bytes());
            client.send_to(&data, addr(SERVER)).await?;
        }
        let mut got = Vec::new();
        while let Some(data) = next(&*server).await {
            got.push(u32::from_be_bytes(data[..4].try_into()?));
        }
        // The first ones, and as many of the last, which it heard of after it had read those.
        assert_eq!(got[..10], *(0..10).collect::<Vec<_>>());
        assert!(got.len() <= 20, "{got:?}");
        Ok(())
    });
}

#[test]
fn what_is_larger_than_the_link_is_refused_or_cut_up() {
    check(4, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::PortRestricted, latency(5), latency(5));
        let server = pair.server.udp_bind(addr(SERVER)).await?;
        let whole = pair.client.udp_bind(addr("0.0.0.0:0")).await?;
        assert!(!whole.may_fragment());
        whole.send_to(&content(1_472, 0), addr(SERVER)).await?;
        let error = whole.send_to(&content(1_473, 0), addr(SERVER)).await.unwrap_err();
        assert_eq!(error.to_string(), "a datagram of 1473 bytes is too long here; 1472 fit");
        assert_eq!(next(&*server).await.unwrap().len(), 1_472);

        let options = SocketOptions { udp_fragments: true, ..SocketOptions::default() };
        pair.client.set_options(options);
        pair.server.set_options(options);
        drop(server);
        let server = pair.server.udp_bind(addr(SERVER)).await?;
        let cut = pair.client.udp_bind(addr("0.0.0.0:0")).await?;
        assert!(cut.may_fragment());
        for length in [1_472, 1_473, 4_000, 65_507] {
            let data = content(length, 3);
            cut.send_to(&data, addr(SERVER)).await?;
            let mut buf = vec![0; 65_536];
            let (got, from) = server.recv_from(&mut buf).await?;
            assert!(buf[..got] == data, "{length} there");
            server.send_to(&data, from).await?;
            assert!(next(&*cut).await.as_deref() == Some(&data), "{length} back");
        }
        let error = cut.send_to(&content(65_508, 0), addr(SERVER)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        // All of it, or none.
        let loss = Loss::Independent(Chance::new(0.5)?);
        let config = LinkConfig { loss, ..LinkConfig::default() };
        let (iface, direction) = (pair.home.uplink, Direction::Up);
        pair.sim.control(Change::Link { iface, direction, config })?;
        let data = content(20_000, 5);
        for _ in 0..20 {
            cut.send_to(&data, addr(SERVER)).await?;
        }
        assert_eq!(next(&*server).await, None);
        Ok(())
    });
}

#[test]
fn a_path_that_is_narrower_says_nothing_to_the_socket() {
    check(5, async |stage| -> Outcome {
        let narrow = Wire::both(LinkConfig { mtu: 1280, ..LinkConfig::default() });
        let pair = Pair::new(stage, Preset::PortRestricted, narrow, latency(5));
        let server = pair.server.udp_bind(addr(SERVER)).await?;
        let client = pair.client.udp_bind(addr("0.0.0.0:0")).await?;
        for length in [1_253, 1_252, 1_253] {
            client.send_to(&content(length, 0), addr(SERVER)).await?;
        }
        assert_eq!(next(&*server).await.map(|d| d.len()), Some(1_252));
        assert_eq!(next(&*server).await, None);
        assert_eq!(pair.sim.inspect(|e| e.ledger().dropped(Reason::TooBig)), 2);
        Ok(())
    });
}

#[test]
fn a_port_that_nobody_has_is_said_to_be_so() {
    check(6, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::PortRestricted, latency(5), latency(5));
        let server = pair.server.udp_bind(addr(SERVER)).await?;
        let client = pair.client.udp_bind(addr("0.0.0.0:0")).await?;
        let recording = pair.sim.record();
        client.send_to(b"nobody", addr("203.0.113.1:54")).await?;
        client.send_to(b"somebody", addr(SERVER)).await?;
        assert!(next(&*server).await.is_some());
        // An unconnected socket hears nothing of the error and goes on.
        assert_eq!(next(&*client).await, None);
        let text = String::from_utf8(recording.bytes())?;
        let told = |l: &&str| l.contains(" home 203.0.113.1:0 10.0.1.2:0 icmp ");
        assert_eq!(text.lines().filter(told).filter(|l| l.ends_with("delivered")).count(), 1);
        Ok(())
    });
}

#[test]
fn the_ports_of_a_host_run_out() {
    check(7, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::Open, Wire::default(), Wire::default());
        let mut all = Vec::new();
        let error = loop {
            match pair.client.udp_bind(addr("0.0.0.0:0")).await {
                Ok(socket) => all.push(socket),
                Err(e) => break e,
            }
        };
        assert_eq!((error.kind(), all.len()), (ErrorKind::AddrInUse, 60_999 - 32_768 + 1));
        // Other addresses and versions have ports of their own.
        assert!(pair.client.udp_bind(addr("[::]:0")).await.is_ok());
        let port = all[0].local_addr()?.port();
        for text in [format!("127.0.0.1:{port}"), format!("198.19.1.2:{port}")] {
            let taken = pair.client.udp_bind(addr(&text)).await;
            assert_eq!(taken.err().map(|e| e.kind()), Some(ErrorKind::AddrInUse), "{text}");
        }
        drop(all.swap_remove(0));
        assert!(pair.client.udp_bind(addr(&format!("127.0.0.1:{port}"))).await.is_ok());
        Ok(())
    });
}

#[test]
fn many_datagrams_go_and_come_in_one_call() {
    check(8, async |stage| -> Outcome {
        let pair = Pair::new(stage, Preset::FullCone, latency(5), latency(5));
        let server = pair.server.udp_bind(addr("0.0.0.0:53")).await?;
        let client = pair.client.udp_bind(addr("0.0.0.0:4000")).await?;
        let data = content(2_500, 1);
        let batch = Transmit { segment_size: Some(1_000), ..transmit(&data, SERVER) };
        client.try_send(&Transmit { ecn: Some(EcnCodepoint::Ect0), ..batch })?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut bufs = [[0; 1_200]; 4];
        let mut meta = [RecvMeta::default(); 4];
        let used = std::future::poll_fn(|cx| {
            let mut slices = bufs.each_mut().map(|b| IoSliceMut::new(b));
            server.poll_recv(cx, &mut slices, &mut meta)
        });
        assert_eq!(used.await?, 3);
        let got: Vec<u8> = bufs.iter().zip(&meta).flat_map(|(b, m)| b[..m.len].to_vec()).collect();
        assert!(got == data);
        for one in &meta[..3] {
            assert_eq!(one.addr.ip(), pair.home.outside);
            assert_eq!(one.ecn, Some(EcnCodepoint::Ect0), "it passes the NAT");
            assert_eq!(one.dst_ip, Some(addr(SERVER).ip()));
        }
        let many = Transmit { segment_size: Some(1), ..transmit(&[0; 65], SERVER) };
        assert_eq!(client.try_send(&many).unwrap_err().kind(), ErrorKind::InvalidInput);
        let wrong = client.send_to(b"x", addr("[2001:db8:1::1]:53")).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
        Ok(())
    });
}
