use proptest::prelude::*;

use super::*;
use crate::envelope::{Author, EnvelopeError, StateHead, Target};
use crate::id::{EnvelopeId, InstanceId, MeshId, SecretKey, StreamId};
use crate::limits::ms;
use crate::seal::{Pair, SealError};
use crate::{Channel, Durability};

const MESH: MeshId = MeshId([3; 32]);
const NOW: u64 = 1_750_000_000_000;
const FRESH: Fresh = Fresh([6; 32]);

fn ends() -> Ends {
    let [opener, acceptor] = [1, 2].map(|n| SecretKey::from_seed(&[n; 32]).public());
    Ends { mesh: MESH, stream: StreamId([4; 16]), opener, acceptor }
}

fn both(suite: Suite) -> (Keys, Keys) {
    let keys = |role| Keys::derive(Secret::new([5; 32]), suite, ends(), FRESH, role);
    (keys(Role::Opener), keys(Role::Acceptor))
}

fn chunk(keys: &mut SealKeys, last: bool, text: &[u8]) -> Vec<u8> {
    let mut record = [&[0; PREFIX], text, &[0; TAG]].concat();
    keys.chunk(last, &mut record).unwrap();
    record
}

fn opened(keys: &mut OpenKeys, record: &[u8]) -> Result<Vec<u8>, RecordError> {
    let header = Header::parse(record)?;
    keys.open(&header, &mut record.to_vec()).map(|text| text.to_vec())
}

#[test]
fn a_record_opens_at_the_other_side_of_its_stream_alone() {
    for suite in Suite::preferred() {
        let (mut a, mut b) = both(suite);
        let record = chunk(&mut a.seal, false, b"hello");
        assert_eq!(opened(&mut b.open, &record).unwrap(), b"hello");
        assert_eq!(opened(&mut a.open, &record), Err(RecordError::Forged), "handed back");
        let role = Role::Acceptor;
        let other = |ends| Keys::derive(Secret::new([5; 32]), suite, ends, FRESH, role);
        let elsewhere = [
            Ends { mesh: MeshId([9; 32]), ..ends() },
            Ends { opener: ends().acceptor, ..ends() },
            Ends { acceptor: ends().opener, ..ends() },
        ];
        for ends in elsewhere {
            assert_eq!(opened(&mut other(ends).open, &record), Err(RecordError::Forged));
        }
        let mut another = other(Ends { stream: StreamId([9; 16]), ..ends() });
        assert_eq!(opened(&mut another.open, &record), Err(RecordError::Stream));
        // With the stream's id rewritten to fit, the key still differs.
        let mut moved = record.clone();
        moved[4..20].fill(9);
        assert_eq!(opened(&mut another.open, &moved), Err(RecordError::Forged));
        let [first, second] = Suite::preferred();
        let (_, mut b) = both(if suite == first { second } else { first });
        assert_eq!(opened(&mut b.open, &record), Err(RecordError::Suite));
    }
}

#[test]
fn any_changed_byte_is_noticed() {
    let (mut a, mut b) = both(Suite::ChaCha20Poly1305);
    for record in [chunk(&mut a.seal, true, b"text"), chunk(&mut a.seal, true, b"")] {
        for at in 0..record.len() {
            let mut bad = record.clone();
            bad[at] ^= 1;
            assert!(opened(&mut b.open, &bad).is_err(), "byte {at}");
        }
        for len in 0..record.len() {
            assert!(opened(&mut b.open, &record[..len]).is_err(), "cut to {len}");
        }
    }
}

#[test]
fn a_chunk_is_no_control() {
    let (mut a, mut b) = both(Suite::Aes256Gcm);
    chunk(&mut a.seal, false, b"0");
    let mut record = chunk(&mut a.seal, false, b"1");
    record[0] = 2;
    assert_eq!(opened(&mut b.open, &record), Err(RecordError::Forged));
}

fn accept(keys: &mut SealKeys, text: &[u8]) -> Vec<u8> {
    let mut record = [&[0; ACCEPT_PREFIX], text, &[0; TAG]].concat();
    keys.accept(&mut record).unwrap();
    record
}

fn accepted(offer: &Offer, record: &[u8]) -> Result<Keys, RecordError> {
    let header = Header::parse(record)?;
    offer.open(&header, &mut record.to_vec()).map(|(keys, _)| keys)
}

