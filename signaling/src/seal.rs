//! Encryption between two identities, and under a random key.
//!
//! | what | how (libsodium's names) |
//! |---|---|
//! | key images | `crypto_sign_ed25519_{pk,sk}_to_curve25519` |
//! | box | `crypto_box` (X25519, HSalsa20, XSalsa20-Poly1305), 24-byte random nonce in front |
//! | secretbox | `crypto_secretbox` (XSalsa20-Poly1305), 24-byte random nonce in front |
//! | wrap | a box whose plaintext is a 32-byte content key |
//!
//! Every sealed value is `nonce (24) || ciphertext` where the ciphertext starts with the 16-byte
//! Poly1305 tag, as libsodium's `_easy` functions lay it out.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crypto_box::SalsaBox;
use crypto_box::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305};
use curve25519_dalek::edwards::CompressedEdwardsY;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::id::{Blob, Hash, PublicKey, SecretKey};
use crate::sign::{domains, layout};

/// Bytes of a nonce.
pub const NONCE: usize = 24;
/// Bytes that sealing adds: nonce and Poly1305 tag.
pub const OVERHEAD: usize = NONCE + 16;
/// Bytes of a sealed content key.
pub const WRAP: usize = 32 + OVERHEAD;

/// A fresh random nonce, drawn by the caller.
pub type Nonce = [u8; NONCE];

/// Why something could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The other side's key has no X25519 image, or the shared secret is all zero.
    #[error("unusable public key")]
    BadKey,
    /// Shorter than a nonce and a tag, or not made for this key: tampered or not for us.
    #[error("cannot be decrypted with this key")]
    Undecryptable,
}

/// The X25519 image of an ed25519 public key. Refuses what libsodium refuses: no curve point, small
/// order, or outside the prime-order group.
///
/// # Errors
/// [`SealError::BadKey`].
pub fn x25519_public(key: &PublicKey) -> Result<[u8; 32], SealError> {
    let point = CompressedEdwardsY(key.0).decompress().ok_or(SealError::BadKey)?;
    if point.is_small_order() || !point.is_torsion_free() {
        return Err(SealError::BadKey);
    }
    Ok(point.to_montgomery().to_bytes())
}

/// What two identities share: the box key and the raw secret that further keys are derived from.
/// Both sides compute the same pair. Zeroized on drop.
pub struct Pair {
    sealer: SalsaBox,
    secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(..)")
    }
}

impl Pair {
    /// Agrees with `theirs`.
    ///
    /// # Errors
    /// [`SealError::BadKey`] for keys without an image and for all-zero shared secrets.
    pub fn new(mine: &SecretKey, theirs: &PublicKey) -> Result<Self, SealError> {
        let image = x25519_public(theirs)?;
        let scalar = mine.x25519_scalar();
        let shared = x25519_dalek::StaticSecret::from(*scalar)
            .diffie_hellman(&x25519_dalek::PublicKey::from(image));
        if !shared.was_contributory() {
            return Err(SealError::BadKey);
        }
        let sealer = SalsaBox::new(
            &crypto_box::PublicKey::from(image),
            &crypto_box::SecretKey::from(*scalar),
        );
        Ok(Self { sealer, secret: Zeroizing::new(shared.to_bytes()) })
    }

    /// Seals for the other side. `nonce` must never repeat for this pair: 24 random bytes.
    #[must_use]
    pub fn seal(&self, nonce: &Nonce, plaintext: &[u8]) -> Vec<u8> {
        let mut out = nonce.to_vec();
        match self.sealer.encrypt(nonce.into(), plaintext) {
            Ok(ciphertext) => out.extend_from_slice(&ciphertext),
            // XSalsa20-Poly1305 fails only past 2^70 bytes.
            Err(_) => unreachable!("sealing in memory failed"),
        }
        out
    }

    /// Opens what the other side sealed.
    ///
    /// # Errors
    /// [`SealError::Undecryptable`].
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, ciphertext) = split(sealed)?;
        let plain = self.sealer.decrypt(nonce.into(), ciphertext);
        plain.map(Zeroizing::new).map_err(|_| SealError::Undecryptable)
    }

    /// The raw X25519 secret, for key derivation inside this crate.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

fn split(sealed: &[u8]) -> Result<(&Nonce, &[u8]), SealError> {
    sealed.split_first_chunk::<NONCE>().ok_or(SealError::Undecryptable)
}

/// A random 32-byte key for one group envelope, or a topic.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

impl ContentKey {
    /// A key from 32 random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// What a header says of this key: a commitment that hides it, so that one signature means one
    /// plaintext for every recipient.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        Hash::of(&layout(domains::CONTENT_KEY, &[self.0.as_slice()]))
    }

    /// `crypto_secretbox`, nonce in front.
    #[must_use]
    pub fn seal(&self, nonce: &Nonce, plaintext: &[u8]) -> Vec<u8> {
        let mut out = nonce.to_vec();
        match XSalsa20Poly1305::new((&*self.0).into()).encrypt(nonce.into(), plaintext) {
            Ok(ciphertext) => out.extend_from_slice(&ciphertext),
            Err(_) => unreachable!("sealing in memory failed"),
        }
        out
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`SealError::Undecryptable`].
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, ciphertext) = split(sealed)?;
        let plain = XSalsa20Poly1305::new((&*self.0).into()).decrypt(nonce.into(), ciphertext);
        plain.map(Zeroizing::new).map_err(|_| SealError::Undecryptable)
    }

    /// Seals this key for one recipient of a group envelope.
    #[must_use]
    pub fn wrap(&self, pair: &Pair, to: PublicKey, nonce: &Nonce) -> Wrap {
        Wrap { to, key: Blob(pair.seal(nonce, self.0.as_slice())) }
    }
}

