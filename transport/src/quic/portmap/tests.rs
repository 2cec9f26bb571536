//! The state machine against routers that answer as they should, and as they should not.

use super::*;
use proptest::prelude::*;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const INTERNAL: u16 = 40_000;
const NONCE: [u8; 12] = [9; 12];

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn mapper(now: Instant) -> PortMapper {
    PortMapper::new(now, OWN, INTERNAL, NONCE)
}

/// A PCP router's word on a request.
fn pcp(request: &[u8], result: u8, external: &str, seconds: u32) -> Vec<u8> {
    let external: SocketAddr = external.parse().unwrap();
    let IpAddr::V4(ip) = external.ip() else { panic!("{external}") };
    let mut answer = vec![PCP, RESPONSE | PCP_MAP, 0, result];
    answer.extend(seconds.to_be_bytes());
    answer.extend([0; 16]);
    answer.extend(&request[24..42]);
    answer.extend(external.port().to_be_bytes());
    answer.extend(ip.to_ipv6_mapped().octets());
    answer
}

/// A NAT-PMP router's.
fn pmp(request: &[u8], result: u16, external: &str, seconds: u32) -> Vec<u8> {
    let external: SocketAddr = external.parse().unwrap();
    let IpAddr::V4(ip) = external.ip() else { panic!("{external}") };
    let operation = if request[0] == PMP { request[1] } else { 0 };
    let mut answer = vec![PMP, RESPONSE | operation];
    answer.extend(if request[0] == PMP { result } else { UNSUPPORTED_VERSION }.to_be_bytes());
    answer.extend([0; 4]);
    match operation {
        PMP_ADDRESS => answer.extend(ip.octets()),
        _ => {
            answer.extend(&request[4..6]);
            answer.extend(external.port().to_be_bytes());
            answer.extend(seconds.to_be_bytes());
        }
    }
    answer
}

const GOOD: &str = "203.0.113.7:40000";

#[tokio::test(start_paused = true)]
async fn pcp_grants_and_is_asked_again_at_half_the_lifetime() {
    let now = Instant::now();
    let mut mapper = mapper(now);
    let request = mapper.poll_transmit(now).unwrap();
    assert_eq!(request.len(), 60);
    assert_eq!(request[4..8], 1200_u32.to_be_bytes());
    assert_eq!(request[8..24], OWN.to_ipv6_mapped().octets());
    assert_eq!(mapper.poll_transmit(now), None);
    assert_eq!(mapper.mapping(now), Err(NoMapping::Silent));
    mapper.handle(now, &pcp(&request, 0, GOOD, 1000));
    let mapping = mapper.mapping(now).unwrap();
    assert_eq!((mapping.external, mapping.protocol), (GOOD.parse().unwrap(), Protocol::Pcp));
    assert_eq!(mapping.until, now + second(1000));
    assert_eq!(mapper.deadline(), now + second(500));
    assert_eq!(mapper.poll_transmit(now + second(499)), None);
    let again = mapper.poll_transmit(now + second(500)).unwrap();
    assert_eq!(again[24..36], NONCE, "a renewal is known by its nonce");
    mapper.handle(now + second(501), &pcp(&again, 0, GOOD, 1000));
    assert_eq!(mapper.mapping(now + second(501)).unwrap().until, now + second(1501));
}