#[test]
fn an_accept_tells_the_opener_the_keys_of_its_acceptance() {
    for suite in Suite::preferred() {
        let offer = Offer::new(Secret::new([5; 32]), &Suite::preferred(), ends());
        let (mut a, mut b) = both(suite);
        let early = chunk(&mut b.seal, false, b"early");
        assert_eq!(accepted(&offer, &early).err(), Some(RecordError::Early));
        let first = accept(&mut b.seal, b"first");
        let header = Header::parse(&first).unwrap();
        let mut copy = first.clone();
        let (mut opener, text) = offer.open(&header, &mut copy).unwrap();
        assert_eq!(text, b"first");
        assert_eq!(opened(&mut opener.open, &early).unwrap(), b"early");
        let second = accept(&mut b.seal, b"second");
        assert_eq!(opened(&mut opener.open, &second).unwrap(), b"second");
        assert_eq!(opened(&mut b.open, &chunk(&mut opener.seal, true, b"x")).unwrap(), b"x");
        // Handed back; and by an opener, who accepts nothing.
        assert_eq!(opened(&mut b.open, &second), Err(RecordError::Forged));
        assert_eq!(opened(&mut b.open, &accept(&mut a.seal, b"x")), Err(RecordError::Forged));
        // Changed or cut anywhere, it is none.
        for at in 0..first.len() {
            let mut bad = first.clone();
            bad[at] ^= 1;
            assert!(accepted(&offer, &bad).is_err(), "byte {at}");
            assert!(opened(&mut opener.open, &bad).is_err(), "byte {at}");
            assert!(accepted(&offer, &first[..at]).is_err(), "cut to {at}");
        }
        let one = Offer::new(Secret::new([5; 32]), &[], ends());
        assert_eq!(accepted(&one, &first).err(), Some(RecordError::Suite));
    }
}

/// What an open that is taken twice would cost: the same keys and numbers for other bytes.
#[test]
fn two_acceptances_of_one_open_share_no_key() {
    let offer = Offer::new(Secret::new([5; 32]), &Suite::preferred(), ends());
    for suite in Suite::preferred() {
        let accepting = |fresh| {
            let secret = Secret::new([5; 32]);
            Keys::derive(secret, suite, ends(), Fresh([fresh; 32]), Role::Acceptor)
        };
        let mut sealed = Vec::new();
        for fresh in [1, 2] {
            let mut b = accepting(fresh);
            let first = accept(&mut b.seal, &[0; 64]);
            let mut a = accepted(&offer, &first).unwrap();
            let mut text = [0; PREFIX + 64 + TAG];
            b.seal.control(&mut text).unwrap();
            sealed.push([
                first[ACCEPT_PREFIX..].to_vec(),
                text[PREFIX..].to_vec(),
                chunk(&mut b.seal, false, &[0; 64])[PREFIX..].to_vec(),
                chunk(&mut a.seal, false, &[0; 64])[PREFIX..].to_vec(),
            ]);
            let other = accept(&mut accepting(3 - fresh).seal, b"text");
            assert_eq!(opened(&mut a.open, &other), Err(RecordError::Forged));
        }
        // Of the same text under the same number: that is the key stream.
        for (one, other) in sealed[0].iter().zip(&sealed[1]) {
            let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
            assert!(same < 8, "{same} of {} bytes", one.len());
        }
    }
}

#[test]
fn keys_change_after_two_to_the_24_chunks() {
    let (mut a, mut b) = both(Suite::Aes256Gcm);
    let edge = 1 << 24;
    a.seal.skip_to_chunk(edge - 1);
    let records = [(); 3].map(|()| chunk(&mut a.seal, false, b"text"));
    let open = |b: &mut Keys, at: usize| opened(&mut b.open, &records[at]).unwrap();
    // In any order around the change, and whatever has passed.
    for passed in [0, edge - 1, edge, edge + 1, edge * 2, edge * 7] {
        for at in [2, 0, 1] {
            assert_eq!(open(&mut b, at), b"text");
        }
        b.open.passed(passed);
    }
    a.seal.skip_to_chunk(MAX_NUMBER - 1);
    let last = chunk(&mut a.seal, true, b"");
    assert_eq!(opened(&mut b.open, &last).unwrap(), b"");
    let mut room = [0; OVERHEAD];
    assert_eq!(a.seal.chunk(false, &mut room), Err(RecordError::Exhausted));
}

#[test]
fn what_is_no_record_is_not_sealed() {
    let (mut a, mut b) = both(Suite::Aes256Gcm);
    for len in [0, OVERHEAD - 1, MAX_RECORD + 1] {
        let refused = a.seal.chunk(false, &mut vec![0; len]);
        assert!(matches!(refused, Err(RecordError::Malformed(_))), "{len}");
    }
    assert_eq!(a.seal.next_chunk(), 0, "no number was used");
    let record = chunk(&mut a.seal, false, &vec![7; MAX_PLAINTEXT]);
    assert_eq!(record.len(), MAX_RECORD);
    assert_eq!(opened(&mut b.open, &record).unwrap().len(), MAX_PLAINTEXT);
    let mut long = record.clone();
    long.push(0);
    assert!(matches!(opened(&mut b.open, &long), Err(RecordError::Malformed(_))));
}

