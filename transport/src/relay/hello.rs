//! The hello handshake, as a node, without I/O.
//!
//! ```text
//! Waiting --challenge--> Said --hello_ack--> done
//!    \____________ error, anything else ___________> failed
//! ```
//!
//! Drive: make one [`Handshake`] per connection with a fresh nonce and a counter never used before,
//! give it every frame that comes in, and do what [`Step`] says. After an error the connection is of
//! no use; nothing may be sent on it.

use std::mem;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{
    Challenge, ErrorFrame, Features, Frame, Hello, HelloAck, HelloAckBody, HelloBody, code,
};
use meshwire_signaling::sign::{SignError, Signed, domains};
use meshwire_signaling::{Hash, InstanceId, MeshId, PublicKey, SecretKey, UnixMillis};

/// What a hello is made of.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The mesh.
    pub mesh: MeshId,
    /// The broker's key as the invite gave it.
    pub broker: PublicKey,
    /// The member's key.
    pub identity: SecretKey,
    /// The outbox behind this socket.
    pub instance: InstanceId,
    /// Above every counter said before by this instance.
    pub counter: u64,
    /// What this node can.
    pub features: Features,
    /// Features without which it does not go on.
    pub requires: Vec<String>,
    /// The last connection's resume token.
    pub resume: Option<Signed>,
    /// Name and version of the program.
    pub agent: String,
    /// 32 random bytes.
    pub nonce: Hash,
    /// This connection's TLS exporter; none without TLS.
    pub exporter: Option<Hash>,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send this frame and wait for the next one.
    Send(Box<Frame>),
    /// The broker is who it should be and takes us.
    Done(Box<Welcome>),
}

/// A finished handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The hash of our hello, which further identities sign.
    pub hello: Hash,
    /// The broker's verified ack.
    pub ack: HelloAckBody,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// Another broker than the mesh names.
    #[error("the broker there has the key {}, this mesh's broker has {}", .got.short(), .expected.short())]
    WrongBroker {
        /// The mesh's broker.
        expected: PublicKey,
        /// Who answered.
        got: PublicKey,
    },
    /// The broker sees TLS where we have none: somebody in between speaks it.
    #[error(
        "the broker sees an encrypted connection where this node made none: use its https:// address"
    )]
    BindingWithoutTls,
    /// The broker refused.
    #[error("the broker refused: {}", .0.message)]
    Refused(Box<ErrorFrame>),
    /// The ack is not the broker's, or not decodable.
    #[error("the broker's answer to the hello does not hold: {0}")]
    BadAck(SignError),
    /// The ack is for another hello.
    #[error("the broker answered another hello")]
    OtherHello,
    /// One side requires what the other side lacks.
    #[error("{}: {}", if *.ours { "the broker lacks features that this node requires" }
        else { "the broker requires features that this node lacks: update meshwire" }, .missing.join(", "))]
    FeatureMissing {
        /// Whether it is this node that requires them.
        ours: bool,
        /// Which ones.
        missing: Vec<String>,
    },
    /// Not this frame's turn.
    #[error("the broker sent {0:?} during the hello")]
    Unexpected(&'static str),
}

impl HelloError {
    /// The word of [`code`] for it, ours where the broker gave none.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::WrongBroker { .. } => code::WRONG_BROKER,
            Self::BindingWithoutTls => code::BAD_BINDING,
            Self::Refused(e) => &e.code,
            Self::BadAck(_) => code::BAD_SIGNATURE,
            Self::OtherHello => code::BAD_CHALLENGE,
            Self::FeatureMissing { .. } => code::FEATURE_MISSING,
            Self::Unexpected(_) => code::MALFORMED,
        }
    }
}

#[derive(Debug)]
enum State {
    Waiting(Greeting),
    Said { greeting: Greeting, hello: Hash },
    Over,
}

/// The state machine; see the module's documentation.
#[derive(Debug)]
pub struct Handshake(State);

impl Handshake {
    /// Waits for the broker's challenge.
    #[must_use]
    pub fn new(greeting: Greeting) -> Self {
        Self(State::Waiting(greeting))
    }

