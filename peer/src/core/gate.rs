//! Which mail surfaces while its addressee is busy (design section 5.8, inventory B-047).
//!
//! A message that has been accepted, acked and put in its order comes here last. It passes, or waits
//! until its addressee's status lets it: idle lets everything pass, working and dnd only what is
//! urgent. Whatever changes a status, be it a caller, its time running out or a restart, goes
//! through [`Gate::set_status`], which returns what it frees: there is no unblock without a drain
//! (inventory B-055, defect 9).
//!
//! Drive contract: [`Gate::set_status`] for every addressee that is not idle before anything is
//! offered; then surface, in order, whatever either call returns. What waits is bounded; beyond the
//! bound the longest waiting of that addressee passes early, which costs quiet and nothing else.

use std::collections::{HashMap, VecDeque};

use meshwire_signaling::frame::Status;
use meshwire_signaling::{MeshId, Priority, PublicKey};

use super::inbox::Item;
use super::order::Waiting;

/// Most rows that wait per addressee: some 200 a minute for a working day.
pub const MAX_WAITING: usize = 65_536;

/// Content type of what `ping` measures with: it is acked like any message and never shown.
pub const PING_KIND: &str = "application/vnd.meshwire.ping";

/// One of our identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addressee {
    /// The mesh.
    pub mesh: MeshId,
    /// Its key.
    pub key: PublicKey,
}

/// A message that was accepted and has not surfaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its place among its author's messages.
    pub waiting: Waiting,
    /// Whom it is for.
    pub to: Addressee,
    /// Whether it is a ping: never shown, and therefore not gated.
    pub ping: bool,
}

impl Arrival {
    /// The message in inbox row `row`.
    #[must_use]
    pub fn new(item: &Item, row: i64) -> Self {
        Self {
            waiting: Waiting { counter: item.counter(), seq: item.seq, floor: item.floor, row },
            to: Addressee { mesh: item.mesh, key: item.recipient },
            ping: item.kind == PING_KIND,
        }
    }

    /// The same for a member, whose session it was for.
    #[must_use]
    pub fn handed_on(self, member: PublicKey) -> Self {
        Self { to: Addressee { key: member, ..self.to }, ..self }
    }
}

#[derive(Debug, Default)]
struct Door {
    status: Status,
    waiting: VecDeque<(Priority, i64)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Gate {
    doors: HashMap<Addressee, Door>,
    bound: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self::with_bound(MAX_WAITING)
    }
}

impl Gate {
    /// A gate where at most `bound` rows wait for each addressee.
    #[must_use]
    pub fn with_bound(bound: usize) -> Self {
        Self { doors: HashMap::new(), bound }
    }

    /// Takes a row whose turn it is; returns the rows that surface now, in order.
    #[must_use = "these rows surface now"]
    pub fn offer(&mut self, to: Addressee, priority: Priority, row: i64) -> Vec<i64> {
        let Some(door) = self.doors.get_mut(&to) else { return vec![row] };
        if door.status.lets(priority) {
            return vec![row];
        }
        door.waiting.push_back((priority, row));
        let over = door.waiting.len().saturating_sub(self.bound);
        door.waiting.drain(..over).map(|(_, row)| row).collect()
    }

    /// Notes what an addressee is doing; returns the rows that surface now, in order.
    #[must_use = "these rows surface now"]
    pub fn set_status(&mut self, to: Addressee, status: Status) -> Vec<i64> {
        if status == Status::Idle {
            let door = self.doors.remove(&to).unwrap_or_default();
            return door.waiting.into_iter().map(|(_, row)| row).collect();
        }
        let door = self.doors.entry(to).or_default();
        door.status = status;
        let mut out = Vec::new();
        door.waiting.retain(|(priority, row)| {
            let passes = status.lets(*priority);
            if passes {
                out.push(*row);
            }
            !passes
        });
        out
    }

    /// Lets another addressee have what waits for one that is no more; returns the rows that surface
    /// now, in order.
    #[must_use = "these rows surface now"]
    pub fn hand_on(&mut self, from: &Addressee, to: Addressee) -> Vec<i64> {
        let door = self.doors.remove(from).unwrap_or_default();
        door.waiting.into_iter().flat_map(|(priority, row)| self.offer(to, priority, row)).collect()
    }

