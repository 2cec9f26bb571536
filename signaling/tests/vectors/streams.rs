//! `streams.json`: opens, keys and records of streams.

use meshwire_signaling::envelope::{Envelope, Header as EnvelopeHeader, StateHead};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::stream::{
    Control, Ends, Fresh, Header, Keys, Kind, Offer, Open, OpenError, PREFIX, Role, Secret, State,
    Suite, TAG,
};
use meshwire_signaling::{Hash, MeshId, PublicKey, StreamId};

use super::{Case, file};

fn vectors() -> Case {
    file(include_str!("../../vectors/streams.json"))
}

fn role(word: &str) -> Role {
    match word {
        "opener" => Role::Opener,
        "acceptor" => Role::Acceptor,
        _ => panic!("no role {word}"),
    }
}

/// The file's stream: its names, secret and what the acceptor added.
fn stream() -> (Ends, Secret, Fresh) {
    let ends = Case(vectors().get("ends").clone());
    let names = Ends {
        mesh: MeshId(ends.array("mesh")),
        stream: StreamId(ends.array("stream")),
        opener: PublicKey(ends.array("opener")),
        acceptor: PublicKey(ends.array("acceptor")),
    };
    (names, Secret::new(ends.array("secret")), Fresh(ends.array("fresh")))
}

/// The keys of `side` in the file's stream.
fn keys(suite: &str, side: Role) -> Keys {
    let (ends, secret, fresh) = stream();
    Keys::derive(secret, Suite::from_word(suite).unwrap(), ends, fresh, side)
}

#[test]
fn opens_are_sealed_and_opened_as_they_stand() {
    for case in vectors().cases("opens") {
        let (a, b) = (case.secret("sender_seed"), case.secret("recipient_seed"));
        let mesh = MeshId(case.array("mesh"));
        let header: EnvelopeHeader = case.object("header");
        let open = Open::decode(&case.bytes("bytes")).unwrap();
        assert_eq!(**open.encode(), case.bytes("bytes"), "{}", case.name());
        let pair = Pair::new(&a, &b.public()).unwrap();
        let nonce = case.array("nonce");
        let sealed =
            open.seal(&mesh, &a, &header, StateHead::origin(&mesh), &pair, &nonce).unwrap();
        let envelope: Envelope = case.object("envelope");
        assert_eq!(sealed, envelope, "{}", case.name());

        let checked = envelope.check(&mesh).unwrap();
        assert_eq!(checked.hash, Hash(case.array("hash")));
        assert_eq!(checked.header.check(header.sent_at), Ok(()));
        let theirs = Pair::new(&b, &a.public()).unwrap();
        let opened = Open::unseal(&envelope, &checked.header, &theirs).unwrap();
        assert_eq!(**opened.encode(), case.bytes("bytes"));
    }
    let unknown = Case(vectors().get("open_unknown").clone());
    let words = unknown.object::<Vec<String>>("suites");
    let read = Open::decode(&unknown.bytes("bytes")).unwrap().suites;
    assert_eq!(read.iter().map(|s| s.as_str()).collect::<Vec<_>>(), words);
}

#[test]
fn opens_that_must_be_refused_are() {
    for case in vectors().cases("opens_refused") {
        assert!(Open::decode(&case.bytes("bytes")).is_err(), "{}", case.name());
    }
    for case in vectors().cases("opens_refused_for_their_header") {
        let envelope: Envelope = case.object("envelope");
        let checked = envelope.check(&MeshId(case.array("mesh"))).unwrap();
        let (a, b) = (case.secret("sender_seed"), case.secret("recipient_seed"));
        let pair = Pair::new(&b, &a.public()).unwrap();
        let opened = Open::unseal(&envelope, &checked.header, &pair);
        assert!(matches!(opened, Err(OpenError::Header(_))), "{}", case.name());
    }
}

