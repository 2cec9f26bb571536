//! Address prefixes: `10.0.0.0/8`, `2001:db8::/32`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::ConfigError;

/// Addresses that share their first bits. The bits behind the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// # Errors
    /// [`ConfigError::Prefix`] when the length is more than the family has bits, or bits behind it are
    /// set.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, ConfigError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = Self { address, length };
        if length > bits || prefix.masked(address) != pack(address) {
            return Err(ConfigError::Prefix(format!("{address}/{length}")));
        }
        Ok(prefix)
    }

    /// Whether it covers `address`. Families never match each other.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == pack(self.address)
    }

    /// Number of leading bits that count.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    fn masked(&self, address: IpAddr) -> u128 {
        let ones = if address.is_ipv4() { 96 + u32::from(self.length) } else { self.length.into() };
        let zeros = 128_u32.saturating_sub(ones);
        pack(address) & u128::MAX.checked_shl(zeros).unwrap_or(0)
    }
}

/// An address as a number; IPv4 as its mapped IPv6 form, which no packet carries.
pub(crate) fn pack(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl FromStr for Prefix {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parsed = text
            .split_once('/')
            .and_then(|(a, l)| Some((a.parse::<IpAddr>().ok()?, l.parse::<u8>().ok()?)));
        let (address, length) = parsed.ok_or_else(|| ConfigError::Prefix(text.to_owned()))?;
        Self::new(address, length)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}
