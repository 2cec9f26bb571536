//! Steps of negotiations. The first byte says how deep the rest is put: as the sealed payload of a frame,
//! as what is in the box, as what is signed in it, as the adapter's content of a good step, or as steps
//! of many attempts.

use std::sync::OnceLock;

use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::envelope::StateHead;
use meshwire_signaling::frame::P2pKind;
use meshwire_signaling::id::Blob;
use meshwire_signaling::limits::MAX_P2P;
use meshwire_signaling::p2p::quic::{ADAPTER, Content};
use meshwire_signaling::p2p::{Attempts, Expected, Negotiation, SignedStep, VERSION, open};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::sign::domains;
use meshwire_signaling::{AttemptId, Hash, InstanceId, MeshId, PublicKey, SecretKey};

use crate::steps::{fixed, steps};

/// The mesh of `signaling/vectors/p2p.json`, so that its steps hold here.
const MESH: [u8; 32] = [
    0x35, 0xb0, 0xcd, 0xa2, 0x41, 0x02, 0x1d, 0x03, 0x2e, 0xa5, 0xdf, 0xb6, 0xcb, 0x3f, 0x2c, 0x05,
    0x92, 0xcd, 0xc4, 0xf5, 0x93, 0x36, 0x78, 0x6c, 0x1f, 0x03, 0x47, 0xcf, 0x4f, 0x1e, 0xd4, 0x61,
];
/// Its attempts: that of its members, that of the session.
const ATTEMPTS: [[u8; 16]; 2] = [
    [
        0x1d, 0x44, 0x7b, 0x44, 0xa0, 0x36, 0x9f, 0x26, 0xc7, 0xf1, 0xe7, 0x64, 0x4a, 0x20, 0xda,
        0x3e,
    ],
    [
        0xb3, 0x82, 0xa3, 0xf6, 0x81, 0x30, 0x43, 0xa1, 0xf8, 0x50, 0x37, 0xa4, 0x6b, 0xd3, 0x84,
        0x20,
    ],
];
/// Its offer.
const OFFER: [u8; 32] = [
    0xd8, 0xfa, 0x18, 0x0c, 0x59, 0xc8, 0xd1, 0x33, 0xf0, 0x4c, 0x64, 0x12, 0xb3, 0x3c, 0xe7, 0x9e,
    0x35, 0xf2, 0x90, 0x47, 0xb5, 0x62, 0xa4, 0x4e, 0x84, 0x9a, 0xf3, 0xab, 0x6a, 0x21, 0x59, 0xdf,
];
/// When its steps are new, Unix milliseconds.
const NOW: u64 = 1_750_000_006_020;
/// The seeds of its members, and of a session.
const SEEDS: [[u8; 32]; 3] = [
    [
        0xec, 0xab, 0x66, 0x5e, 0x41, 0xb4, 0x5a, 0x4c, 0x62, 0x48, 0x29, 0x0a, 0xa8, 0xed, 0x9b,
        0xb7, 0x9f, 0x24, 0x59, 0x59, 0xb2, 0xc6, 0xb4, 0xd0, 0x1d, 0xcf, 0xd2, 0x10, 0x9c, 0x10,
        0xc8, 0xb8,
    ],
    [
        0xc1, 0x73, 0x59, 0x9a, 0x5a, 0xfb, 0xcf, 0x5c, 0x1e, 0x2b, 0x2f, 0xd0, 0x31, 0xbd, 0xd6,
        0x12, 0x92, 0x63, 0x42, 0xf3, 0xd5, 0x09, 0xac, 0xd2, 0xed, 0x6e, 0xf0, 0x13, 0x46, 0x92,
        0xdd, 0x31,
    ],
    [
        0x22, 0x66, 0x89, 0xc1, 0x86, 0x99, 0xde, 0x7b, 0xd6, 0xd5, 0x5a, 0xab, 0x5e, 0x44, 0xf1,
        0x8c, 0xf7, 0x7b, 0x3e, 0xdc, 0x34, 0x8d, 0x5c, 0xb7, 0x0d, 0xfe, 0xad, 0x87, 0xfc, 0x25,
        0x0e, 0xe9,
    ],
];
/// Who writes to whom in it: numbers of seeds.
const WAYS: [(usize, usize); 3] = [(0, 1), (1, 0), (2, 1)];

/// Attempts that are remembered here.
const CAPACITY: usize = 8;

/// One sender and one recipient.
struct Way {
    sender: SecretKey,
    from: PublicKey,
    me: PublicKey,
    attempt: AttemptId,
    /// The sender's and the recipient's.
    pairs: [Pair; 2],
}