#[test]
fn records_open_and_are_sealed_as_they_stand() {
    let (mut sealers, mut resealed) = (Vec::new(), 0);
    for suite in ["aes-256-gcm", "chacha20-poly1305"] {
        for side in ["opener", "acceptor"] {
            sealers.push((suite, side, keys(suite, role(side)).seal));
        }
    }
    for case in vectors().cases("records") {
        let (suite, side) = (case.text("suite"), case.text("direction"));
        let record = case.bytes("record");
        let header = Header::parse(&record).unwrap();
        let last = case.object("last");
        let kind = match case.text("kind") {
            "chunk" => Kind::Chunk { last },
            "accept" => Kind::Accept,
            _ => Kind::Control,
        };
        assert_eq!(header.kind, kind);
        assert_eq!(header.number, case.object::<u64>("number"));
        assert_eq!(header.encode(), record[..PREFIX]);

        let mut copy = record.clone();
        let plaintext = keys(suite, role(side).other()).open.open(&header, &mut copy).unwrap();
        assert_eq!(*plaintext, case.bytes("plaintext"), "{}", case.name());
        if kind == Kind::Accept {
            let (ends, secret, _) = stream();
            let offer = Offer::new(secret, &Suite::preferred(), ends);
            let mut copy = record.clone();
            let (mut opener, plaintext) = offer.open(&header, &mut copy).unwrap();
            assert_eq!(*plaintext, case.bytes("plaintext"));
            assert!(opener.open.open(&header, &mut record.clone()).is_ok());
        }
        // Handed back to its author, it does not open.
        let reflected = keys(suite, role(side)).open.open(&header, &mut record.clone()).is_err();
        assert!(reflected, "{}", case.name());

        let find = sealers.iter_mut().find(|(s, d, _)| (*s, *d) == (suite, side));
        let sealer = &mut find.unwrap().2;
        let control = kind.is_control();
        let next = if control { sealer.next_control() } else { sealer.next_chunk() };
        if next == header.number {
            let mut made = [vec![0; kind.prefix()], case.bytes("plaintext"), vec![0; TAG]].concat();
            match kind {
                Kind::Chunk { last } => sealer.chunk(last, &mut made),
                Kind::Control => sealer.control(&mut made),
                Kind::Accept => sealer.accept(&mut made),
            }
            .unwrap();
            assert_eq!(made, record, "{}", case.name());
            resealed += 1;
        }
    }
    assert_eq!(resealed, 16);
}

#[test]
fn records_that_must_be_refused_are() {
    for case in vectors().cases("records_refused") {
        assert!(Header::parse(&case.bytes("record")).is_err(), "{}", case.name());
    }
    for case in vectors().cases("records_forged") {
        let mut record = case.bytes("record");
        let Ok(header) = Header::parse(&record) else { continue };
        let mut keys = keys(case.text("suite"), role(case.text("direction")).other());
        assert!(keys.open.open(&header, &mut record).is_err(), "{}", case.name());
    }
}

#[test]
fn controls_read_and_write() {
    for case in vectors().cases("states") {
        let state = State {
            answer: case.object("answer"),
            stop: case.optional("stop"),
            done: case.object("done"),
            heard: case.object("heard"),
            next: case.object("next"),
            limit: case.object("limit"),
        };
        let control = Control::State(state);
        assert_eq!(control.encode(), case.bytes("bytes"));
        assert_eq!(Control::decode(&case.bytes("bytes")), Ok(Some(control)));
    }
    for case in vectors().cases("resets") {
        let (heard, code) = (case.object("heard"), case.object("code"));
        let control = Control::Reset { heard, code, reason: case.text("reason").to_owned() };
        assert_eq!(control.encode(), case.bytes("bytes"));
        assert_eq!(Control::decode(&case.bytes("bytes")), Ok(Some(control)));
    }
    let later = Case(vectors().get("state_unknown").clone());
    let read = |key| Control::decode(&later.bytes(key)).unwrap();
    assert_eq!(read("bytes"), read("without"));
    let unknown = Case(vectors().get("control_unknown").clone());
    assert_eq!(Control::decode(&unknown.bytes("bytes")), Ok(None));
    for case in vectors().cases("controls_refused") {
        assert!(Control::decode(&case.bytes("bytes")).is_err(), "{}", case.name());
    }
}