    /// How many rows wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.doors.values().map(|d| d.waiting.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn who(n: u8) -> Addressee {
        Addressee { mesh: MeshId([1; 32]), key: PublicKey([n; 32]) }
    }

    #[test]
    fn the_table_of_status_and_priority() {
        use Priority::{Low, Next, Now};
        for (status, priority, passes) in [
            (Status::Idle, Now, true),
            (Status::Idle, Next, true),
            (Status::Idle, Low, true),
            (Status::Working, Now, true),
            (Status::Working, Next, false),
            (Status::Working, Low, false),
            (Status::Dnd, Now, true),
            (Status::Dnd, Next, false),
            (Status::Dnd, Low, false),
        ] {
            let mut gate = Gate::default();
            assert!(gate.set_status(who(1), status).is_empty());
            assert_eq!(gate.offer(who(1), priority, 7) == [7], passes, "{status:?} {priority:?}");
            assert_eq!(gate.offer(who(2), priority, 8), [8], "the other one is idle");
        }
    }

    #[test]
    fn defect_9_every_unblock_drains_in_order() {
        let mut gate = Gate::default();
        for blocked in [Status::Working, Status::Dnd] {
            assert!(gate.set_status(who(1), blocked).is_empty());
            for (row, priority) in [(1, Priority::Next), (2, Priority::Low), (3, Priority::Next)] {
                assert!(gate.offer(who(1), priority, row).is_empty());
            }
            // From one that blocks to another that blocks nothing is freed, and nothing lost.
            assert!(gate.set_status(who(1), Status::Dnd).is_empty());
            assert!(gate.set_status(who(2), Status::Idle).is_empty());
            assert_eq!(gate.set_status(who(1), Status::Idle), [1, 2, 3]);
            assert_eq!((gate.waiting(), gate.offer(who(1), Priority::Low, 4)), (0, vec![4]));
        }
    }

    #[test]
    fn what_waits_for_one_that_is_no_more_waits_for_another() {
        let mut gate = Gate::default();
        for n in [1, 2] {
            assert!(gate.set_status(who(n), Status::Dnd).is_empty());
        }
        for row in [1, 2] {
            assert!(gate.offer(who(1), Priority::Next, row).is_empty());
        }
        assert!(gate.hand_on(&who(1), who(2)).is_empty(), "the other one is busy too");
        assert!(gate.hand_on(&who(1), who(3)).is_empty(), "nothing is left");
        assert_eq!(gate.offer(who(1), Priority::Next, 3), [3], "nor its status");
        assert_eq!(gate.hand_on(&who(2), who(3)), [1, 2], "this one is idle");
        assert_eq!(gate.waiting(), 0);
    }

    #[test]
    fn the_longest_waiting_passes_when_too_much_waits() {
        let mut gate = Gate::with_bound(2);
        assert!(gate.set_status(who(1), Status::Dnd).is_empty());
        assert!(gate.offer(who(1), Priority::Next, 1).is_empty());
        assert!(gate.offer(who(1), Priority::Next, 2).is_empty());
        assert_eq!(gate.offer(who(1), Priority::Next, 3), [1]);
        assert_eq!(gate.set_status(who(1), Status::Idle), [2, 3]);
    }

    proptest! {
        /// Nothing is lost or doubled, and each priority of an addressee keeps its order.
        #[test]
        fn all_surface_once_and_in_order(steps in prop::collection::vec((0u8..3, 0u8..6), 0..200)) {
            let mut gate = Gate::with_bound(8);
            let mut out = Vec::new();
            let mut row = 0;
            let mut meant = HashMap::new();
            for (n, what) in steps {
                match what {
                    0..3 => {
                        let status = Status::ALL[usize::from(what)];
                        out.extend(gate.set_status(who(n), status));
                    }
                    p => {
                        let all = [Priority::Now, Priority::Next, Priority::Low];
                        let priority = all[usize::from(p - 3)];
                        row += 1;
                        meant.insert(row, (n, p));
                        out.extend(gate.offer(who(n), priority, row));
                    }
                }
            }
            for n in 0..3 {
                out.extend(gate.set_status(who(n), Status::Idle));
            }
            prop_assert_eq!(out.len(), meant.len());
            for n in 0..3 {
                for p in 3..6 {
                    let of: Vec<_> = out.iter().filter(|r| meant[r] == (n, p)).collect();
                    prop_assert!(of.is_sorted());
                }
            }
            prop_assert_eq!(gate.waiting(), 0);
        }
    }
}
