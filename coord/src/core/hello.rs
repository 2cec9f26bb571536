//! Who may come in.
//!
//! [`read`] checks all that a hello can be checked for without the store, in the order of the
//! errors' severity; [`admit`] decides with what the store knows. A hello is good for one connection
//! only: it repeats the connection's challenge and, under TLS, its exporter.

use meshwire_signaling::attest::{Attestation, AttestationError, IdentityKind};
use meshwire_signaling::frame::{Bind, ErrorFrame, Hello, HelloBody, close, code};
use meshwire_signaling::limits::{SKEW, ms};
use meshwire_signaling::sign::{SignError, Signed, domains};
use meshwire_signaling::{Hash, MeshId, PublicKey, UnixMillis};

/// What this connection's hello must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The challenge's nonce.
    pub challenge: Hash,
    /// The broker's key.
    pub broker: PublicKey,
    /// The TLS exporter, where the broker terminates TLS.
    pub binding: Option<Hash>,
    /// Now, Unix milliseconds.
    pub now: UnixMillis,
}

/// A refused hello: an error frame, then a close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error to send.
    pub error: ErrorFrame,
    /// The close code; its reason is the error's code.
    pub close: u16,
}

impl Refusal {
    /// A refusal with close code 1008.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { error: ErrorFrame::permanent(code, message), close: close::REFUSED }
    }
}

/// A hello that holds by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What was signed.
    pub body: HelloBody,
    /// Its hash, which ack and binds refer to.
    pub hash: Hash,
    /// When the identity's attestation ends, for sessions and services.
    pub attested_until: Option<UnixMillis>,
    /// That attestation.
    pub attestation: Option<Signed>,
}

/// Checks a hello against its connection.
///
/// # Errors
/// [`Refusal`] with the code of the first thing wrong.
pub fn read(hello: &Hello, expected: &Expected) -> Result<Greeting, Refusal> {
    let body: HelloBody = hello
        .hello
        .peek()
        .map_err(|e| Refusal::new(code::MALFORMED, format!("malformed hello: {e}")))?;
    match hello.hello.verify(&body.key, domains::HELLO) {
        Ok(()) => {}
        Err(SignError::BadKey) => {
            return Err(Refusal::new(code::BAD_KEY, "the hello's key is no usable public key"));
        }
        Err(_) => {
            return Err(Refusal::new(code::BAD_SIGNATURE, "the hello's signature does not hold"));
        }
    }
    if body.broker != expected.broker {
        let text = format!(
            "the hello is for broker {}, this is {}: check the address in your invite",
            body.broker.short(),
            expected.broker.short()
        );
        return Err(Refusal::new(code::WRONG_BROKER, text));
    }
    if body.challenge != expected.challenge {
        return Err(Refusal::new(code::BAD_CHALLENGE, "the hello answers another challenge"));
    }
    if body.binding != expected.binding {
        let text = "the hello's channel binding is not this connection's: something in between \
                    ends TLS";
        return Err(Refusal::new(code::BAD_BINDING, text));
    }
    if body.at.abs_diff(expected.now) > ms(SKEW) {
        let text = format!(
            "the hello's clock is {} s off the broker's; at most {} s are accepted: set the clock",
            body.at.abs_diff(expected.now) / 1_000,
            SKEW.as_secs()
        );
        return Err(Refusal::new(code::TIMESTAMP_SKEW, text));
    }
    let attested_until = match (body.kind, &hello.attestation) {
        (IdentityKind::Member, None) if body.member == body.key => None,
        (IdentityKind::Member, _) => {
            return Err(Refusal::new(code::MALFORMED, "a member speaks for itself alone"));
        }
        (_, None) => {
            let text = "a session or service needs its member's attestation";
            return Err(Refusal::new(code::ATTESTATION_MALFORMED, text));
        }
        (kind, Some(signed)) => {
            let a = Attestation::verify(signed, &body.mesh, &body.member, expected.now)
                .map_err(|e| refuse_attestation(&e))?;
            if a.key != body.key || a.kind != kind {
                return Err(refuse_attestation(&AttestationError::Mismatch));
            }
            Some(a.expires_at)
        }
    };
    let hash = hello.hello.hash(domains::HELLO);
    Ok(Greeting { body, hash, attested_until, attestation: hello.attestation.clone() })
}

fn refuse_attestation(e: &AttestationError) -> Refusal {
    Refusal::new(attestation_code(e), e.to_string())
}

