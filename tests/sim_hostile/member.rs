//! A member that offers addresses which are not its own: what its peer sends, and whereto, is counted on
//! the wire.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshwire_signaling::AttemptId;
use meshwire_signaling::frame::P2pKind;
use meshwire_signaling::p2p::quic::{Candidate, CandidateKind, Candidates, Content, Ports};
use meshwire_transport::link::{LinkError, LinkEvent};
use meshwire_transport::relay::RelayLink;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

use super::town::{Stranger, Town, with, within};

/// The checks of one attempt, and what its packets to a STUN or TURN server may be mistaken for.
const CHECKS: usize = 420;
/// Addresses of one attempt.
const ADDRESSES: usize = 20;

/// UDP datagrams of bob's machine since a moment, by destination.
fn sent_by_bob(trace: &str) -> BTreeMap<SocketAddr, usize> {
    let mut sent = BTreeMap::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [_, "bob", _, to, "udp", _, "sent"] = words[..] {
            *sent.entry(to.parse().unwrap()).or_default() += 1;
        }
    }
    sent
}

async fn eve(town: &Town) -> (Stranger, Arc<RelayLink>, mpsc::Receiver<LinkEvent>) {
    let (mesh, _) = town.key("ana").await;
    let eve = Stranger::new(town, mesh);
    let (link, events) = eve.join(town).await;
    (eve, link, events)
}

/// Offers until it is answered: bob may have to hear of eve first.
async fn is_answered(
    town: &Town,
    eve: &Stranger,
    link: &RelayLink,
    events: &mut mpsc::Receiver<LinkEvent>,
    addresses: &[SocketAddr],
) {
    let (_, bob) = town.key("bob").await;
    loop {
        link.p2p(eve.offer(bob, addresses)).await.unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(3), async {
            loop {
                match events.recv().await {
                    Some(LinkEvent::P2p(step)) if step.kind == P2pKind::Answer => return,
                    Some(_) => {}
                    None => panic!("eve's link is closed"),
                }
            }
        });
        if answered.await.is_ok() {
            return;
        }
    }
}

/// Whether an address is none that anybody may make bob send to.
fn is_forbidden(to: &SocketAddr) -> bool {
    let lan: IpAddr = "10.0.2.255".parse().unwrap();
    let ip = to.ip();
    let known = |ip: &str| to.ip() == ip.parse::<IpAddr>().unwrap();
    to.port() < 1_024
        || ip.is_loopback()
        || ip.is_multicast()
        || ip.is_unspecified()
        || ip == lan
        || known("255.255.255.255")
        || known("169.254.1.1")
        || known("240.0.0.1")
}