/// A content key sealed for one recipient; lies outside the envelope's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrap {
    /// The recipient: a member, never a session.
    pub to: PublicKey,
    /// [`WRAP`] bytes: nonce, tag, sealed key.
    pub key: Blob,
}

impl Wrap {
    /// Opens the wrap and checks the key against the header's commitment.
    ///
    /// # Errors
    /// [`SealError::Undecryptable`] when it is not for this pair or not the committed key.
    pub fn open(&self, pair: &Pair, commitment: &Hash) -> Result<ContentKey, SealError> {
        let plain = pair.open(&self.key)?;
        let key = plain.as_slice().try_into().map_err(|_| SealError::Undecryptable)?;
        let key = ContentKey::new(key);
        if key.commitment() == *commitment { Ok(key) } else { Err(SealError::Undecryptable) }
    }
}

/// Pairs by peer: an X25519 agreement costs tens of microseconds, too much for each message.
/// Holds at most `2 × half` pairs; when the young half is full the old half is forgotten.
#[derive(Debug)]
pub struct PairCache {
    mine: SecretKey,
    half: usize,
    halves: Mutex<[HashMap<PublicKey, Arc<Pair>>; 2]>,
}

impl PairCache {
    /// A cache of pairs with `mine`.
    #[must_use]
    pub fn new(mine: SecretKey, half: usize) -> Self {
        Self { mine, half: half.max(1), halves: Mutex::default() }
    }

    /// Our own key.
    #[must_use]
    pub fn key(&self) -> &SecretKey {
        &self.mine
    }

    /// The pair with `theirs`, computed once.
    ///
    /// # Errors
    /// As [`Pair::new`]; failures are not cached.
    pub fn pair(&self, theirs: &PublicKey) -> Result<Arc<Pair>, SealError> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *halves;
        if let Some(pair) = young.get(theirs) {
            return Ok(pair.clone());
        }
        let pair = match old.remove(theirs) {
            Some(pair) => pair,
            None => Arc::new(Pair::new(&self.mine, theirs)?),
        };
        if young.len() >= self.half {
            *old = std::mem::take(young);
        }
        young.insert(*theirs, pair.clone());
        Ok(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (SecretKey, SecretKey) {
        (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]))
    }

    #[test]
    fn both_sides_share_one_pair_and_nobody_else_does() {
        let (a, b) = keys();
        let sealed = Pair::new(&a, &b.public()).unwrap().seal(&[9; 24], b"hi");
        let opened = Pair::new(&b, &a.public()).unwrap().open(&sealed).unwrap();
        assert_eq!(&**opened, b"hi");
        let eve = SecretKey::from_seed(&[3; 32]);
        let r = Pair::new(&eve, &a.public()).unwrap().open(&sealed);
        assert_eq!(r.unwrap_err(), SealError::Undecryptable);
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(Pair::new(&b, &a.public()).unwrap().open(&bad).is_err(), "byte {i}");
        }
        assert!(Pair::new(&b, &a.public()).unwrap().open(&sealed[..39]).is_err());
    }

    #[test]
    fn keys_that_give_a_zero_secret_are_refused() {
        let (a, _) = keys();
        let mut identity = [0; 32];
        identity[0] = 1;
        for bad in [identity, [0; 32], [0xff; 32]] {
            assert_eq!(Pair::new(&a, &PublicKey(bad)).unwrap_err(), SealError::BadKey);
        }
    }

    #[test]
    fn a_wrap_opens_for_its_recipient_and_its_commitment_only() {
        let (a, b) = keys();
        let key = ContentKey::new([5; 32]);
        let pair = Pair::new(&a, &b.public()).unwrap();
        let wrap = key.wrap(&pair, b.public(), &[1; 24]);
        assert_eq!(wrap.key.len(), WRAP);
        let theirs = Pair::new(&b, &a.public()).unwrap();
        assert!(wrap.open(&theirs, &key.commitment()).is_ok());
        assert!(wrap.open(&theirs, &ContentKey::new([6; 32]).commitment()).is_err());
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let (a, b) = keys();
        let cache = PairCache::new(a, 4);
        let first = cache.pair(&b.public()).unwrap();
        for i in 10..40u8 {
            cache.pair(&SecretKey::from_seed(&[i; 32]).public()).unwrap();
            assert!(Arc::ptr_eq(&first, &cache.pair(&b.public()).unwrap()));
        }
        let halves = cache.halves.lock().unwrap();
        assert!(halves[0].len() <= 4 && halves[1].len() <= 4);
    }
}