    /// Takes a frame in at wall clock time `now`.
    ///
    /// # Errors
    /// [`HelloError`]; the machine is over then.
    pub fn on_frame(&mut self, frame: Frame, now: UnixMillis) -> Result<Step, HelloError> {
        match (mem::replace(&mut self.0, State::Over), frame) {
            (_, Frame::Error(e)) => Err(HelloError::Refused(Box::new(e))),
            (State::Waiting(greeting), Frame::Challenge(c)) => {
                let frame = greeting.answer(&c, now)?;
                let hello = frame.hello.hash(domains::HELLO);
                self.0 = State::Said { greeting, hello };
                Ok(Step::Send(Box::new(frame.into())))
            }
            (State::Said { greeting, hello }, Frame::HelloAck(ack)) => {
                let ack = greeting.check(&hello, &ack)?;
                Ok(Step::Done(Box::new(Welcome { hello, ack })))
            }
            (_, other) => Err(HelloError::Unexpected(other.kind())),
        }
    }
}

impl Greeting {
    fn answer(&self, challenge: &Challenge, now: UnixMillis) -> Result<Hello, HelloError> {
        if challenge.broker != self.broker {
            let (expected, got) = (self.broker, challenge.broker);
            return Err(HelloError::WrongBroker { expected, got });
        }
        if challenge.binding && self.exporter.is_none() {
            return Err(HelloError::BindingWithoutTls);
        }
        let key = self.identity.public();
        let body = HelloBody {
            mesh: self.mesh,
            key,
            kind: IdentityKind::Member,
            member: key,
            instance: self.instance,
            counter: self.counter,
            features: self.features.clone(),
            requires: self.requires.clone(),
            client_nonce: self.nonce,
            challenge: challenge.nonce,
            at: now,
            broker: self.broker,
            binding: self.exporter.filter(|_| challenge.binding),
            resume: self.resume.clone(),
            agent: self.agent.clone(),
        };
        Ok(Hello { hello: body.sign(&self.identity), attestation: None })
    }

    fn check(&self, hello: &Hash, ack: &HelloAck) -> Result<HelloAckBody, HelloError> {
        let ack: HelloAckBody =
            ack.ack.open(&self.broker, domains::HELLO_ACK).map_err(HelloError::BadAck)?;
        if ack.broker != self.broker {
            return Err(HelloError::WrongBroker { expected: self.broker, got: ack.broker });
        }
        if ack.hello != *hello {
            return Err(HelloError::OtherHello);
        }
        lacking(true, &self.requires, &ack.features)?;
        lacking(false, &ack.requires, &self.features)?;
        Ok(ack)
    }
}

