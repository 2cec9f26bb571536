//! Answers to `netcheck`'s questions, from servers that say what they like.

use std::net::SocketAddr;
use std::time::Duration;

use meshwire_transport::netcheck::{Discovery, Family, MAX_REQUESTS, Socket, Transmit};
use meshwire_transport::quic::candidates::refusal;
use tokio::time::Instant;

use crate::steps::steps;

/// How often each request is sent at most.
const TRIES: usize = 4;
/// It ends within this, whatever comes.
const LONGEST: Duration = Duration::from_millis(6_500);

pub(crate) fn run(data: &[u8]) {
    reach(data);
}

/// Gives what was found out.
pub(crate) fn reach(data: &[u8]) -> Family {
    let servers: [SocketAddr; 2] =
        [([203, 0, 113, 1], 3_478).into(), ([203, 0, 113, 2], 3_478).into()];
    let start = Instant::now();
    let mut now = start;
    let mut discovery = Discovery::new(now, &servers, [7; 8], true);
    let mut sent: Vec<Transmit> = Vec::new();
    let local = SocketAddr::from(([192, 168, 1, 2], 5_000));
    for step in steps(data) {
        while let Some(transmit) = discovery.poll_transmit(now) {
            assert!(
                servers.contains(&transmit.to) || refusal(transmit.to, false).is_none(),
                "{}",
                transmit.to
            );
            assert!(transmit.bytes.len() <= 1_500);
            sent.push(transmit);
        }
        assert!(sent.len() <= MAX_REQUESTS * TRIES, "{} packets", sent.len());
        let Some(asked) = sent.get(usize::from(step.which) % sent.len().max(1)) else { break };
        let answer = |kind: [u8; 2], attributes: &[u8]| {
            let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
            [&kind[..], &length, &asked.bytes[4..20], attributes].concat()
        };
        let (to, socket) = (asked.to, asked.socket);
        let answer = match step.what % 6 {
            0 => answer([1, 1], step.bytes),
            1 => answer([1, 0x11], step.bytes),
            2 => asked.bytes.clone(),
            3 => step.bytes.to_vec(),
            4 => {
                now += Duration::from_millis(u64::from(step.which) * 4);
                continue;
            }
            _ => {
                discovery.unsent(&asked.clone(), "no route".to_owned());
                continue;
            }
        };
        let socket = match (step.what / 6 % 2, socket) {
            (0, socket) => socket,
            (_, Socket::Main) => Socket::Second,
            (_, Socket::Second) => Socket::Main,
        };
        let from = if step.what / 12 % 2 == 0 { to } else { servers[1] };
        discovery.handle(now, socket, from, Some(local), &answer);
        let _ = discovery.facts();
    }
    while let Some(next) = discovery.deadline() {
        now = now.max(next);
        while discovery.poll_transmit(now).is_some() {}
        assert!(
            now - start <= LONGEST + Duration::from_secs(1) * u32::try_from(data.len()).unwrap()
        );
    }
    discovery.facts()
}
