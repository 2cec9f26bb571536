//! Records of streams that wait for one socket, what is owed to their senders for them, and how fast members may
//! send them. No I/O, no clock.
//!
//! ```text
//! sender's socket --push--> Queue of the recipient's socket --pop--> recipient
//!        ^                                                    |
//!        +------ credit, in lumps ------- Owed <---- bytes ---+
//! ```
//!
//! A record is refused where all streams of its socket to its recipient would hold more than their window: no honest
//! sender comes there, for what it has sent counts until the broker says that it left.

mod owed;
mod queue;
mod quota;
#[cfg(test)]
mod tests;

pub use owed::Owed;
pub use queue::{Line, Popped, Queue, Refused};
pub use quota::Quota;

/// How many times what it has a member leaves free.
const LEAVE: u64 = 8;

/// Whether a member that has `own` bytes waiting may have `more`, where all members together have `used` of `limit`:
/// nobody has more than an eighth of what nobody has (a dynamic threshold, Choudhury and Hahne, 1998). Of `n` that take
/// all they can each has `limit / (n + 8)` if they come together, and an eighth less than the one before if they come
/// one by one and give nothing back.
#[must_use]
pub fn admits(own: u64, more: u64, used: u64, limit: u64) -> bool {
    own.saturating_add(more) <= limit.saturating_sub(used) / LEAVE
}
