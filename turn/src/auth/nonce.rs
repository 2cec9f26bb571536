//! Nonces without memory: whoever holds one got it at the address that it names, not long ago.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::net::SocketAddr;
use subtle::ConstantTimeEq as _;

/// RFC 8489 section 9.2: the nonce says which security features its server has.
const COOKIE: &str = "obMatJos2";
/// Base64 of the 24 feature bits with "password algorithms", the highest, set.
const FEATURES: &str = "gAAA";
/// How long a nonce is good for, seconds: RFC 8656 section 5 has at most an hour.
const LIFETIME: u64 = 3_600;
/// How far another's clock may seem ahead of ours after ours was set back, seconds.
const SLACK: u64 = 60;

/// The nonces of ours all say that PASSWORD-ALGORITHMS was sent.
pub(crate) const PASSWORD_ALGORITHMS_BIT: bool = true;

/// Makes and knows nonces.
pub(crate) struct Nonces {
    key: [u8; 32],
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces(…)")
    }
}

impl Nonces {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// A nonce for `client` at `unix` seconds.
    pub(crate) fn make(&self, client: SocketAddr, unix: u64) -> String {
        let unix = unix & 0xffff_ffff;
        let sum = Hmac::<Sha256>::new_from_slice(&self.key)
            .map(|mac| {
                let (ip, port) = match client.ip() {
                    std::net::IpAddr::V4(ip) => (ip.to_ipv6_mapped(), client.port()),
                    std::net::IpAddr::V6(ip) => (ip, client.port()),
                };
                mac.chain_update(unix.to_be_bytes())
                    .chain_update(ip.octets())
                    .chain_update(port.to_be_bytes())
                    .finalize()
                    .into_bytes()
            })
            .unwrap_or_default();
        let sum = sum.iter().take(16).fold(String::new(), |text, b| text + &format!("{b:02x}"));
        format!("{COOKIE}{FEATURES}{unix:08x}{sum}")
    }

    /// Whether `nonce` is one that `client` got from here and that is still good.
    pub(crate) fn is_good(&self, nonce: &[u8], client: SocketAddr, unix: u64) -> bool {
        let start = COOKIE.len() + FEATURES.len();
        let time = nonce.get(start..start + 8).and_then(|t| std::str::from_utf8(t).ok());
        let Some(time) = time.and_then(|t| u64::from_str_radix(t, 16).ok()) else {
            return false;
        };
        let now = unix & 0xffff_ffff;
        let fresh = now.saturating_sub(time) < LIFETIME && time.saturating_sub(now) < SLACK;
        fresh && bool::from(self.make(client, time).as_bytes().ct_eq(nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_bound_to_time_and_client() {
        let nonces = Nonces::new([1; 32]);
        let client: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let nonce = nonces.make(client, 1_000);
        assert!(nonce.starts_with("obMatJos2gAAA") && nonce.len() < 64);
        assert!(nonces.is_good(nonce.as_bytes(), client, 1_000));
        assert!(nonces.is_good(nonce.as_bytes(), client, 1_000 + LIFETIME - 1));
        assert!(nonces.is_good(nonce.as_bytes(), client, 950));
        assert!(!nonces.is_good(nonce.as_bytes(), client, 1_000 + LIFETIME));
        assert!(!nonces.is_good(nonce.as_bytes(), client, 900));
        assert!(!nonces.is_good(nonce.as_bytes(), "192.0.2.1:5001".parse().unwrap(), 1_000));
        assert!(!Nonces::new([2; 32]).is_good(nonce.as_bytes(), client, 1_000));
        for bad in ["", "obMatJos2", &nonce[1..], &format!("{nonce}0"), &nonce.replace('M', "é")] {
            assert!(!nonces.is_good(bad.as_bytes(), client, 1_000), "{bad}");
        }
    }
}