fn ways() -> &'static [Way; 3] {
    static ALL: OnceLock<[Way; 3]> = OnceLock::new();
    ALL.get_or_init(|| {
        WAYS.map(|(from, to)| {
            let attempt = AttemptId(ATTEMPTS[usize::from(from == 2)]);
            let [sender, recipient] = [from, to].map(|n| SecretKey::from_seed(&SEEDS[n]));
            let (from, me) = (sender.public(), recipient.public());
            let pairs = [Pair::new(&sender, &me).unwrap(), Pair::new(&recipient, &from).unwrap()];
            Way { sender, from, me, attempt, pairs }
        })
    })
}

pub(crate) fn run(data: &[u8]) {
    reach(data);
}

/// Says whether a step was believed.
pub(crate) fn reach(data: &[u8]) -> bool {
    let [how, rest @ ..] = data else { return false };
    let way = &ways()[usize::from(how / 5 % 3)];
    match how % 5 {
        0 => opened(way, rest),
        1 => opened(way, &way.pairs[0].seal(&[7; 24], rest)),
        2 => {
            let sig = way.sender.sign(domains::P2P, &[&MESH, rest]);
            let step = SignedStep { payload: Blob(rest.to_vec()), sig, attestation: None };
            opened(way, &way.pairs[0].seal(&[7; 24], &to_msgpack(&step)))
        }
        3 => {
            good(way, rest);
            false
        }
        _ => {
            many(rest);
            false
        }
    }
}

/// Opens a payload as each kind of step.
fn opened(way: &Way, payload: &[u8]) -> bool {
    let mut believed = false;
    let (mesh, offer) = (MeshId(MESH), Hash(OFFER));
    for kind in P2pKind::ALL {
        let expected = Expected {
            mesh: &mesh,
            me: &way.me,
            from: &way.from,
            adapter: ADAPTER,
            attempt: way.attempt,
            kind,
            offer: (kind != P2pKind::Offer).then_some(&offer),
            now: NOW,
        };
        if let Ok(opened) = open(payload, &way.pairs[1], &expected) {
            assert!(payload.len() <= MAX_P2P && opened.step.from == way.from);
            assert_eq!((opened.step.kind, opened.step.attempt), (kind, way.attempt));
            content(kind, &opened.step.content);
            believed = true;
        }
    }
    believed
}

fn content(kind: P2pKind, bytes: &[u8]) {
    if let Ok(content) = Content::decode(kind, bytes) {
        assert_eq!(content.kind(), kind);
        assert_eq!(Content::decode(kind, &content.encode()), Ok(content));
    }
}

/// A step that holds, whatever its content is.
fn good(way: &Way, bytes: &[u8]) {
    let (mesh, offer) = (MeshId(MESH), Hash(OFFER));
    for kind in P2pKind::ALL {
        content(kind, bytes);
        let step = Negotiation {
            v: VERSION,
            kind,
            adapter: ADAPTER.to_owned(),
            attempt: way.attempt,
            seq: 0,
            from: way.from,
            instance: InstanceId([2; 16]),
            to: way.me,
            at: NOW,
            head: StateHead { version: 0, hash: Hash(MESH) },
            answers: (kind != P2pKind::Offer).then_some(offer),
            content: Blob(bytes.to_vec()),
        };
        let Ok(sealed) = step.seal(&mesh, &way.sender, None, &way.pairs[0], &[7; 24]) else {
            assert!(bytes.len() > MAX_P2P / 2, "{} bytes are too many", bytes.len());
            continue;
        };
        let (hash, frame) = (sealed.hash, step.frame(sealed));
        let offer = (kind != P2pKind::Offer).then_some(&offer);
        let expected = Expected::of(&frame, &mesh, &way.me, offer, NOW);
        let opened = open(&frame.payload, &way.pairs[1], &expected).expect("a good step");
        assert_eq!((&opened.step, opened.hash, opened.member), (&step, hash, way.from));
    }
}

/// Many steps of a few senders: each counts once, and few are remembered.
fn many(data: &[u8]) {
    let mut attempts = Attempts::new(CAPACITY);
    let mut now = NOW;
    let mut taken = std::collections::BTreeSet::new();
    for step in steps(data) {
        let [attempt, seq @ ..] = fixed::<9>(step.bytes);
        let seq = u64::from_be_bytes(seq);
        let at = now.saturating_sub(u64::from(step.what) * 300);
        let from = PublicKey([step.which % 4; 32]);
        let attempt = AttemptId([attempt % 16; 16]);
        if attempts.accept(&from, attempt, seq, at, now).is_ok() {
            assert!(taken.insert((from.0, attempt.0, seq)), "a step counted twice");
        }
        assert!(attempts.len() <= CAPACITY);
        if step.what % 8 == 7 {
            now = now.saturating_add(u64::from(step.which) * 1_000);
            // After this a sender's clock may bring back what is forgotten, and `open` refuses it.
            taken.clear();
        }
    }
}
