//! Reading messages.

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sha2::Sha256;

use super::{CRC, FINGERPRINT_XOR, MAGIC, attr};

/// A header's length, bytes.
pub const HEADER: usize = 20;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// No STUN header.
    #[error("no STUN header")]
    NotStun,
    /// The length does not fit what is there.
    #[error("its length is not the one that it declares")]
    Length,
    /// An attribute reaches past the end.
    #[error("an attribute reaches past its end")]
    Attribute,
    /// FINGERPRINT is not last or not the checksum.
    #[error("its fingerprint does not fit")]
    Fingerprint,
}

/// What a message is for (RFC 8489 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// The answer that was hoped for.
    Success,
    /// The other one.
    Error,
}

/// Method numbers of STUN and TURN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Tells an address (RFC 8489).
    Binding,
    /// Makes an allocation (RFC 8656 section 7).
    Allocate,
    /// Prolongs or ends it (section 8).
    Refresh,
    /// Data to a peer (section 11).
    Send,
    /// Data from a peer (section 11).
    Data,
    /// Lets a peer's address through (section 10).
    CreatePermission,
    /// Binds a number to a peer (section 12).
    ChannelBind,
    /// Any other.
    Other(u16),
}

impl Method {
    pub(crate) fn number(self) -> u16 {
        match self {
            Self::Binding => 1,
            Self::Allocate => 3,
            Self::Refresh => 4,
            Self::Send => 6,
            Self::Data => 7,
            Self::CreatePermission => 8,
            Self::ChannelBind => 9,
            Self::Other(n) => n & 0x0fff,
        }
    }

    fn from_number(n: u16) -> Self {
        match n {
            1 => Self::Binding,
            3 => Self::Allocate,
            4 => Self::Refresh,
            6 => Self::Send,
            7 => Self::Data,
            8 => Self::CreatePermission,
            9 => Self::ChannelBind,
            n => Self::Other(n),
        }
    }
}

/// The message type's 14 bits: the class's two lie among the method's twelve.
pub(crate) fn message_type(class: Class, method: Method) -> u16 {
    let m = method.number();
    let class = match class {
        Class::Request => 0,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    (m & 0x000f) | ((m & 0x0070) << 1) | ((m & 0x0f80) << 2) | class
}

fn split_type(n: u16) -> (Class, Method) {
    let class = match n & 0x0110 {
        0 => Class::Request,
        0x0010 => Class::Indication,
        0x0100 => Class::Success,
        _ => Class::Error,
    };
    let method = (n & 0x000f) | ((n & 0x00e0) >> 1) | ((n & 0x3e00) >> 2);
    (class, Method::from_number(method))
}

/// One attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number.
    pub kind: u16,
    /// Its value without padding.
    pub value: &'a [u8],
}

/// How a message is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY: HMAC-SHA1.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256, whole: no usage of ours agrees on a shorter one.
    Sha256,
}

