//! Hash maps whose order and speed do not hang on the process: fixed multiply-and-fold hashing.
//!
//! Not safe against chosen keys; the simulator's traffic is its user's own.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map from packed keys.
pub(crate) type Table<V> = HashMap<u128, V, BuildHasherDefault<Fold>>;

/// Folds 64 bits at a time with an odd constant.
#[derive(Default)]
pub(crate) struct Fold(u64);

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Fold {
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word ^ ODD) * u128::from(0xd6e8_feb8_6659_fd93_u64);
        let [a, b, c, d, e, f, g, h, low @ ..] = wide.to_be_bytes();
        self.0 = u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_be_bytes(low);
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u128(&mut self, key: u128) {
        let [a, b, c, d, e, f, g, h, low @ ..] = key.to_be_bytes();
        self.mix(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        self.mix(u64::from_be_bytes(low));
    }
}
