//! Randomness: one seed, one ChaCha stream per purpose.
//!
//! The stream's number is a hash of what draws from it (`"link:home/up"`), not of a running count, so
//! a host more or less leaves everybody else's draws as they were.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::error::ConfigError;

/// 2^53: as many steps as a double has between 0 and 1.
const STEPS: f64 = 9_007_199_254_740_992.0;

/// Draws for one purpose.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of `purpose` under `seed`.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(fnv1a(purpose.as_bytes()));
        Self(rng)
    }

    /// A number in `0..n`; zero when `n` is zero. The bias of the multiplication is below 2^-32.
    pub fn below(&mut self, n: u32) -> u32 {
        let wide = u64::from(self.0.next_u32()) * u64::from(n);
        u32::try_from(wide >> 32).unwrap_or(0)
    }

    /// Whether something of this chance happens. Draws nothing when it cannot happen.
    pub fn happens(&mut self, chance: Chance) -> bool {
        chance.0 != 0 && (self.0.next_u64() >> 11) < chance.0
    }

    /// Random bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// Uniform in `0..=max`.
    pub(crate) fn up_to(&mut self, max: u64) -> u64 {
        let wide = u128::from(self.0.next_u64()) * (u128::from(max) + 1);
        u64::try_from(wide >> 64).unwrap_or(max)
    }
}

/// A probability, checked once and kept as an integer so that draws are the same on every machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance(u64);

impl Chance {
    /// Never.
    pub const NEVER: Self = Self(0);
    /// Always.
    pub const ALWAYS: Self = Self(1 << 53);

    /// # Errors
    /// [`ConfigError::Chance`] unless `0.0 <= p <= 1.0`.
    pub fn new(p: f64) -> Result<Self, ConfigError> {
        if !(0.0..=1.0).contains(&p) {
            return Err(ConfigError::Chance(p));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0.0..=2^53 by the check above"
        )]
        Ok(Self((p * STEPS) as u64))
    }

    /// As a number from 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
        let steps = self.0 as f64;
        steps / STEPS
    }
}

/// FNV-1a, 64 bits: names to stream numbers.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