/// A message whose structure and fingerprint (where there is one) are right.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: Method,
    /// Where the attributes end that an integrity protects, or all end that count.
    end: usize,
    sha1: Option<(usize, &'a [u8])>,
    sha256: Option<(usize, &'a [u8])>,
    fingerprint: bool,
}

impl<'a> Message<'a> {
    /// Reads exactly one message.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let head = bytes.first_chunk::<HEADER>().ok_or(ParseError::NotStun)?;
        let cookie = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if head[0] & 0xc0 != 0 || cookie != MAGIC {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if length % 4 != 0 || bytes.len() - HEADER != length {
            return Err(ParseError::Length);
        }
        let (class, method) = split_type(u16::from_be_bytes([head[0], head[1]]));
        let end = bytes.len();
        let mut message =
            Self { bytes, class, method, end, sha1: None, sha256: None, fingerprint: false };
        let mut at = HEADER;
        // What follows an integrity is not protected by it and is ignored, but for a stronger
        // integrity and the fingerprint (RFC 8489 sections 14.5 to 14.7).
        while at < bytes.len() {
            let attribute = attribute_at(bytes, at).ok_or(ParseError::Attribute)?;
            let next = at + 4 + attribute.value.len().next_multiple_of(4);
            if next > bytes.len() {
                return Err(ParseError::Attribute);
            }
            match attribute.kind {
                attr::MESSAGE_INTEGRITY if message.sha1.is_none() && message.sha256.is_none() => {
                    message.sha1 = Some((at, attribute.value));
                    message.end = message.end.min(at);
                }
                attr::MESSAGE_INTEGRITY_SHA256 if message.sha256.is_none() => {
                    message.sha256 = Some((at, attribute.value));
                    message.end = message.end.min(at);
                }
                attr::FINGERPRINT => {
                    let sum = fingerprint(bytes, at).to_be_bytes();
                    if next != bytes.len() || attribute.value != sum {
                        return Err(ParseError::Fingerprint);
                    }
                    message.end = message.end.min(at);
                    message.fingerprint = true;
                }
                _ => {}
            }
            at = next;
        }
        Ok(message)
    }

    /// What it is for.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// What it asks or answers.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Tells a request from others.
    #[must_use]
    pub fn transaction(&self) -> &'a [u8; 12] {
        const NONE: &[u8; 12] = &[0; 12];
        self.bytes[8..].first_chunk().unwrap_or(NONE)
    }

    /// Its attributes in order, integrity and what follows it left out.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let bytes = &self.bytes[..self.end];
        let mut at = HEADER;
        std::iter::from_fn(move || {
            let attribute = attribute_at(bytes, at)?;
            at += 4 + attribute.value.len().next_multiple_of(4);
            Some(attribute)
        })
    }

    /// The first attribute of that number: later ones of its kind do not count (RFC 8489
    /// section 14).
    #[must_use]
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|a| a.kind == kind).map(|a| a.value)
    }

    /// Whether it ends with a fingerprint (the right one, or it would be no message).
    #[must_use]
    pub fn has_fingerprint(&self) -> bool {
        self.fingerprint
    }

    /// The strongest integrity that it carries.
    #[must_use]
    pub fn integrity(&self) -> Option<Integrity> {
        match (self.sha256, self.sha1) {
            (Some(_), _) => Some(Integrity::Sha256),
            (None, Some(_)) => Some(Integrity::Sha1),
            (None, None) => None,
        }
    }

    /// Whether the strongest integrity that it carries was made with `key`. Constant time.
    #[must_use]
    pub fn verify(&self, key: &[u8]) -> bool {
        let (at, value, integrity) = match (self.sha256, self.sha1) {
            (Some((at, value)), _) => (at, value, Integrity::Sha256),
            (None, Some((at, value))) => (at, value, Integrity::Sha1),
            (None, None) => return false,
        };
        let head = protected_head(self.bytes, at, integrity);
        let body = &self.bytes[4..at];
        match integrity {
            Integrity::Sha1 => Hmac::<Sha1>::new_from_slice(key)
                .is_ok_and(|m| m.chain_update(head).chain_update(body).verify_slice(value).is_ok()),
            Integrity::Sha256 => Hmac::<Sha256>::new_from_slice(key)
                .is_ok_and(|m| m.chain_update(head).chain_update(body).verify_slice(value).is_ok()),
        }
    }
}

fn attribute_at(bytes: &[u8], at: usize) -> Option<Attribute<'_>> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let value = rest.get(..length)?;
    Some(Attribute { kind: u16::from_be_bytes([head[0], head[1]]), value })
}

/// A header's first four bytes as an integrity at `at` protects them: their length ends with it.
pub(crate) fn protected_head(bytes: &[u8], at: usize, integrity: Integrity) -> [u8; 4] {
    let value = match integrity {
        Integrity::Sha1 => 20,
        Integrity::Sha256 => 32,
    };
    let length = u16::try_from(at + 4 + value - HEADER).unwrap_or(u16::MAX).to_be_bytes();
    [bytes[0], bytes[1], length[0], length[1]]
}

/// FINGERPRINT's value for a message whose attribute begins at `at`.
pub(crate) fn fingerprint(bytes: &[u8], at: usize) -> u32 {
    let length = u16::try_from(at + 8 - HEADER).unwrap_or(u16::MAX).to_be_bytes();
    let mut digest = CRC.digest();
    digest.update(&[bytes[0], bytes[1], length[0], length[1]]);
    digest.update(&bytes[4..at]);
    digest.finalize() ^ FINGERPRINT_XOR
}
