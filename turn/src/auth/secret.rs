//! The server's secret, the passwords that it makes, and the keys that passwords make.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::member::Username;
use super::{Credentials, MAX_TTL, Member, REALM};

/// What all passwords of a server come from. Whoever knows it can be anybody here.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Any bytes; 32 random ones are right.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The password of a username, by HMAC-SHA1 because that is what TURN REST means.
    pub(crate) fn password(&self, username: &str) -> Zeroizing<String> {
        let sum = Hmac::<Sha1>::new_from_slice(&self.0)
            .map(|mac| mac.chain_update(username).finalize().into_bytes())
            .unwrap_or_default();
        Zeroizing::new(STANDARD.encode(sum))
    }

    /// Credentials for `member`, for `ttl` seconds from `unix_ms` (at most [`MAX_TTL`]).
    #[must_use]
    pub fn issue(&self, member: &Member, ttl: u64, unix_ms: u64) -> Credentials {
        let ttl = ttl.min(MAX_TTL);
        let expiry = (unix_ms / 1_000).saturating_add(ttl);
        let name = Username { expiry, issued: unix_ms, member: member.clone() };
        let username = name.text();
        let password = self.password(&username);
        Credentials { username, password, ttl }
    }

    /// A key for another purpose, from the same secret.
    pub(crate) fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        Hmac::<Sha256>::new_from_slice(&self.0)
            .map(|mac| mac.chain_update(purpose).finalize().into_bytes().into())
            .unwrap_or_default()
    }
}

/// How a long-term key is made (RFC 8489 section 18.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    /// What PASSWORD-ALGORITHMS offers: number and empty parameters of each, best first.
    pub(crate) const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

    /// PASSWORD-ALGORITHM's value.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        match value {
            [0, 1, 0, 0] => Some(Self::Md5),
            [0, 2, 0, 0] => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// The long-term key: a hash of `username:realm:password`.
pub(crate) fn long_term_key(
    algorithm: Algorithm,
    username: &str,
    password: &str,
) -> Zeroizing<Vec<u8>> {
    key_in_realm(algorithm, username, REALM, password)
}

pub(crate) fn key_in_realm(
    algorithm: Algorithm,
    username: &str,
    realm: &str,
    password: &str,
) -> Zeroizing<Vec<u8>> {
    let text = Zeroizing::new(format!("{username}:{realm}:{password}"));
    Zeroizing::new(match algorithm {
        Algorithm::Md5 => Md5::digest(text.as_bytes()).to_vec(),
        Algorithm::Sha256 => Sha256::digest(text.as_bytes()).to_vec(),
    })
}