#[tokio::test(start_paused = true)]
async fn nat_pmp_is_spoken_where_pcp_is_not() {
    let now = Instant::now();
    for silent in [false, true] {
        let mut mapper = mapper(now);
        let first = mapper.poll_transmit(now).unwrap();
        let mut at = now;
        if silent {
            while mapper.poll_transmit(at).is_none_or(|r| r[0] == PCP) {
                at = mapper.deadline();
            }
        } else {
            mapper.handle(now, &pmp(&first, 0, GOOD, 0));
            assert_eq!(mapper.poll_transmit(now), Some(vec![PMP, PMP_ADDRESS]));
        }
        mapper.handle(at, &pmp(&[PMP, PMP_ADDRESS], 0, GOOD, 0));
        let map = mapper.poll_transmit(at).unwrap();
        assert_eq!(map[..4], [PMP, PMP_MAP_UDP, 0, 0]);
        mapper.handle(at, &pmp(&map, 0, GOOD, 7200));
        let mapping = mapper.mapping(at).unwrap();
        assert_eq!((mapping.external, mapping.protocol), (GOOD.parse().unwrap(), Protocol::NatPmp));
        let later = at + second(3600);
        assert_eq!(mapper.poll_transmit(later), Some(vec![PMP, PMP_ADDRESS]), "not PCP again");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_our_question_is_ignored() {
    let now = Instant::now();
    let mut mapper = mapper(now);
    let request = mapper.poll_transmit(now).unwrap();
    let good = pcp(&request, 0, GOOD, 1000);
    for byte in [0, 1, 24, 35, 36, 40, 41] {
        let mut forged = good.clone();
        forged[byte] ^= 0x41;
        mapper.handle(now, &forged);
        assert_eq!(mapper.mapping(now), Err(NoMapping::Silent), "byte {byte}");
        assert!(mapper.is_asking());
    }
    mapper.handle(now, &good[..59]);
    mapper.handle(now, &vec![PCP; 1500]);
    assert!(mapper.is_asking());
    mapper.handle(now, &good);
    let stolen = pcp(&request, 0, "198.51.100.66:6666", 1000);
    mapper.handle(now, &stolen);
    assert_eq!(mapper.mapping(now).unwrap().external, GOOD.parse().unwrap(), "nobody asked");
}

#[tokio::test(start_paused = true)]
async fn addresses_that_nobody_may_send_to_are_not_taken() {
    let now = Instant::now();
    for bad in [
        "127.0.0.1:40000",
        "0.0.0.0:40000",
        "224.0.0.1:40000",
        "255.255.255.255:40000",
        "169.254.1.1:40000",
        "192.168.9.9:40000",
        "10.0.0.1:40000",
        "100.64.0.1:40000",
        "203.0.113.7:22",
        "203.0.113.7:0",
    ] {
        let mut pcp_mapper = mapper(now);
        let request = pcp_mapper.poll_transmit(now).unwrap();
        pcp_mapper.handle(now, &pcp(&request, 0, bad, 1000));
        let expected = Err(NoMapping::Useless(bad.parse().unwrap()));
        assert_eq!(pcp_mapper.mapping(now), expected);
        let mut pmp_mapper = mapper(now);
        let request = pmp_mapper.poll_transmit(now).unwrap();
        pmp_mapper.handle(now, &pmp(&request, 0, bad, 0));
        pmp_mapper.handle(now, &pmp(&[PMP, PMP_ADDRESS], 0, bad, 0));
        let request = pmp_mapper.poll_transmit(now).unwrap();
        pmp_mapper.handle(now, &pmp(&request, 0, bad, 1000));
        assert_eq!(pmp_mapper.mapping(now), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_and_silence_are_followed_by_a_rest() {
    let now = Instant::now();
    let mut refused = mapper(now);
    let request = refused.poll_transmit(now).unwrap();
    refused.handle(now, &pcp(&request, 2, GOOD, 3));
    let why = refused.mapping(now).unwrap_err();
    assert_eq!(why.to_string(), "PCP result 2, not authorized: the router has it switched off");
    assert_eq!(refused.deadline(), now + REST);
    refused.refresh();
    assert_eq!(refused.deadline(), now + LEAST_REST, "no sooner, whoever wants it");

    let mut silent = mapper(now);
    let mut sent = 0;
    while silent.is_asking() {
        let at = silent.deadline();
        sent += std::iter::from_fn(|| silent.poll_transmit(at)).count();
    }
    assert_eq!(sent, 6, "PCP and the question for the address, three times each");
    assert_eq!(silent.deadline(), now + 2 * PATIENCE + REST);
}

#[tokio::test(start_paused = true)]
async fn a_mapping_outlives_a_renewal_that_nobody_answers_and_ends_in_time() {
    let now = Instant::now();
    let mut mapper = mapper(now);
    let request = mapper.poll_transmit(now).unwrap();
    mapper.handle(now, &pcp(&request, 0, GOOD, 1200));
    let mut at = now;
    let mut sent = 0;
    while at < now + second(1200) {
        at = mapper.deadline();
        assert_eq!(mapper.mapping(at).is_ok(), at < now + second(1200));
        sent += std::iter::from_fn(|| mapper.poll_transmit(at)).count();
    }
    assert!(sent <= 5 * REQUESTS_PER_ROUND, "{sent}");
    assert_eq!(mapper.mapping(at), Err(NoMapping::Silent));
    assert!(mapper.deadline() > at, "the end is news only once");
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_has_no_lifetime() {
    let now = Instant::now();
    let mut mapper = mapper(now);
    assert_eq!(mapper.release(), None);
    let request = mapper.poll_transmit(now).unwrap();
    mapper.handle(now, &pcp(&request, 0, GOOD, 1200));
    let release = mapper.release().unwrap();
    assert_eq!(release[4..8], [0; 4]);
    assert_eq!(release[24..36], NONCE);
    assert_eq!(release[42..44], [0; 2]);
}

proptest! {
    /// Whatever a router answers, it is asked a bounded number of times, and time goes on.
    #[test]
    fn no_router_makes_it_panic_or_hurry(
        answers in proptest::collection::vec(
            (any::<u8>(), 0_u8..3, proptest::collection::vec(any::<u8>(), 0..80), any::<u64>()),
            0..60,
        ),
    ) {
        let start = Instant::now();
        let (mut now, mut sent) = (start, 0);
        let mut mapper = PortMapper::new(now, OWN, INTERNAL, NONCE);
        for (kind, result, bytes, wait) in answers {
            while let Some(request) = mapper.poll_transmit(now) {
                sent += 1;
                match kind % 4 {
                    0 if request[0] == PCP => {
                        let seconds = u32::try_from(wait % (1 << 32)).unwrap();
                        mapper.handle(now, &pcp(&request, result, GOOD, seconds));
                    }
                    1 => mapper.handle(now, &pmp(&request, result.into(), GOOD, 0)),
                    _ => mapper.handle(now, &bytes),
                }
            }
            let next = mapper.deadline();
            prop_assert!(next > now);
            now = next + Duration::from_millis(wait % 1000);
        }
        let rounds = (now - start).as_secs() / 60 + 1;
        let most = usize::try_from(rounds).unwrap() * REQUESTS_PER_ROUND;
        prop_assert!(sent <= most, "{sent} in {rounds} rounds");
    }
}
