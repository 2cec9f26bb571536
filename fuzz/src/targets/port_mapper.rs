//! A router's answers to PCP and NAT-PMP.

use std::time::Duration;

use meshwire_transport::quic::candidates::refusal;
use meshwire_transport::quic::portmap::{PortMapper, REQUESTS_PER_ROUND};
use tokio::time::Instant;

use crate::steps::{fixed, steps};

const NONCE: [u8; 12] = [9; 12];
const INTERNAL: u16 = 40_000;

pub(crate) fn run(data: &[u8]) {
    reach(data);
}

/// Says how many answers left a port mapped.
pub(crate) fn reach(data: &[u8]) -> usize {
    let mut granted = 0;
    let start = Instant::now();
    let mut now = start;
    let mut mapper = PortMapper::new(now, [192, 168, 1, 2].into(), INTERNAL, NONCE);
    let (mut sent, mut last) = (0, Vec::new());
    for step in steps(data) {
        while let Some(request) = mapper.poll_transmit(now) {
            assert!(request.len() <= 60);
            sent += 1;
            last = request;
        }
        // Rounds are a minute apart, whatever it answers.
        let rounds = usize::try_from((now - start).as_secs() / 60).unwrap() + 1;
        assert!(sent <= rounds * REQUESTS_PER_ROUND, "{sent} packets in {:?}", now - start);
        match step.what % 6 {
            0 => mapper.handle(now, step.bytes),
            1 => mapper.handle(now, &pcp(step.bytes)),
            2 => mapper.handle(now, &pmp(&last, step.bytes)),
            3 => now += Duration::from_millis(u64::from(step.which) * 10),
            4 => now += Duration::from_secs(u64::from(step.which) * 30),
            _ => mapper.refresh(),
        }
        if let Ok(mapping) = mapper.mapping(now) {
            let external = mapping.external;
            assert_eq!(refusal(external, false), None, "{external}");
            granted += 1;
            assert!(mapping.until > now && mapping.until <= now + Duration::from_secs(86_400));
        }
        assert!(mapper.release().is_none_or(|bytes| bytes.len() <= 60));
        let _ = (mapper.deadline(), mapper.is_asking());
    }
    granted
}

/// A PCP answer to us: result, lifetime, external port and address are the bytes.
fn pcp(bytes: &[u8]) -> Vec<u8> {
    let [result, a, b, c, d, high, low, ip @ ..] = fixed::<11>(bytes);
    let mut answer = vec![2, 0x81, 0, result, a, b, c, d];
    answer.extend([0; 16]);
    answer.extend(NONCE);
    answer.extend([17, 0, 0, 0]);
    answer.extend(INTERNAL.to_be_bytes());
    answer.extend([high, low]);
    answer.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    answer.extend(ip);
    answer
}

/// A NAT-PMP answer to what was asked last.
fn pmp(asked: &[u8], bytes: &[u8]) -> Vec<u8> {
    let [result, a, b, c, d, high, low, rest @ ..] = fixed::<11>(bytes);
    let operation = if asked.len() == 2 || asked.len() == 12 { asked[1] } else { 0 };
    let version = if asked.first() == Some(&0) { 0 } else { result };
    let mut answer = vec![0, 0x80 | operation, 0, version, 0, 0, 0, 0];
    match operation {
        0 => answer.extend([a, b, c, d]),
        _ => {
            answer.extend(INTERNAL.to_be_bytes());
            answer.extend([high, low]);
            answer.extend(rest);
        }
    }
    answer
}