#[test]
fn nothing_goes_to_forbidden_addresses() {
    with(&["ana", "bob"], 201, async |town| {
        let (eve, link, mut events) = eve(town).await;
        let trace = town.world.sim().record();
        let victim = town.eve.addresses()[0];
        let bad = [
            "127.0.0.1:5000",
            "127.9.9.9:41000",
            "[::1]:5000",
            "224.0.0.251:5353",
            "[ff02::1]:5353",
            "255.255.255.255:5000",
            "10.0.2.255:5000",
            "169.254.1.1:5000",
            "0.0.0.0:5000",
            "240.0.0.1:5000",
            "10.0.2.1:22",
            "10.0.2.1:1023",
        ];
        let mut addresses: Vec<SocketAddr> = bad.iter().map(|a| a.parse().unwrap()).collect();
        addresses.push(SocketAddr::new(victim, 22));
        // One that is allowed, so that there is something to be seen.
        addresses.push(SocketAddr::new(victim, 40_000));
        is_answered(town, &eve, &link, &mut events, &addresses).await;
        sleep(Duration::from_secs(15)).await;
        let sent = sent_by_bob(std::str::from_utf8(&trace.bytes()).unwrap());
        assert!(sent.contains_key(&SocketAddr::new(victim, 40_000)), "{sent:?}");
        let wrong: Vec<_> = sent.keys().filter(|to| is_forbidden(to)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    });
}

#[test]
fn a_thousand_candidates_are_a_few_checks() {
    with(&["ana", "bob"], 211, async |town| {
        let (eve, link, mut events) = eve(town).await;
        let (_, bob) = town.key("bob").await;
        let victim = town.eve.addresses()[0];
        let at = |n: u16| SocketAddr::new(victim, 40_000 + n);
        // So that bob knows eve.
        is_answered(town, &eve, &link, &mut events, &[]).await;
        sleep(Duration::from_secs(20)).await;
        let trace = town.world.sim().record();
        // More in one list than there may be: the whole offer is void.
        let many: Vec<_> = (0..200).map(at).collect();
        link.p2p(eve.offer(bob, &many)).await.unwrap();
        sleep(Duration::from_secs(15)).await;
        let of = |text: &str| -> Vec<usize> {
            let sent = sent_by_bob(text);
            let theirs =
                sent.into_iter().filter(|(to, _)| to.ip() == victim && to.port() >= 40_000);
            theirs.map(|(_, count)| count).collect()
        };
        let text = String::from_utf8(trace.bytes()).unwrap();
        assert_eq!(of(&text), Vec::<usize>::new(), "checks for an offer that is malformed");
        // Twenty at a time, a thousand in all: by the broker as far as it lets them, the rest as if the
        // broker were hers.
        let trace = town.world.sim().record();
        let attempt = AttemptId([9; 16]);
        let first: Vec<_> = (0..20).map(at).collect();
        let (offer, hash) = eve.step(bob, attempt, 0, None, offer_of(&first));
        link.p2p(offer).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        let mut limited = false;
        for batch in 1..50_u16 {
            let candidates = (0..20).map(|n| candidate(at(20 * batch + n))).collect();
            let more = Content::Candidate(Candidates { candidates, ..Candidates::default() });
            let (step, _) = eve.step(bob, attempt, batch.into(), Some(hash), more);
            match link.p2p(step.clone()).await {
                Ok(()) => {}
                Err(LinkError::Refused(e)) if e.code == "rate_limited" => {
                    limited = true;
                    town.meddler.inject(step);
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert!(limited, "the broker carries as many steps as one likes");
        sleep(Duration::from_secs(30)).await;
        let counts = of(std::str::from_utf8(&trace.bytes()).unwrap());
        assert!((1..=ADDRESSES).contains(&counts.len()), "{} addresses", counts.len());
        let all: usize = counts.iter().sum();
        assert!((1..=CHECKS).contains(&all), "{all} checks: {counts:?}");
    });
}

/// Words alone make nobody guess ports: there must be a connection through a server first.
#[test]
fn words_about_ports_start_nothing() {
    with(&["ana", "bob"], 231, async |town| {
        let (eve, link, mut events) = eve(town).await;
        let (_, bob) = town.key("bob").await;
        let victim = SocketAddr::new(town.eve.addresses()[0], 40_000);
        is_answered(town, &eve, &link, &mut events, &[]).await;
        sleep(Duration::from_secs(20)).await;
        let trace = town.world.sim().record();
        let attempt = AttemptId([8; 16]);
        let mut offer = offer_of(&[victim]);
        if let Content::Offer(params) = &mut offer {
            params.candidates[0].kind = CandidateKind::Srflx;
        }
        let (offer, hash) = eve.step(bob, attempt, 0, None, offer);
        link.p2p(offer).await.unwrap();
        for (seq, ports) in (1..).zip([Ports::Kept, Ports::Opened].into_iter().cycle()).take(20) {
            sleep(Duration::from_millis(700)).await;
            let more = Candidates { ports: Some(ports), ..Candidates::default() };
            let (step, _) = eve.step(bob, attempt, seq, Some(hash), Content::Candidate(more));
            town.meddler.inject(step);
        }
        sleep(Duration::from_secs(10)).await;
        let sent = sent_by_bob(std::str::from_utf8(&trace.bytes()).unwrap());
        let theirs: Vec<_> = sent.iter().filter(|(to, _)| to.ip() == victim.ip()).collect();
        assert!(matches!(theirs[..], [(to, 1..=CHECKS)] if *to == victim), "{theirs:?}");
        within("mail", town.talk("ana", "bob")).await;
    });
}

/// Each offer begins an attempt, which costs its checks: so they are not taken up as fast as they come.
#[test]
fn a_hundred_offers_are_a_few_attempts() {
    with(&["ana", "bob"], 221, async |town| {
        let (eve, link, mut events) = eve(town).await;
        let (_, bob) = town.key("bob").await;
        let victim = town.eve.addresses()[0];
        is_answered(town, &eve, &link, &mut events, &[]).await;
        let trace = town.world.sim().record();
        let answers = town.meddler.said().len();
        for n in 0..100 {
            town.meddler.inject(eve.offer(bob, &[SocketAddr::new(victim, 50_000 + n)]));
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_secs(1)).await;
        let said = town.meddler.said().split_off(answers);
        let answers = said.iter().filter(|s| s.kind == P2pKind::Answer).count();
        assert!((1..=10).contains(&answers), "{answers} answers in 3 s");
        sleep(Duration::from_secs(20)).await;
        let sent = sent_by_bob(std::str::from_utf8(&trace.bytes()).unwrap());
        let theirs = sent.iter().filter(|(to, _)| to.ip() == victim && to.port() >= 50_000);
        let all: usize = theirs.map(|(_, count)| count).sum();
        assert!((1..=10 * CHECKS).contains(&all), "{all} checks");
        within("mail", town.talk("ana", "bob")).await;
    });
}

fn candidate(addr: SocketAddr) -> Candidate {
    Candidate { kind: CandidateKind::Host, addr, priority: 7, foundation: "1".to_owned() }
}

fn offer_of(addresses: &[SocketAddr]) -> Content {
    Content::Offer(meshwire_signaling::p2p::quic::Params {
        ufrag: "evil".to_owned(),
        pwd: "evilevilevilevilevilevil".to_owned(),
        tls: meshwire_signaling::Hash([1; 32]),
        candidates: addresses.iter().copied().map(candidate).collect(),
        relay_only: false,
        done: false,
    })
}
