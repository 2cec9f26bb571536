//! `libsodium.json`: keys, agreements, boxes and signatures as libsodium makes them.

use ed25519_dalek::Signer as _;
use meshwire_signaling::PublicKey;
use meshwire_signaling::seal::{ContentKey, Pair, SealError, x25519_public};

use super::{Case, file};

fn vectors() -> Case {
    file(include_str!("../../vectors/libsodium.json"))
}

#[test]
fn keys_and_their_images() {
    for case in vectors().cases("keys") {
        let key = case.secret("seed");
        assert_eq!(key.public().0, case.array("public"));
        assert_eq!(x25519_public(&key.public()), Ok(case.array("x25519_public")));
        let scalar = ed25519_dalek::SigningKey::from_bytes(&case.array("seed")).to_scalar_bytes();
        let clamped = curve25519_dalek::scalar::clamp_integer(scalar);
        assert_eq!(clamped, case.array::<32>("x25519_secret"));
    }
}

#[test]
fn keys_that_libsodium_refuses_are_refused() {
    let v = vectors();
    let good = v.cases("keys")[0].secret("seed");
    for case in v.cases("keys_without_image") {
        let key = PublicKey(case.array("public"));
        assert_eq!(x25519_public(&key), Err(SealError::BadKey), "{}", case.name());
        assert!(Pair::new(&good, &key).is_err(), "{}", case.name());
    }
    for case in v.cases("odd_keys_with_image") {
        let key = PublicKey(case.array("public"));
        assert_eq!(x25519_public(&key), Ok(case.array("x25519_public")), "{}", case.name());
    }
}

#[test]
fn shared_secrets() {
    for case in vectors().cases("shared_secrets") {
        let scalar = ed25519_dalek::SigningKey::from_bytes(&case.array("seed")).to_scalar_bytes();
        let image = x25519_public(&PublicKey(case.array("public"))).unwrap();
        let shared = x25519_dalek::x25519(scalar, image);
        assert_eq!(shared, case.array::<32>("secret"), "{}", case.name());
    }
}

#[test]
fn signatures() {
    for case in vectors().cases("signatures") {
        let key = ed25519_dalek::SigningKey::from_bytes(&case.array("seed"));
        let sig = key.sign(&case.bytes("message"));
        assert_eq!(sig.to_bytes(), case.array::<64>("signature"), "{}", case.name());
    }
}

#[test]
fn boxes_are_the_same_bytes_and_open_on_both_sides() {
    for case in vectors().cases("boxes") {
        let (a, b) = (case.secret("sender_seed"), case.secret("recipient_seed"));
        let (plain, sealed) = (case.bytes("plaintext"), case.bytes("sealed"));
        let at_sender = Pair::new(&a, &b.public()).unwrap();
        assert_eq!(at_sender.seal(&case.array("nonce"), &plain), sealed, "{}", case.name());
        let at_recipient = Pair::new(&b, &a.public()).unwrap();
        for pair in [at_sender, at_recipient] {
            assert_eq!(*pair.open(&sealed).unwrap(), plain, "{}", case.name());
        }
    }
}

#[test]
fn secretboxes_are_the_same_bytes() {
    for case in vectors().cases("secretboxes") {
        let key = ContentKey::new(case.array("key"));
        let (plain, sealed) = (case.bytes("plaintext"), case.bytes("sealed"));
        assert_eq!(key.seal(&case.array("nonce"), &plain), sealed, "{}", case.name());
        assert_eq!(*key.open(&sealed).unwrap(), plain, "{}", case.name());
    }
}
