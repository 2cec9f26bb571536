//! Keys and identifiers. On the wire a key, hash or instance is a MessagePack `bin` of its exact
//! length; in JSON it is lowercase hex. An envelope id is a ULID string in both.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::limits::MAX_NAME;
use crate::sign::{Domain, SignError, layout};

/// Milliseconds since the Unix epoch; at most 2^53−1 on the wire.
pub type UnixMillis = u64;

/// Why a piece of text is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not lowercase hex of the right length.
    #[error("{what} must be {len} lowercase hex characters, not {got:?}")]
    Hex {
        /// What was expected.
        what: &'static str,
        /// How many characters it has.
        len: usize,
        /// The start of what was given.
        got: String,
    },
    /// Not a ULID.
    #[error("a message id is 26 characters of Crockford base32 (a ULID), not {0:?}")]
    Ulid(String),
    /// Not acceptable as a name.
    #[error("{0}")]
    Name(String),
}

fn excerpt(s: &str) -> String {
    s.chars().take(80).collect()
}

/// Decodes exactly `N` bytes of lowercase hex.
fn from_hex<const N: usize>(what: &'static str, s: &str) -> Result<[u8; N], IdError> {
    let bad = || IdError::Hex { what, len: 2 * N, got: excerpt(s) };
    if s.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(bad());
    }
    let mut out = [0; N];
    hex::decode_to_slice(s, &mut out).map_err(|_| bad())?;
    Ok(out)
}

/// Serde for exactly `N` bytes: `bin` in MessagePack, lowercase hex in JSON.
pub(crate) mod fixed {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.serialize_str(&hex::encode(bytes))
        } else {
            s.serialize_bytes(bytes)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        d: D,
        what: &'static str,
    ) -> Result<[u8; N], D::Error> {
        struct V<const N: usize>(&'static str);
        impl<const N: usize> Visitor<'_> for V<N> {
            type Value = [u8; N];
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} ({N} bytes, or {} lowercase hex characters)", self.0, 2 * N)
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Self::Value, E> {
                from_hex(self.0, s).map_err(E::custom)
            }
            fn visit_bytes<E: de::Error>(self, b: &[u8]) -> Result<Self::Value, E> {
                b.try_into().map_err(|_| E::invalid_length(b.len(), &self))
            }
        }
        // `any`, because inside a tagged enum serde forgets which codec it reads.
        d.deserialize_any(V::<N>(what))
    }
}

macro_rules! fixed_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The raw bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
            /// The first 16 hex characters, which people see.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(&self.0[..8])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                from_hex($what, s).map(Self)
            }
        }
        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(b: &[u8]) -> Result<Self, IdError> {
                b.try_into().map(Self).map_err(|_| IdError::Hex {
                    what: $what,
                    len: 2 * $len,
                    got: format!("{} bytes", b.len()),
                })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                fixed::serialize(&self.0, s)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                fixed::deserialize(d, $what).map(Self)
            }
        }
    };
}

fixed_id!(
    /// A SHA-256 digest.
    Hash, 32, "a SHA-256 hash"
);
fixed_id!(
    /// SHA-256 of a mesh's signed genesis layout (design section 3).
    MeshId, 32, "a mesh id"
);
fixed_id!(
    /// An ed25519 public key: the id of a member, session, service, invite or broker.
    PublicKey, 32, "a public key"
);
fixed_id!(
    /// An ed25519 signature.
    Signature, 64, "a signature"
);
fixed_id!(
    /// 16 random bytes made together with an outbox; sequence numbers count within one.
    InstanceId, 16, "an instance id"
);
fixed_id!(
    /// 16 random bytes that name one attempt at a direct path.
    AttemptId, 16, "an attempt id"
);
fixed_id!(
    /// 16 random bytes that name one stream.
    StreamId, 16, "a stream id"
);

impl Hash {
    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl PublicKey {
    /// Checks `sig` over `layout(domain, fields)` strictly: small-order keys and non-canonical
    /// signatures are refused (RFC 8032 section 5.1.7, cofactorless).
    ///
    /// # Errors
    /// [`SignError::BadKey`] when this is not a usable curve point, [`SignError::BadSignature`]
    /// when the signature does not hold.
    pub fn verify(
        &self,
        domain: Domain,
        fields: &[&[u8]],
        sig: &Signature,
    ) -> Result<(), SignError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| SignError::BadKey)?;
        if key.is_weak() {
            return Err(SignError::BadKey);
        }
        key.verify_strict(&layout(domain, fields), &ed25519_dalek::Signature::from_bytes(&sig.0))
            .map_err(|_| SignError::BadSignature)
    }
}

/// An ed25519 secret key. Zeroized on drop; `Debug` shows the public half only.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key whose RFC 8032 seed is `seed`.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
    /// The 32-byte seed, to be stored.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
    /// Signs `layout(domain, fields)`.
    #[must_use]
    pub fn sign(&self, domain: Domain, fields: &[&[u8]]) -> Signature {
        Signature(self.0.sign(&layout(domain, fields)).to_bytes())
    }
    /// The X25519 image of the secret (libsodium `crypto_sign_ed25519_sk_to_curve25519`).
    pub(crate) fn x25519_scalar(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(public {})", self.public().short())
    }
}

