//! Writing messages.

use std::net::SocketAddr;

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sha2::Sha256;

use super::message::{fingerprint, message_type, protected_head};
use super::{Class, HEADER, Integrity, MAGIC, Method, attr, encode_plain, encode_xor};

/// A message in the making. What would make it longer than its length field can say is left out.
#[derive(Debug, Clone)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// An empty message.
    #[must_use]
    pub fn new(class: Class, method: Method, transaction: &[u8; 12]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(message_type(class, method).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(transaction);
        Self { bytes }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let total = self.bytes.len() + 4 + value.len().next_multiple_of(4);
        let (Ok(length), Ok(all)) = (u16::try_from(value.len()), u16::try_from(total - HEADER))
        else {
            return;
        };
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(total, 0);
        self.bytes[2..4].copy_from_slice(&all.to_be_bytes());
    }

    fn transaction(&self) -> [u8; 12] {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER]);
        id
    }

    /// Adds an xored address.
    #[must_use]
    pub fn xor_address(mut self, kind: u16, addr: SocketAddr) -> Self {
        let mut value = Vec::with_capacity(20);
        encode_xor(&mut value, addr, &self.transaction());
        self.push(kind, &value);
        self
    }

    /// Adds an address as it is.
    #[must_use]
    pub fn address(mut self, kind: u16, addr: SocketAddr) -> Self {
        let mut value = Vec::with_capacity(20);
        encode_plain(&mut value, addr);
        self.push(kind, &value);
        self
    }

    /// Adds ERROR-CODE.
    #[must_use]
    pub fn error(self, code: u16, reason: &str) -> Self {
        let [class, number] = [code / 100, code % 100].map(|n| u8::try_from(n).unwrap_or(0));
        let mut value = vec![0, 0, class, number];
        value.extend(reason.as_bytes());
        self.attribute(attr::ERROR_CODE, &value)
    }

    /// Adds an integrity over all that is there.
    #[must_use]
    pub fn integrity(mut self, integrity: Integrity, key: &[u8]) -> Self {
        let at = self.bytes.len();
        let head = protected_head(&self.bytes, at, integrity);
        let body = &self.bytes[4..];
        match integrity {
            Integrity::Sha1 => {
                if let Ok(mac) = Hmac::<Sha1>::new_from_slice(key) {
                    let sum = mac.chain_update(head).chain_update(body).finalize().into_bytes();
                    self.push(attr::MESSAGE_INTEGRITY, &sum);
                }
            }
            Integrity::Sha256 => {
                if let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) {
                    let sum = mac.chain_update(head).chain_update(body).finalize().into_bytes();
                    self.push(attr::MESSAGE_INTEGRITY_SHA256, &sum);
                }
            }
        }
        self
    }

    /// Adds FINGERPRINT.
    #[must_use]
    pub fn fingerprint(mut self) -> Self {
        let sum = fingerprint(&self.bytes, self.bytes.len());
        self.push(attr::FINGERPRINT, &sum.to_be_bytes());
        self
    }

    /// The message.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