/// The error code of a refused attestation.
pub(super) fn attestation_code(e: &AttestationError) -> &'static str {
    match e {
        AttestationError::Expired => code::ATTESTATION_EXPIRED,
        AttestationError::TtlTooLong => code::ATTESTATION_TTL,
        AttestationError::Mismatch => code::ATTESTATION_MISMATCH,
        AttestationError::BadSignature => code::BAD_SIGNATURE,
        _ => code::ATTESTATION_MALFORMED,
    }
}

/// What the store knows of who says hello.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The mesh is on this broker.
    pub mesh: bool,
    /// The member belongs to it.
    pub member: bool,
    /// The last counter of this member's instance.
    pub counter: Option<u64>,
}

/// Decides whether a greeting's member may come in.
///
/// # Errors
/// [`Refusal`]: `unknown_mesh`, `unauthorized`, `stale_instance` or `feature_missing`.
pub fn admit(greeting: &Greeting, known: Known, features: &[&str]) -> Result<(), Refusal> {
    if !known.mesh {
        return Err(Refusal::new(code::UNKNOWN_MESH, "this mesh is not on this broker"));
    }
    if !known.member {
        let text = "this key is no member of the mesh: join with an invite";
        return Err(Refusal::new(code::UNAUTHORIZED, text));
    }
    if known.counter.is_some_and(|last| greeting.body.counter <= last) {
        let text = "this instance has said a later hello before: the home was copied or restored; \
                    make a new instance";
        return Err(Refusal::new(code::STALE_INSTANCE, text));
    }
    let missing = greeting.body.requires.iter().find(|f| !features.contains(&f.as_str()));
    if let Some(feature) = missing {
        let feature: String = feature.chars().take(64).collect();
        let text = format!("this broker lacks the feature {feature:?} that the node requires");
        let error = ErrorFrame::permanent(code::FEATURE_MISSING, text);
        return Err(Refusal { error, close: close::FEATURE });
    }
    Ok(())
}

