//! A broker that rewrites, swaps, replays, delays and invents.

use std::net::SocketAddr;

use meshwire_peer::node::Misbehaviour;
use meshwire_signaling::PublicKey;
use meshwire_signaling::frame::{P2pFrame, P2pKind};
use meshwire_transport::net::Net as _;
use tokio::time::{Duration, sleep, timeout};

use super::town::{Stranger, with};

/// What is done to a step.
type Twist = fn(&mut P2pFrame);

/// While a twist is at work no path comes up and all mail arrives; afterwards the right path does.
fn twisted(seed: u64, kind: P2pKind, noticed: bool, twist: Twist) {
    with(&["ana", "bob"], seed, async |town| {
        town.meddler.rewrite(move |mut step| {
            if step.kind == kind {
                twist(&mut step);
            }
            vec![step]
        });
        assert!(!town.talks_for(25, "ana", "bob").await, "a path came up");
        let misdeeds = [town.misdeeds("ana"), town.misdeeds("bob")].concat();
        let told = misdeeds.contains(&Misbehaviour::TamperedNegotiation);
        assert_eq!(told, noticed, "{misdeeds:?}");
        town.meddler.be_honest();
        town.gets_direct("ana", "bob").await;
    });
}

#[test]
fn an_offer_that_was_changed_is_dropped_and_told_of() {
    let twists: [Twist; 3] = [
        |step| *step.payload.0.last_mut().unwrap() ^= 1,
        |step| step.attempt.0[0] ^= 1,
        |step| step.payload.0.truncate(40),
    ];
    for (seed, twist) in (101..).zip(twists) {
        twisted(seed, P2pKind::Offer, true, twist);
    }
}

#[test]
fn an_answer_that_was_changed_is_dropped_and_told_of() {
    twisted(111, P2pKind::Answer, true, |step| step.payload.0[30] ^= 0x80);
    twisted(112, P2pKind::Answer, true, |step| step.kind = P2pKind::Candidate);
    // Nothing is known of such an attempt.
    twisted(113, P2pKind::Answer, false, |step| step.attempt.0[5] ^= 1);
    twisted(114, P2pKind::Offer, false, |step| step.kind = P2pKind::Answer);
    twisted(115, P2pKind::Offer, false, |step| step.adapter = "webrtc".to_owned());
}

#[test]
fn steps_of_other_pairs_lead_nowhere() {
    with(&["ana", "bob", "cy"], 121, async |town| {
        let (_, bob) = town.key("bob").await;
        let (_, cy) = town.key("cy").await;
        // Who is to get a step of ana's gets the one that was for the other one.
        let mut last: Vec<(PublicKey, P2pFrame)> = Vec::new();
        town.meddler.rewrite(move |step| {
            last.retain(|(to, old)| *to != step.to || old.kind != step.kind);
            last.push((step.to, step.clone()));
            let other = if step.to == bob { cy } else { bob };
            let theirs = last.iter().find(|(to, old)| *to == other && old.kind == step.kind);
            let taken = theirs.map(|(_, old)| P2pFrame { to: step.to, ..old.clone() });
            taken.into_iter().collect()
        });
        let (mut direct, mut misdeeds) = (false, Vec::new());
        for _ in 0..13 {
            direct |= town.talks_for(1, "ana", "bob").await;
            direct |= town.talks_for(1, "ana", "cy").await;
            misdeeds.extend([town.misdeeds("bob"), town.misdeeds("cy")].concat());
        }
        assert!(!direct, "a path came up");
        assert!(misdeeds.contains(&Misbehaviour::TamperedNegotiation), "{misdeeds:?}");
        town.meddler.be_honest();
        town.gets_direct("ana", "bob").await;
        town.gets_direct("ana", "cy").await;
    });
}

#[test]
fn steps_that_come_again_change_nothing() {
    with(&["ana", "bob"], 131, async |town| {
        town.gets_direct("ana", "bob").await;
        sleep(Duration::from_secs(2)).await;
        let old = town.meddler.carried();
        assert!(old.iter().any(|s| s.kind == P2pKind::Offer), "{old:?}");
        let before = [town.history("ana", "bob").await, town.history("bob", "ana").await];
        let said = town.meddler.said().len();
        // At once, and when even their memory is gone.
        for wait in [1, 70, 130] {
            for step in &old {
                town.meddler.inject(step.clone());
                // And to their author.
                town.meddler.inject(P2pFrame { to: step.from, from: step.to, ..step.clone() });
            }
            assert!(town.talks_for(1, "ana", "bob").await);
            let now = [town.history("ana", "bob").await, town.history("bob", "ana").await];
            assert_eq!(now, before, "a replay did something");
            assert_eq!(town.meddler.said().len(), said, "a replay was answered");
            sleep(Duration::from_secs(wait)).await;
        }
        let path = town.node("ana").path("bob").await.unwrap();
        assert!(path.direct.is_some(), "{path:?}");
    });
}

#[test]
fn steps_that_come_twice_and_late_and_in_another_order_still_make_the_path() {
    with(&["ana", "bob"], 141, async |town| {
        town.meddler.rewrite(|step| vec![step.clone(), step]);
        town.meddler.late(true);
        town.gets_direct("ana", "bob").await;
        assert_eq!(town.misdeeds("ana"), []);
        assert_eq!(town.misdeeds("bob"), []);
    });
}

/// An offer of the broker's own, in the place of ana's and beside it: by a key that is nobody's, and in
/// ana's name.
#[test]
fn who_is_no_member_gets_no_word_and_no_packet() {
    with(&["ana", "bob"], 151, async |town| {
        let (mesh, bob) = town.key("bob").await;
        let (_, ana) = town.key("ana").await;
        let eve = Stranger::new(town, mesh);
        let socket = town.eve.udp_bind("0.0.0.0:40000".parse().unwrap()).await.unwrap();
        let there = SocketAddr::new(town.eve.addresses()[0], 40_000);
        let offers = [eve.offer(bob, &[there]), eve.offer(bob, &[there])];
        let [own, mut in_her_name] = offers;
        in_her_name.from = ana;
        let stranger = eve.key.public();
        town.meddler.rewrite(move |step| match step.kind {
            P2pKind::Offer => vec![own.clone(), in_her_name.clone()],
            _ => vec![step],
        });
        assert!(!town.talks_for(25, "ana", "bob").await, "a path came up");
        assert!(town.misdeeds("bob").contains(&Misbehaviour::TamperedNegotiation));
        for _ in 0..3 {
            town.meddler.inject(eve.offer(bob, &[there]));
            town.meddler.inject(eve.offer(ana, &[there]));
        }
        town.talk("ana", "bob").await;
        let said = town.meddler.said();
        assert!(said.iter().all(|s| s.to != stranger), "somebody answered her");
        // Bob never heard of an offer of ana's, so he had nothing to say at all.
        assert!(said.iter().all(|s| s.from != bob || s.kind == P2pKind::Offer), "{said:?}");
        let mut buffer = [0; 2_000];
        let came = timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await;
        assert!(came.is_err(), "{came:?}");
        town.meddler.be_honest();
        town.gets_direct("ana", "bob").await;
    });
}