fn open() -> Open {
    Open {
        stream: StreamId([4; 16]),
        secret: Secret::new([5; 32]),
        name: "pipe".into(),
        suites: Suite::preferred().to_vec(),
        limit: 1,
    }
}

#[test]
fn an_open_is_for_one_recipient_and_short_lived() {
    let [a, b, eve] = [1, 2, 3].map(|n| SecretKey::from_seed(&[n; 32]));
    let pair = |me: &SecretKey, them: &SecretKey| Pair::new(me, &them.public()).unwrap();
    let from = Author { key: a.public(), instance: InstanceId([6; 16]) };
    let target = Target::Member { key: b.public() };
    let header = Open::header(from, target, EnvelopeId::new(NOW, 1), NOW).unwrap();
    assert_eq!(header.check(NOW + ms(TTL) - 1), Ok(()));
    assert_eq!(header.check(NOW + ms(TTL)), Err(EnvelopeError::Expired));
    let head = StateHead::origin(&MESH);
    let seal = |h, open: &Open| open.seal(&MESH, &a, h, head, &pair(&a, &b), &[9; 24]);
    let sealed = seal(&header, &open()).unwrap();
    assert!(sealed.check(&MeshId([0; 32])).is_err(), "another mesh");
    let read = Open::unseal(&sealed, &header, &pair(&b, &a)).unwrap();
    assert_eq!(*read.encode(), *open().encode());
    assert_eq!(read.suite(), Some(Suite::preferred()[0]));
    let undecryptable = EnvelopeError::Seal(SealError::Undecryptable);
    let by_eve = Open::unseal(&sealed, &header, &pair(&eve, &a)).err();
    assert_eq!(by_eve, Some(OpenError::Envelope(undecryptable)));

    let wrong = [
        crate::Header { channel: Channel::Dm, ..header.clone() },
        crate::Header { durability: Durability::Queued, ..header.clone() },
        crate::Header { expires_at: NOW + ms(TTL) + 1, ..header.clone() },
        crate::Header { suite: crate::envelope::Suite::Wrap, ..header.clone() },
        crate::Header { target: Target::Group { name: "all".into() }, ..header.clone() },
    ];
    for wrong in &wrong {
        assert!(matches!(seal(wrong, &open()), Err(OpenError::Header(_))));
        assert!(matches!(Open::unseal(&sealed, wrong, &pair(&b, &a)), Err(OpenError::Header(_))));
    }
    for name in ["", "a\tb", &"x".repeat(MAX_NAME + 1)] {
        let named = Open { name: name.into(), ..open() };
        assert!(matches!(seal(&header, &named), Err(OpenError::Name(_))), "{name:?}");
    }
    let bare = Open { suites: Vec::new(), ..open() };
    assert_eq!(seal(&header, &bare).err(), Some(OpenError::Suites));
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let reason = "é".repeat(MAX_REASON);
    let control =
        Control::Reset { heard: 1, code: code::APPLICATION, reason: format!("x{reason}") };
    let Ok(Some(Control::Reset { reason, .. })) = Control::decode(&control.encode()) else {
        panic!("does not decode");
    };
    assert_eq!(reason.len(), MAX_REASON - 1);
}

proptest! {
    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz(&bytes);
        let (_, mut b) = both(Suite::Aes256Gcm);
        prop_assert!(opened(&mut b.open, &bytes).is_err());
    }

    #[test]
    fn controls_round_trip(
        flags in any::<[bool; 2]>(),
        stop in any::<Option<u32>>(),
        numbers in any::<[u64; 3]>(),
    ) {
        let [answer, done] = flags;
        let [heard, next, limit] = numbers;
        let control = Control::State(State { answer, stop, done, heard, next, limit });
        prop_assert_eq!(Control::decode(&control.encode()), Ok(Some(control)));
    }

    #[test]
    fn headers_round_trip(
        kind in 0..4usize, suite in 0..2usize, id in any::<[u8; 16]>(), n in 1..MAX_NUMBER,
    ) {
        let chunk = |last| Kind::Chunk { last };
        let kind = [chunk(false), chunk(true), Kind::Control, Kind::Accept][kind];
        let header = Header { kind, suite: Suite::preferred()[suite], stream: StreamId(id), number: n };
        let room = kind.prefix() - PREFIX + TAG;
        let record = [&header.encode()[..], &vec![0; room]].concat();
        prop_assert_eq!(Header::parse(&record), Ok(header));
        prop_assert!(Header::parse(&record[..record.len() - 1]).is_err());
    }
}