fn lacking(ours: bool, required: &[String], there: &Features) -> Result<(), HelloError> {
    let missing: Vec<_> = required.iter().filter(|f| !there.contains_key(*f)).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(HelloError::FeatureMissing { ours, missing }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::frame::{Drained, Limits, feature};
    use meshwire_signaling::invite::Role;

    fn broker() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    fn features(names: &[&str]) -> Features {
        names.iter().map(|n| ((*n).to_owned(), Default::default())).collect()
    }

    fn greeting() -> Greeting {
        Greeting {
            mesh: MeshId([2; 32]),
            broker: broker().public(),
            identity: SecretKey::from_seed(&[3; 32]),
            instance: InstanceId([4; 16]),
            counter: 7,
            features: features(&[feature::GATE]),
            requires: vec![feature::DEDUPE.into()],
            resume: None,
            agent: "test/1".into(),
            nonce: Hash([5; 32]),
            exporter: None,
        }
    }

    fn challenge(binding: bool) -> Frame {
        Challenge { nonce: Hash([6; 32]), at: 9, broker: broker().public(), binding }.into()
    }

    fn said(machine: &mut Handshake, challenge: Frame) -> (HelloBody, Hash) {
        let Ok(Step::Send(frame)) = machine.on_frame(challenge, 10) else { panic!("no hello") };
        let Frame::Hello(hello) = *frame else { panic!("no hello") };
        let key = greeting().identity.public();
        (hello.hello.open(&key, domains::HELLO).unwrap(), hello.hello.hash(domains::HELLO))
    }

    fn ack_body(hello: Hash) -> HelloAckBody {
        HelloAckBody {
            hello,
            broker: broker().public(),
            at: 11,
            name: "me".into(),
            role: Role::Member,
            limits: Limits::default(),
            features: features(&[feature::DEDUPE, feature::RECEIPTS]),
            requires: vec![],
            lease: None,
            agent: "broker/1".into(),
        }
    }

    fn sign(key: &SecretKey, body: &HelloAckBody) -> Frame {
        HelloAck { ack: Signed::new(key, domains::HELLO_ACK, body) }.into()
    }

    /// The outcome of an ack that `change` has been at.
    fn acked(key: &SecretKey, change: impl Fn(&mut HelloAckBody)) -> Result<Step, HelloError> {
        let mut machine = Handshake::new(greeting());
        let (_, hello) = said(&mut machine, challenge(false));
        let mut body = ack_body(hello);
        change(&mut body);
        machine.on_frame(sign(key, &body), 12)
    }

    #[test]
    fn a_hello_repeats_the_challenge_and_the_ack_ends_it() {
        let mut machine = Handshake::new(greeting());
        let (body, hello) = said(&mut machine, challenge(false));
        assert_eq!((body.challenge, body.at, body.counter), (Hash([6; 32]), 10, 7));
        assert_eq!((body.broker, body.binding), (broker().public(), None));
        let done = machine.on_frame(sign(&broker(), &ack_body(hello)), 12);
        let Ok(Step::Done(welcome)) = done else { panic!("{done:?}") };
        assert_eq!(*welcome, Welcome { hello, ack: ack_body(hello) });
    }

    #[test]
    fn the_exporter_is_said_only_where_the_broker_sees_the_same_tls() {
        let tls = Greeting { exporter: Some(Hash([8; 32])), ..greeting() };
        let (body, _) = said(&mut Handshake::new(tls.clone()), challenge(true));
        assert_eq!(body.binding, Some(Hash([8; 32])));
        let (body, _) = said(&mut Handshake::new(tls), challenge(false));
        assert_eq!(body.binding, None);
        let plain = Handshake::new(greeting()).on_frame(challenge(true), 10);
        assert_eq!(plain.unwrap_err(), HelloError::BindingWithoutTls);
    }

    #[test]
    fn a_stranger_gets_no_hello() {
        let got = SecretKey::from_seed(&[9; 32]).public();
        let other = Challenge { nonce: Hash([6; 32]), at: 9, broker: got, binding: false };
        let error = Handshake::new(greeting()).on_frame(other.into(), 10).unwrap_err();
        assert_eq!(error, HelloError::WrongBroker { expected: broker().public(), got });
    }

    #[test]
    fn an_ack_must_be_the_brokers_for_this_hello() {
        let stranger = SecretKey::from_seed(&[9; 32]);
        let forged = acked(&stranger, |_| {}).unwrap_err();
        assert_eq!(forged, HelloError::BadAck(SignError::BadSignature));
        let replayed = acked(&broker(), |b| b.hello = Hash([0; 32])).unwrap_err();
        assert_eq!(replayed, HelloError::OtherHello);
        let other = acked(&broker(), |b| b.broker = stranger.public()).unwrap_err();
        assert!(matches!(other, HelloError::WrongBroker { .. }));
        let mut machine = Handshake::new(greeting());
        let _ = said(&mut machine, challenge(false));
        let ack = Signed::new(&broker(), domains::HELLO_ACK, &"not an ack");
        let garbage = machine.on_frame(HelloAck { ack }.into(), 12).unwrap_err();
        assert!(matches!(garbage, HelloError::BadAck(SignError::Malformed(_))));
    }

    #[test]
    fn missing_features_are_named_on_both_sides() {
        let ours = acked(&broker(), |b| b.features.clear()).unwrap_err();
        let missing = vec![feature::DEDUPE.to_owned()];
        assert_eq!(ours, HelloError::FeatureMissing { ours: true, missing });
        let theirs = acked(&broker(), |b| b.requires = vec!["teleport".into()]).unwrap_err();
        assert_eq!(theirs.code(), code::FEATURE_MISSING);
        assert!(theirs.to_string().contains("teleport"), "{theirs}");
        assert!(acked(&broker(), |b| b.requires = vec![feature::GATE.into()]).is_ok());
    }

    #[test]
    fn refusals_come_through_in_any_state_and_nothing_else_does() {
        let refusal = ErrorFrame::permanent(code::UNAUTHORIZED, "who are you");
        let mut fresh = Handshake::new(greeting());
        let error = fresh.on_frame(refusal.clone().into(), 10).unwrap_err();
        assert_eq!((error.code(), &error), ("unauthorized", &HelloError::Refused(refusal.into())));
        let over = fresh.on_frame(challenge(false), 10).unwrap_err();
        assert_eq!(over, HelloError::Unexpected("challenge"));
        let mut machine = Handshake::new(greeting());
        let _ = said(&mut machine, challenge(false));
        let early = machine.on_frame(Drained {}.into(), 10).unwrap_err();
        assert_eq!(early, HelloError::Unexpected("drained"));
        let twice =
            Handshake::new(greeting()).on_frame(sign(&broker(), &ack_body(Hash([0; 32]))), 1);
        assert_eq!(twice.unwrap_err(), HelloError::Unexpected("hello_ack"));
    }
}
