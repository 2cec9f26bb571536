//! For fuzzers: what is private here, fed with any bytes. Panics where something does not hold.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use is::{DefaultSha1HmacProvider, Sha1HmacProvider as _};

use super::candidates::{Candidate, CandidateKind, Screen, refusal};
use super::demux::{STUN_HEADER, is_request};
use super::ice::{Agent, Credentials, Message, Way};

/// Frames of a message link.
pub fn link_frames(data: &[u8]) {
    super::link::wire::fuzz(data);
}

/// Messages on their way; a network loses the rest.
const FLIGHT: usize = 64;
/// Most messages that one step makes an agent send.
const BURST: usize = 256;

const KINDS: [CandidateKind; 4] =
    [CandidateKind::Host, CandidateKind::Mapped, CandidateKind::Reflexive, CandidateKind::Relayed];

/// An agent with its addresses, and what it sent.
struct Side {
    agent: Agent,
    flight: VecDeque<Message>,
}

impl Side {
    fn new(name: &str, controlling: bool, net: u8) -> Self {
        let own = credentials(name);
        let mut agent = Agent::new(&own, controlling, u64::from(net), Screen::new(false, []));
        let base = base(usize::from(net) - 1);
        let outside = SocketAddr::from(([9, 9, 9, net], 6_000));
        agent.add_local(CandidateKind::Host, base, base, 0);
        agent.add_local(CandidateKind::Reflexive, outside, base, 0);
        Self { agent, flight: VecDeque::new() }
    }

    fn drain(&mut self, now: Instant) {
        for n in 0.. {
            let Some(message) = self.agent.poll_transmit() else { break };
            assert!(n < BURST, "one step makes it send without end");
            assert_eq!(refusal(message.way.remote, false), None, "it is sent there");
            if self.flight.len() == FLIGHT {
                self.flight.pop_front();
            }
            self.flight.push_back(message);
        }
        let _ = (self.agent.route(now), self.agent.is_open(), self.agent.is_silent(now));
        self.agent.check_bounds();
    }
}

/// Where an agent's socket is.
fn base(side: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, if side == 0 { 1 } else { 2 }, 1], 5_000))
}

fn credentials(name: &str) -> Credentials {
    Credentials { ufrag: name.repeat(4), pwd: name.repeat(24) }
}

/// Makes the signature of a message good, and cuts off what follows it.
fn sign(message: &mut Vec<u8>, key: &str) {
    const INTEGRITY: u16 = 8;
    let mut at = STUN_HEADER;
    while let Some([a, b, c, d]) = message.get(at..).and_then(<[u8]>::first_chunk) {
        let end = at + 4 + usize::from(u16::from_be_bytes([*c, *d])).next_multiple_of(4);
        if u16::from_be_bytes([*a, *b]) != INTEGRITY {
            at = end;
            continue;
        }
        message.truncate(at + 24);
        message.resize(at + 24, 0);
        let length = u16::try_from(at + 24 - STUN_HEADER).unwrap_or_default();
        message[2..4].copy_from_slice(&length.to_be_bytes());
        let sum = DefaultSha1HmacProvider.sha1_hmac(key.as_bytes(), &[&message[..at]]);
        message[at + 4..].copy_from_slice(&sum);
        return;
    }
}

fn address(bytes: &[u8]) -> SocketAddr {
    let [a, b, c, d, high, low] = [0, 1, 2, 3, 4, 5].map(|n| bytes.get(n).copied().unwrap_or(0));
    let port = u16::from_be_bytes([high, low]);
    SocketAddr::from((Ipv4Addr::new(a, b, c, d), port))
}

/// Two agents with a meddler between them. `data` is steps: what, which, length of the bytes, bytes. Says
/// whether both found a way.
pub fn ice(mut data: &[u8]) -> bool {
    let mut now = tokio::time::Instant::now().into_std();
    let mut sides = [Side::new("a", true, 1), Side::new("b", false, 2)];
    let names = ["b", "a"];
    sides[0].agent.set_remote(now, &credentials("b"));
    // The answer, or the offer, may come late.
    let mut late = data.first().is_some_and(|what| what / 9 % 2 == 1);
    if !late {
        sides[1].agent.set_remote(now, &credentials("a"));
    }
    for (side, peer) in sides.iter_mut().zip([1, 0]) {
        let host = Candidate { kind: CandidateKind::Host, addr: base(peer), priority: 9 };
        let _ = side.agent.add_remote(&host);
    }
    while let [what, which, length, rest @ ..] = data {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let (n, choice) = (usize::from(which % 2), which / 2);
        let (from, to) = if n == 0 { (0, 1) } else { (1, 0) };
        match what % 9 {
            // Passed on, kept or not; changed; from another address.
            0..=3 => {
                let Some(Message { way, bytes: mut sent }) = sides[from].flight.pop_front() else {
                    continue;
                };
                let mut heard = Way { local: way.remote, remote: way.local };
                match what % 9 {
                    1 => {
                        let kept = Message { way, bytes: sent.clone() };
                        sides[from].flight.push_back(kept);
                    }
                    2 => {
                        for pair in bytes.chunks_exact(2) {
                            let at = usize::from(pair[0]) % sent.len().max(1);
                            if let Some(byte) = sent.get_mut(at) {
                                *byte = pair[1];
                            }
                        }
                        // The peer itself may be the meddler, and signs what it changes.
                        if choice % 2 == 1 {
                            let key = if is_request(&sent) { names[from] } else { names[to] };
                            sign(&mut sent, &credentials(key).pwd);
                        }
                    }
                    3 => heard.remote = address(bytes),
                    _ => {}
                }
                sides[to].agent.handle(now, heard, &sent);
            }
            4 => {
                let (local, remote) = (base(to), address(bytes));
                sides[to].agent.handle(
                    now,
                    Way { local, remote },
                    bytes.get(6..).unwrap_or_default(),
                );
            }
            5 => drop(sides[from].flight.pop_front()),
            6 => {
                now += Duration::from_millis(u64::from(choice) * 20);
                for side in &mut sides {
                    side.agent.handle_timeout(now);
                }
            }
            7 => {
                if std::mem::take(&mut late) {
                    sides[1].agent.set_remote(now, &credentials("a"));
                }
                let kind = KINDS[usize::from(choice) % 4];
                let priority = u32::from(choice) << 24;
                let _ =
                    sides[to].agent.add_remote(&Candidate { kind, addr: address(bytes), priority });
            }
            _ => {
                let base = SocketAddr::from(([10, 0, 1, 1], 5_000 + u16::from(choice % 4)));
                if choice % 8 < 4 {
                    sides[to].agent.add_local(CandidateKind::Host, base, base, choice.into());
                } else {
                    sides[to].agent.remove_local(base);
                }
            }
        }
        for side in &mut sides {
            side.drain(now);
        }
    }
    sides.iter().all(|side| side.agent.is_open())
}