/// Checks a further identity: the member vouches for it, and it joins this very hello itself.
/// Returns the member's word.
///
/// # Errors
/// An error frame without `req`.
pub fn check_bind(
    bind: &Bind,
    hello: &Hash,
    mesh: &MeshId,
    member: &PublicKey,
    now: UnixMillis,
) -> Result<Attestation, ErrorFrame> {
    let attestation = Attestation::verify(&bind.attestation, mesh, member, now)
        .map_err(|e| refuse_attestation(&e).error)?;
    if attestation.key != bind.key {
        return Err(refuse_attestation(&AttestationError::Mismatch).error);
    }
    if !bind.proven(hello) {
        let text = "the bound key did not sign this connection's hello: an attestation alone is \
                    not enough";
        return Err(ErrorFrame::permanent(code::BAD_SIGNATURE, text));
    }
    Ok(attestation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::attest::Capabilities;
    use meshwire_signaling::frame::{Features, feature};
    use meshwire_signaling::{InstanceId, SecretKey};

    const NOW: u64 = 1_700_000_000_000;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn expected() -> Expected {
        let binding = Some(Hash([8; 32]));
        Expected { challenge: Hash([7; 32]), broker: key(1).public(), binding, now: NOW }
    }

    fn body() -> HelloBody {
        HelloBody {
            mesh: MeshId([5; 32]),
            key: key(2).public(),
            kind: IdentityKind::Member,
            member: key(2).public(),
            instance: InstanceId([3; 16]),
            counter: 4,
            features: Features::from([(feature::GATE.to_owned(), Default::default())]),
            requires: vec![feature::DEDUPE.to_owned()],
            client_nonce: Hash([9; 32]),
            challenge: Hash([7; 32]),
            at: NOW,
            broker: key(1).public(),
            binding: Some(Hash([8; 32])),
            resume: None,
            agent: "test".into(),
        }
    }

    fn hello(twist: impl Fn(&mut HelloBody)) -> Hello {
        let mut b = body();
        twist(&mut b);
        Hello { hello: b.sign(&key(2)), attestation: None }
    }

    fn refused(h: &Hello) -> String {
        read(h, &expected()).unwrap_err().error.code
    }

    #[test]
    fn a_valid_hello_is_read() {
        let greeting = read(&hello(|_| {}), &expected()).unwrap();
        assert_eq!(greeting.body, body());
    }

    #[test]
    fn wrong_key() {
        let mut h = hello(|_| {});
        h.hello = body().sign(&key(3));
        assert_eq!(refused(&h), code::BAD_SIGNATURE);
    }

    #[test]
    fn old_and_future_timestamps() {
        for at in [NOW - 60_001, NOW + 60_001, 0, (1 << 53) - 1] {
            assert_eq!(refused(&hello(|b| b.at = at)), code::TIMESTAMP_SKEW);
        }
        assert!(read(&hello(|b| b.at = NOW - 60_000), &expected()).is_ok());
    }

    #[test]
    fn a_changed_field() {
        let mut h = hello(|_| {});
        let mut changed = body();
        changed.counter = 5;
        h.hello.payload = changed.sign(&key(2)).payload;
        assert_eq!(refused(&h), code::BAD_SIGNATURE);
    }

    #[test]
    fn stripped_feature_bits() {
        let mut h = hello(|_| {});
        let mut stripped = body();
        stripped.features.clear();
        h.hello.payload = stripped.sign(&key(2)).payload;
        assert_eq!(refused(&h), code::BAD_SIGNATURE);
    }

    #[test]
    fn a_malformed_key_and_a_malformed_signature() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let h = hello(|b| b.key = PublicKey(identity));
        assert_eq!(refused(&h), code::BAD_KEY);
        let mut h = hello(|_| {});
        h.hello.sig.0 = [0xff; 64];
        assert_eq!(refused(&h), code::BAD_SIGNATURE);
        h.hello.payload.0.truncate(9);
        assert_eq!(refused(&h), code::MALFORMED);
    }

    #[test]
    fn replayed_on_another_connection_or_through_another_broker() {
        assert_eq!(refused(&hello(|b| b.challenge = Hash([6; 32]))), code::BAD_CHALLENGE);
        assert_eq!(refused(&hello(|b| b.broker = key(9).public())), code::WRONG_BROKER);
        assert_eq!(refused(&hello(|b| b.binding = Some(Hash([1; 32])))), code::BAD_BINDING);
        assert_eq!(refused(&hello(|b| b.binding = None)), code::BAD_BINDING);
    }

    #[test]
    fn admission_needs_membership_a_growing_counter_and_the_features() {
        let g = read(&hello(|_| {}), &expected()).unwrap();
        let all = Known { mesh: true, member: true, counter: Some(3) };
        let refused = |k, f: &[&str]| admit(&g, k, f).unwrap_err().error.code;
        assert_eq!(admit(&g, all, &[feature::DEDUPE]), Ok(()));
        assert_eq!(refused(Known { mesh: false, ..all }, &[]), code::UNKNOWN_MESH);
        assert_eq!(refused(Known { member: false, ..all }, &[]), code::UNAUTHORIZED);
        assert_eq!(refused(Known { counter: Some(4), ..all }, &[]), code::STALE_INSTANCE);
        let e = admit(&g, all, &[]).unwrap_err();
        assert_eq!((e.error.code.as_str(), e.close), (code::FEATURE_MISSING, close::FEATURE));
    }

    fn attestation(session: &SecretKey) -> Signed {
        Attestation {
            mesh: MeshId([5; 32]),
            member: key(2).public(),
            key: session.public(),
            kind: IdentityKind::Session,
            name: "agent".into(),
            capabilities: Capabilities::All,
            issued_at: NOW,
            expires_at: NOW + 1000,
        }
        .sign(&key(2))
    }

    #[test]
    fn a_stolen_attestation_binds_nothing() {
        let session = key(4);
        let stolen = attestation(&session);
        let at = Hash([1; 32]);
        let try_bind = |proof, key| {
            let bind = Bind { req: 1, key, attestation: stolen.clone(), proof };
            check_bind(&bind, &at, &MeshId([5; 32]), &self::key(2).public(), NOW)
        };
        let good = Bind::prove(&at, &session, &stolen);
        assert!(try_bind(good, session.public()).is_ok());
        // The thief has the attestation but not the session's secret.
        let thief = key(66);
        let forged = Bind::prove(&at, &thief, &stolen);
        assert_eq!(try_bind(forged, session.public()).unwrap_err().code, code::BAD_SIGNATURE);
        assert_eq!(try_bind(forged, thief.public()).unwrap_err().code, code::ATTESTATION_MISMATCH);
        // A proof made for another connection's hello.
        let elsewhere = Bind::prove(&Hash([2; 32]), &session, &stolen);
        assert_eq!(try_bind(elsewhere, session.public()).unwrap_err().code, code::BAD_SIGNATURE);
    }

    #[test]
    fn a_session_hello_needs_an_attestation_for_its_own_key() {
        let session = key(4);
        let mut b = body();
        b.kind = IdentityKind::Session;
        b.key = session.public();
        let with = |attestation| Hello { hello: b.sign(&session), attestation };
        assert_eq!(refused(&with(None)), code::ATTESTATION_MALFORMED);
        assert_eq!(refused(&with(Some(attestation(&key(6))))), code::ATTESTATION_MISMATCH);
        let good = read(&with(Some(attestation(&session))), &expected()).unwrap();
        assert_eq!(good.attested_until, Some(NOW + 1000));
    }
}
