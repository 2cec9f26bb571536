//! The tests against servers that answer as they like.

use super::*;
use crate::netcheck::facts::Dependence;
use proptest::prelude::*;

const SERVER: &str = "203.0.113.1:3478";
const OWN: &str = "192.168.1.2:5000";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A Binding success.
fn answer(request: &[u8], mapped: &str, other: &str) -> Vec<u8> {
    let plain = |kind: u16, addr: &str| {
        let addr = at(addr);
        let std::net::IpAddr::V4(ip) = addr.ip() else { panic!("{addr}") };
        let [port, kind] = [addr.port().to_be_bytes(), kind.to_be_bytes()];
        [&kind[..], &[0, 8, 0, 1], &port, &ip.octets()].concat()
    };
    let header = [&[1, 1, 0, 24], &request[4..20]].concat();
    [header, plain(1, mapped), plain(0x802c, other)].concat()
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_answers_and_says_whether_anything_was_sent() {
    let start = Instant::now();
    for (fails, expected) in [(false, Udp::Silent), (true, Udp::NoRoute("no route".into()))] {
        let mut discovery = Discovery::new(start, &[at(SERVER), at(SERVER)], [7; 8], true);
        let (mut sent, mut now) = (0, start);
        while let Some(next) = discovery.deadline() {
            now = next;
            while let Some(transmit) = discovery.poll_transmit(now) {
                sent += 1;
                if fails {
                    discovery.unsent(&transmit, "no route".into());
                }
            }
        }
        assert_eq!((sent, now - start), (TRIES.len(), PATIENCE));
        assert_eq!(discovery.facts().udp, expected);
    }
    assert_eq!(Discovery::new(start, &[], [7; 8], true).deadline(), None);
}

/// Whatever it is told of other addresses and of ours, it sends to none that is forbidden, and few
/// packets to any.
#[tokio::test(start_paused = true)]
async fn a_server_cannot_make_it_knock_at_others() {
    for (victim, most) in [
        // Alternates and the hairpin: RFC 5780 cannot be had for less.
        ("198.51.100.66:5060", 3 * TRIES.len()),
        ("198.51.100.66:22", 0),
        ("127.0.0.1:5060", 0),
        ("224.0.0.1:5060", 0),
        ("169.254.1.1:5060", 0),
        ("0.0.0.0:5060", 0),
    ] {
        let mut now = Instant::now();
        let mut discovery = Discovery::new(now, &[at(SERVER)], [7; 8], true);
        let mut sent = 0;
        while let Some(next) = discovery.deadline() {
            now = next;
            while let Some(t) = discovery.poll_transmit(now) {
                sent += usize::from(t.to == at(victim));
                let said = answer(&t.bytes, victim, victim);
                discovery.handle(now, t.socket, t.to, Some(at(OWN)), &said);
            }
        }
        assert!(sent <= most, "{sent} packets to {victim}");
    }
}

/// A server that does not know CHANGE-REQUEST answers from where it was asked.
#[tokio::test(start_paused = true)]
async fn an_old_server_tells_nothing_of_filters() {
    let mut now = Instant::now();
    let mut discovery = Discovery::new(now, &[at(SERVER)], [7; 8], false);
    while let Some(next) = discovery.deadline() {
        now = next;
        while let Some(t) = discovery.poll_transmit(now) {
            let said = answer(&t.bytes, "198.51.100.7:5000", "203.0.113.2:3479");
            discovery.handle(now, t.socket, t.to, Some(at(OWN)), &said);
        }
    }
    let facts = discovery.facts();
    assert_eq!(facts.mapping, Possible::only(Dependence::EndpointIndependent));
    assert!(facts.filtering.is_unknown());
    assert_eq!((facts.mtu, facts.hairpin), (PathMtu::NotMeasured, Some(false)));
    assert_eq!(facts.port_kept, Some(true));
}

proptest! {
    /// Any datagrams from anywhere, some of them with transactions of ours.
    #[test]
    fn nothing_makes_it_panic_or_go_on_for_ever(
        rows in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), any::<u8>(), any::<u16>(),
             proptest::collection::vec(any::<u8>(), 0..60), 0_u64..400),
            0..80,
        ),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut discovery = Discovery::new(now, &[at(SERVER)], [7; 8], true);
        let mut rows = rows.into_iter();
        let mut sent = 0;
        while let Some(next) = discovery.deadline() {
            let row = rows.next();
            now = row.as_ref().map_or(next, |r| next.min(now + Duration::from_millis(r.5)));
            while discovery.poll_transmit(now).is_some() {
                sent += 1;
            }
            let Some((ours, main, n, port, bytes, _)) = row else { continue };
            let socket = if main { Socket::Main } else { Socket::Second };
            let mut said = answer(&[0; 20], "198.51.100.7:5000", "203.0.113.2:3479");
            said[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
            said[8..20].copy_from_slice(&discovery.transaction(usize::from(n % 32)));
            if !ours {
                said.truncate(20);
                said.extend(&bytes);
            }
            let from = if port % 2 == 0 { at(SERVER) } else { SocketAddr::new(at(SERVER).ip(), port) };
            discovery.handle(now, socket, from, Some(at(OWN)), &said);
        }
        prop_assert!(sent <= MAX_REQUESTS * TRIES.len(), "{sent}");
        prop_assert!(now - start <= Duration::from_millis(6_500), "{:?}", now - start);
        let _ = discovery.facts();
    }
}
