//! A peer's addresses. The first byte says how they come: as the content of a `candidate` step, as the
//! text of one address in it, or read already (8 bytes each: kind, four of an address, port, family).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use meshwire_signaling::frame::P2pKind;
use meshwire_signaling::p2p::quic::{self, Content};
use meshwire_transport::quic::candidates::{
    Candidate, CandidateKind, LEAST_PORT, MAX_CANDIDATES, Screen, refusal,
};

const KINDS: [CandidateKind; 4] =
    [CandidateKind::Host, CandidateKind::Mapped, CandidateKind::Reflexive, CandidateKind::Relayed];

pub(crate) fn run(data: &[u8]) {
    let [how, rest @ ..] = data else { return };
    match how % 3 {
        0 => content(rest),
        1 => content(&line(rest)),
        _ => screened(rest.chunks_exact(8).map(candidate)),
    }
}

/// A content with one candidate whose address is this text, as MessagePack.
fn line(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(255)];
    let length = u8::try_from(text.len()).unwrap();
    let mut bytes = b"\x81\xaacandidates\x91\x84\xa4kind\xa4host\xa4addr".to_vec();
    match length {
        0..32 => bytes.push(0xa0 | length),
        _ => bytes.extend([0xd9, length]),
    }
    bytes.extend(text);
    bytes.extend(b"\xa8priority\x01\xaafoundation\xa11");
    bytes
}

fn candidate(bytes: &[u8]) -> Candidate {
    let [kind, a, b, c, d, high, low, family] = super::super::steps::fixed(bytes);
    let (v4, port) = (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
    let addr = match family % 4 {
        0 => SocketAddr::from((v4.to_ipv6_mapped(), port)),
        1 => {
            let segment = u16::from_be_bytes;
            let v6 = Ipv6Addr::new(segment([a, b]), segment([c, d]), 0, 0, 0, 0, 0, 1);
            SocketAddr::from((v6, port))
        }
        _ => SocketAddr::from((v4, port)),
    };
    Candidate { kind: KINDS[usize::from(kind) % 4], addr, priority: u32::from(kind) }
}

fn content(bytes: &[u8]) {
    let Ok(content) = Content::decode(P2pKind::Candidate, bytes) else { return };
    assert_eq!(Content::decode(P2pKind::Candidate, &content.encode()).as_ref(), Ok(&content));
    let Content::Candidate(quic::Candidates { candidates, .. }) = content else {
        panic!("another kind than asked for");
    };
    assert!(candidates.len() <= meshwire_signaling::limits::MAX_CANDIDATES);
    screened(candidates.into_iter().map(|c| {
        let kind = match c.kind {
            quic::CandidateKind::Host => CandidateKind::Host,
            quic::CandidateKind::Mapped => CandidateKind::Mapped,
            quic::CandidateKind::Relayed => CandidateKind::Relayed,
            quic::CandidateKind::Srflx | quic::CandidateKind::Prflx => CandidateKind::Reflexive,
        };
        Candidate { kind, addr: c.addr, priority: c.priority }
    }));
}

/// What passes is bounded, in all and by kind, and never forbidden.
fn screened(all: impl Iterator<Item = Candidate>) {
    let broadcast = [192, 168, 1, 255].into();
    let mut screen = Screen::new(false, [broadcast]);
    let mut taken: Vec<Candidate> = Vec::new();
    for candidate in all {
        let Candidate { kind, addr, .. } = candidate;
        if screen.take(&candidate).is_err() {
            continue;
        }
        assert_eq!(refusal(addr, false), None, "{addr}");
        assert!(!addr.ip().is_loopback() && !addr.ip().is_multicast(), "{addr}");
        assert!(addr.ip() != broadcast && addr.port() >= LEAST_PORT, "{addr}");
        assert!(taken.iter().all(|known| known.addr != addr), "{addr} twice");
        taken.push(candidate);
        assert!(taken.iter().filter(|c| c.kind == kind).count() <= kind.most(), "{kind:?}");
    }
    assert!(taken.len() <= MAX_CANDIDATES);
}
