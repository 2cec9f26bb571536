//! The invite link: `https://broker.example/i/<invite key>#<fragment>`.
//!
//! The path names the invite and is all that a server sees. The fragment, unpadded base64url of
//! `version 1 || flags || invite seed (32) || mesh id (32) || broker key (32) || TLS pin (32, if flag 1)`,
//! is never sent to servers by browsers or by meshwire.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::id::{Hash, MeshId, PublicKey, SecretKey};

const VERSION: u8 = 1;
const FLAG_PIN: u8 = 1;
/// Longest link accepted; ours are under 350 bytes.
const MAX_LINK: usize = 2_048;

/// A parsed invite link. `Debug` hides the secret; `Display` shows it, for it is the invite.
#[derive(Clone)]
pub struct InviteLink {
    /// The broker's address: scheme, host, port and any path in front of `/i/`.
    pub base: String,
    /// The invite's secret key.
    pub secret: SecretKey,
    /// The mesh.
    pub mesh: MeshId,
    /// The broker's key.
    pub broker: PublicKey,
    /// SHA-256 of the broker's TLS public key (SPKI), where it is self-signed.
    pub pin: Option<Hash>,
}

/// Why a text is no invite link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No http(s) link with `/i/` in it.
    #[error("an invite looks like https://broker.example/i/…#…; this does not")]
    Shape,
    /// The part behind `#` is missing.
    #[error(
        "the part behind # is missing: it holds the invite's secret; copy the whole link, in quotes"
    )]
    NoFragment,
    /// The fragment does not decode.
    #[error("the part behind # is damaged or cut off: copy the whole link again")]
    Fragment,
    /// The fragment is of a newer version.
    #[error("the invite is of version {0}, this meshwire reads version {VERSION}: update meshwire")]
    Version(u8),
    /// Path and fragment name different invites.
    #[error("the two halves of the link belong to different invites: copy the whole link again")]
    Mismatch,
}

impl fmt::Debug for InviteLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteLink({}/i/{})", self.base, self.secret.public().short())
    }
}

impl fmt::Display for InviteLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut raw = Zeroizing::new(vec![VERSION, if self.pin.is_some() { FLAG_PIN } else { 0 }]);
        raw.extend_from_slice(self.secret.seed().as_slice());
        raw.extend_from_slice(&self.mesh.0);
        raw.extend_from_slice(&self.broker.0);
        if let Some(pin) = &self.pin {
            raw.extend_from_slice(&pin.0);
        }
        write!(f, "{}/i/{}#{}", self.base, self.secret.public(), URL_SAFE_NO_PAD.encode(&*raw))
    }
}

/// Takes 32 bytes off the front.
fn take(rest: &mut &[u8]) -> Result<[u8; 32], LinkError> {
    let (head, tail) = rest.split_first_chunk::<32>().ok_or(LinkError::Fragment)?;
    *rest = tail;
    Ok(*head)
}

impl FromStr for InviteLink {
    type Err = LinkError;

    fn from_str(s: &str) -> Result<Self, LinkError> {
        let s = s.trim();
        let web = s.starts_with("https://") || s.starts_with("http://");
        if !web || s.len() > MAX_LINK || s.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(LinkError::Shape);
        }
        let (url, fragment) = s.split_once('#').ok_or(LinkError::NoFragment)?;
        let (base, invite) = url.rsplit_once("/i/").ok_or(LinkError::Shape)?;
        let invite: PublicKey = invite.parse().map_err(|_| LinkError::Shape)?;
        let raw = URL_SAFE_NO_PAD.decode(fragment).map(Zeroizing::new);
        let raw = raw.map_err(|_| LinkError::Fragment)?;
        let [version, flags, rest @ ..] = raw.as_slice() else { return Err(LinkError::Fragment) };
        if *version != VERSION {
            return Err(LinkError::Version(*version));
        }
        let mut rest = rest;
        let secret = SecretKey::from_seed(&take(&mut rest)?);
        let mesh = MeshId(take(&mut rest)?);
        let broker = PublicKey(take(&mut rest)?);
        let pin = if flags & FLAG_PIN == 0 { None } else { Some(Hash(take(&mut rest)?)) };
        if !rest.is_empty() || flags & !FLAG_PIN != 0 {
            return Err(LinkError::Fragment);
        }
        if secret.public() != invite {
            return Err(LinkError::Mismatch);
        }
        Ok(Self { base: base.to_owned(), secret, mesh, broker, pin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pin: Option<Hash>) -> InviteLink {
        InviteLink {
            base: "https://broker.example:7900/mw".into(),
            secret: SecretKey::from_seed(&[1; 32]),
            mesh: MeshId([2; 32]),
            broker: SecretKey::from_seed(&[3; 32]).public(),
            pin,
        }
    }

    #[test]
    fn links_round_trip_with_and_without_pin() {
        for pin in [None, Some(Hash([4; 32]))] {
            let text = sample(pin).to_string();
            let link: InviteLink = text.parse().unwrap();
            assert_eq!(link.to_string(), text);
            assert_eq!((link.base.as_str(), link.pin), ("https://broker.example:7900/mw", pin));
        }
    }

    #[test]
    fn damaged_links_say_how() {
        let good = sample(Some(Hash([4; 32]))).to_string();
        let parse = |s: &str| s.parse::<InviteLink>().unwrap_err();
        assert_eq!(parse("hello"), LinkError::Shape);
        assert_eq!(parse(good.split('#').next().unwrap()), LinkError::NoFragment);
        assert_eq!(parse(&good[..good.len() - 5]), LinkError::Fragment);
        assert_eq!(parse(&good.replacen("/i/", "/j/", 1)), LinkError::Shape);
        let other = SecretKey::from_seed(&[9; 32]).public().to_string();
        let mine = SecretKey::from_seed(&[1; 32]).public().to_string();
        assert_eq!(parse(&good.replace(&mine, &other)), LinkError::Mismatch);
        assert_eq!(parse(&good.replace("#A", "#B")), LinkError::Version(0x05));
    }

    #[test]
    fn debug_hides_the_secret() {
        let link = sample(None);
        let fragment = link.to_string().split('#').next_back().unwrap().to_owned();
        assert!(!format!("{link:?}").contains(&fragment[..20]));
    }
}