/// A ULID: 48 bits of milliseconds and 80 random bits; sorts by time. It is the one id of a message
/// from outbox to receipt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvelopeId(ulid::Ulid);

impl EnvelopeId {
    /// Made from a time and 80 random bits (the upper 48 bits of `random` are dropped).
    #[must_use]
    pub fn new(at: UnixMillis, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(at, random))
    }
    /// The time inside the id.
    #[must_use]
    pub fn time(&self) -> UnixMillis {
        self.0.timestamp_ms()
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnvelopeId({})", self.0)
    }
}

impl FromStr for EnvelopeId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let id = ulid::Ulid::from_string(s).map_err(|_| IdError::Ulid(excerpt(s)))?;
        // One spelling only: the id is a deduplication key.
        if id.to_string() == s { Ok(Self(id)) } else { Err(IdError::Ulid(excerpt(s))) }
    }
}

impl Serialize for EnvelopeId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EnvelopeId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Bytes of any length: `bin` in MessagePack, padded standard base64 (RFC 4648 section 4) in JSON.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Blob {
    fn from(v: Vec<u8>) -> Self {
        Self(v)
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        if s.is_human_readable() {
            s.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
        } else {
            s.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes (base64 in JSON, bin in MessagePack)")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Blob, E> {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD
                    .decode(s)
                    .map(Blob)
                    .map_err(|e| E::custom(format_args!("not padded standard base64: {e}")))
            }
            fn visit_bytes<E: de::Error>(self, b: &[u8]) -> Result<Blob, E> {
                Ok(Blob(b.to_vec()))
            }
            fn visit_byte_buf<E: de::Error>(self, b: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(b))
            }
        }
        if d.is_human_readable() { d.deserialize_str(V) } else { d.deserialize_bytes(V) }
    }
}

/// Checks a member's or mesh's name: 1 to 64 characters, none of them a control character or a
/// space at an end; not starting with `@` or `#` (groups and topics do); not eight or more hex
/// digits alone (those are key prefixes).
///
/// # Errors
/// [`IdError::Name`] that says what is wrong and what would be valid.
pub fn check_name(name: &str) -> Result<(), IdError> {
    let err = |m: String| Err(IdError::Name(m));
    let n = name.chars().count();
    if n == 0 || n > MAX_NAME {
        return err(format!("a name has 1 to {MAX_NAME} characters, this one has {n}"));
    }
    if name.chars().any(|c| c.is_control() || is_bidi_control(c)) {
        return err("a name holds no control characters".into());
    }
    if name.trim() != name {
        return err(format!("a name has no spaces at its ends: try {:?}", name.trim()));
    }
    if name.starts_with(['@', '#']) {
        return err(format!("a name does not start with @ or # (groups and topics do): {name:?}"));
    }
    if n >= 8 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return err(format!("{name:?} reads as the start of a key: add a letter from g to z"));
    }
    Ok(())
}

/// Characters that reorder what people see; in a name they would let one member pose as another.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The 30-digit safety number of two keys, in six groups of five: the same for both sides
/// (inventory A-026).
#[must_use]
pub fn safety_number(a: &PublicKey, b: &PublicKey) -> String {
    let (lo, hi) = if a <= b { (a, b) } else { (b, a) };
    let mut both = [0; 64];
    both[..32].copy_from_slice(&lo.0);
    both[32..].copy_from_slice(&hi.0);
    let hash = Hash::of(&both);
    let bits = hash.0[..15].iter().fold(0u128, |acc, b| (acc << 8) | u128::from(*b));
    let groups: Vec<String> =
        (0..6).map(|i| format!("{:05}", ((bits >> (100 - 20 * i)) & 0xf_ffff) % 100_000)).collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_lowercase_and_exact() {
        let key = SecretKey::from_seed(&[7; 32]).public();
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        assert!(key.to_string().to_uppercase().parse::<PublicKey>().is_err());
        assert!(key.to_string()[1..].parse::<PublicKey>().is_err());
        assert!("zz".repeat(32).parse::<PublicKey>().is_err());
    }

    #[test]
    fn envelope_ids_have_one_spelling() {
        let id = EnvelopeId::new(1_700_000_000_000, 42);
        assert_eq!(id.to_string().parse::<EnvelopeId>(), Ok(id));
        assert!(id.to_string().to_lowercase().parse::<EnvelopeId>().is_err());
        assert!("8".repeat(26).parse::<EnvelopeId>().is_err());
    }

    #[test]
    fn names_that_pose_as_something_else_are_refused() {
        for good in ["ana@laptop", "worker-7", "München", "deadbee", "a b"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "@all", "#dev", "deadbeef", "a\u{202e}b", "a\nb", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secret_keys_do_not_print_their_seed() {
        let key = SecretKey::from_seed(&[0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
    }

    #[test]
    fn safety_numbers_agree_on_both_sides() {
        let (a, b) =
            (SecretKey::from_seed(&[1; 32]).public(), SecretKey::from_seed(&[2; 32]).public());
        assert_eq!(safety_number(&a, &b), safety_number(&b, &a));
        assert_eq!(safety_number(&a, &b).len(), 35);
        assert_ne!(safety_number(&a, &b), safety_number(&a, &a));
    }
}
