//! The broker's admin token, which `mesh create` needs: a public broker is not open to all.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::id::{Hash, PublicKey};

const PREFIX: &str = "mwadmin1.";

/// `mwadmin1.` and the unpadded base64url of `secret (32) || broker key (32) || TLS pin (32, if any)`.
/// The secret alone is presented; key and pin let the first contact be authenticated.
#[derive(Clone)]
pub struct AdminToken {
    secret: Zeroizing<[u8; 32]>,
    /// The broker's key.
    pub broker: PublicKey,
    /// SHA-256 of the broker's TLS public key (SPKI), where it is self-signed.
    pub pin: Option<Hash>,
}

/// The text is no admin token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an admin token starts with {PREFIX} and is printed by the broker's first start; this is none"
)]
pub struct TokenError;

impl AdminToken {
    /// A token from 32 random bytes.
    #[must_use]
    pub fn new(secret: [u8; 32], broker: PublicKey, pin: Option<Hash>) -> Self {
        Self { secret: Zeroizing::new(secret), broker, pin }
    }

    /// What goes into the `Authorization: Bearer` header: hex of the secret.
    #[must_use]
    pub fn bearer(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.secret.as_slice()))
    }

    /// What the broker stores: SHA-256 of [`Self::bearer`]'s text.
    #[must_use]
    pub fn digest(&self) -> Hash {
        Hash::of(self.bearer().as_bytes())
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminToken(of broker {})", self.broker.short())
    }
}

impl fmt::Display for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut raw = Zeroizing::new(self.secret.to_vec());
        raw.extend_from_slice(&self.broker.0);
        if let Some(pin) = &self.pin {
            raw.extend_from_slice(&pin.0);
        }
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*raw))
    }
}

impl FromStr for AdminToken {
    type Err = TokenError;

    fn from_str(s: &str) -> Result<Self, TokenError> {
        let raw = s.trim().strip_prefix(PREFIX).ok_or(TokenError)?;
        if raw.len() > 200 {
            return Err(TokenError);
        }
        let raw = URL_SAFE_NO_PAD.decode(raw).map(Zeroizing::new).map_err(|_| TokenError)?;
        let (secret, rest) = raw.split_first_chunk::<32>().ok_or(TokenError)?;
        let (broker, pin) = rest.split_first_chunk::<32>().ok_or(TokenError)?;
        let pin = match pin {
            [] => None,
            pin => Some(Hash(pin.try_into().map_err(|_| TokenError)?)),
        };
        Ok(Self::new(*secret, PublicKey(*broker), pin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_hide_in_debug() {
        for pin in [None, Some(Hash([3; 32]))] {
            let token = AdminToken::new([1; 32], PublicKey([2; 32]), pin);
            let again: AdminToken = token.to_string().parse().unwrap();
            assert_eq!(
                (again.digest(), again.broker, again.pin),
                (token.digest(), token.broker, pin)
            );
            assert!(!format!("{token:?}").contains(&token.bearer()[..16]));
        }
        for bad in ["", "mwadmin1.", "mwadmin1.AAAA", "x"] {
            assert!(bad.parse::<AdminToken>().is_err());
        }
    }
}
