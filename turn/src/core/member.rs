//! What each member uses.

use super::Server;
use crate::auth::Member;
use crate::quota::Bucket;

/// How long the empty bucket of a member without allocations is remembered, milliseconds: it is
/// full again then, so that allocating anew gains nothing.
const REMEMBER: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) allocations: usize,
    bucket: Bucket,
    seen: u64,
}

impl<R> Server<R> {
    /// Counts one more allocation, if the quota has room.
    pub(super) fn claim_allocation(&mut self, member: &Member, tick: u64) -> bool {
        let limits = self.setup.limits;
        if self.members.len() > limits.allocations && !self.members.contains_key(member) {
            self.members.retain(|_, u| u.allocations > 0 || tick < u.seen.saturating_add(REMEMBER));
        }
        let usage = self.members.entry(member.clone()).or_insert_with(|| Usage {
            allocations: 0,
            bucket: Bucket::full(limits.bytes_per_second, tick),
            seen: tick,
        });
        let room = usage.allocations < limits.per_member;
        usage.allocations += usize::from(room);
        room
    }

    /// Counts payload, if the quota has room.
    pub(super) fn claim_bytes(&mut self, member: &Member, bytes: u64, tick: u64) -> bool {
        let rate = self.setup.limits.bytes_per_second;
        self.members.get_mut(member).is_some_and(|usage| {
            usage.seen = tick;
            usage.bucket.take(bytes, rate, tick)
        })
    }
}
