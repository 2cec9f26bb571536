//! A rest, as two agents see it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::rhythm::{BRISK, PULSE};
use crate::quic::candidates::{Candidate, CandidateKind, Screen};
use crate::quic::ice::{Agent, Credentials, Message, Way};

const A: &str = "192.168.1.1:40000";
const B: &str = "192.168.1.2:40000";

/// Two agents with one address each.
struct Two {
    agents: [Agent; 2],
    now: Instant,
}

impl Two {
    /// They have found their pair, and the brisk time is over.
    fn settled() -> Self {
        let creds = |n: &str| Credentials { ufrag: n.repeat(4), pwd: n.repeat(24) };
        let own = [creds("a"), creds("b")];
        let agent = |n: usize| {
            let screen = Screen::new(false, std::iter::empty());
            Agent::new(&own[n], n == 0, 7 + n as u64, screen)
        };
        let mut two =
            Self { agents: [agent(0), agent(1)], now: tokio::time::Instant::now().into_std() };
        let addrs: [SocketAddr; 2] = [A.parse().unwrap(), B.parse().unwrap()];
        for n in [0, 1] {
            let (addr, other) = (addrs[n], 1 - n);
            let added = two.agents[n].add_local(CandidateKind::Host, addr, addr, 0).unwrap();
            two.agents[other].set_remote(two.now, &own[n]);
            two.agents[other].add_remote(&added).unwrap();
        }
        for _ in 0..1_000 {
            two.step(Duration::from_millis(10));
        }
        assert!(two.agents.iter().all(Agent::is_open));
        two
    }

    /// Lets time pass, for both.
    fn step(&mut self, by: Duration) {
        self.now += by;
        for n in [0, 1] {
            if self.agents[n].poll_timeout(self.now) <= self.now {
                self.agents[n].handle_timeout(self.now);
            }
        }
        self.exchange();
    }

    /// Delivers what they have to say.
    fn exchange(&mut self) {
        for n in [0, 1, 0, 1] {
            while let Some(message) = self.agents[n].poll_transmit() {
                assert!(self.deliver(1 - n, &message));
            }
        }
    }

    fn deliver(&mut self, to: usize, message: &Message) -> bool {
        let Way { local, remote } = message.way;
        self.agents[to].handle(self.now, Way { local: remote, remote: local }, &message.bytes)
    }

    fn rest(&mut self) {
        let now = self.now;
        assert!(self.agents.iter_mut().all(|agent| agent.rest(now)));
    }

    fn is_quiet(&self) -> bool {
        self.agents.iter().all(|agent| !agent.is_silent(self.now))
    }
}

#[test]
fn a_resting_pair_lives_on_single_checks() {
    let mut two = Two::settled();
    let routes = [two.agents[0].route(two.now), two.agents[1].route(two.now)];
    two.rest();
    for _ in 0..50 {
        two.now += PULSE;
        let pulse = two.agents[0].pulse().unwrap();
        assert!(two.deliver(1, &pulse));
        let answer = two.agents[1].poll_transmit().unwrap();
        assert!(two.deliver(0, &answer));
        assert!(two.agents.iter_mut().all(|agent| agent.poll_transmit().is_none()));
        assert!(two.is_quiet());
        assert_eq!(two.agents[0].last_heard(), Some(two.now));
        assert_eq!(two.agents[1].last_heard(), Some(two.now));
    }
    two.now += PULSE;
    let now = two.now;
    for agent in &mut two.agents {
        agent.wake(now, false);
    }
    assert!(two.is_quiet(), "the pair had a right to be silent");
    for _ in 0..200 {
        two.step(Duration::from_millis(10));
        assert!(two.is_quiet());
    }
    assert_eq!(routes, [two.agents[0].route(two.now), two.agents[1].route(two.now)]);
    two.rest();
}

#[test]
fn only_the_peer_can_answer_for_it() {
    let mut two = Two::settled();
    two.rest();
    two.now += PULSE;
    let pulse = two.agents[0].pulse().unwrap();
    assert!(two.deliver(1, &pulse));
    let answer = two.agents[1].poll_transmit().unwrap();
    let mut forged = Message { way: answer.way, bytes: answer.bytes.clone() };
    *forged.bytes.last_mut().unwrap() ^= 1;
    // The last four bytes are the fingerprint, the twenty before them and a header the integrity.
    let at = forged.bytes.len() - 12;
    forged.bytes[at] ^= 1;
    let heard = two.agents[0].last_heard();
    assert!(!two.deliver(0, &forged));
    assert_eq!(two.agents[0].last_heard(), heard);
    assert!(two.deliver(0, &answer));
}

#[test]
fn a_doubt_does_not_trust_the_pair_any_more() {
    let mut two = Two::settled();
    two.rest();
    two.now += BRISK;
    assert!(two.is_quiet());
    let now = two.now;
    two.agents[0].wake(now, true);
    assert!(two.agents[0].is_silent(now));
    for _ in 0..10 {
        two.step(Duration::from_millis(10));
    }
    assert!(!two.agents[0].is_silent(two.now), "its check was answered");
}

#[test]
fn an_offer_that_names_a_victim_costs_it_few_checks() {
    let creds = |n: &str| Credentials { ufrag: n.repeat(4), pwd: n.repeat(24) };
    let start = tokio::time::Instant::now().into_std();
    let mut agent = Agent::new(&creds("a"), true, 7, Screen::new(false, std::iter::empty()));
    let base: SocketAddr = A.parse().unwrap();
    agent.add_local(CandidateKind::Host, base, base, 0).unwrap();
    agent.set_remote(start, &creds("b"));
    for n in 0..20 {
        let addr = SocketAddr::from(([198, 51, 100, 7], 40_000 + n));
        let kind = CandidateKind::Host;
        let _ = agent.add_remote(&Candidate { kind, addr, priority: 1000 + u32::from(n) });
    }
    let (mut sent, mut free) = (0, 0);
    for millis in 0..20_000 {
        let now = start + Duration::from_millis(millis);
        if agent.poll_timeout(now) <= now {
            agent.handle_timeout(now);
        }
        while let Some(message) = agent.poll_transmit() {
            sent += 1;
            free += usize::from(agent.is_free(message.way.remote.ip()));
        }
    }
    assert_eq!([sent, free], [60, 40]);
}
