//! Numbers by which it is seen without a lock that nobody in a mesh has come or gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use meshwire_signaling::MeshId;

/// The number of each mesh in which somebody looks at it.
#[derive(Debug, Default)]
pub(super) struct Epochs(HashMap<MeshId, Weak<AtomicU64>>);

/// One mesh's number.
#[derive(Clone, Debug)]
pub(super) struct Epoch(Arc<AtomicU64>);

impl Epoch {
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Epochs {
    /// The number of `mesh`.
    pub(super) fn of(&mut self, mesh: &MeshId) -> Epoch {
        if let Some(known) = self.0.get(mesh).and_then(Weak::upgrade) {
            return Epoch(known);
        }
        self.0.retain(|_, epoch| epoch.strong_count() > 0);
        let fresh = Arc::default();
        self.0.insert(*mesh, Arc::downgrade(&fresh));
        Epoch(fresh)
    }

    /// Somebody in `mesh` has come or gone.
    pub(super) fn moved(&self, mesh: &MeshId) {
        if let Some(epoch) = self.0.get(mesh).and_then(Weak::upgrade) {
            epoch.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mesh_has_its_own_for_as_long_as_somebody_looks() {
        let mut epochs = Epochs::default();
        let [a, b] = [MeshId([1; 32]), MeshId([2; 32])];
        let (of_a, again, of_b) = (epochs.of(&a), epochs.of(&a), epochs.of(&b));
        let before = (of_a.now(), of_b.now());
        epochs.moved(&a);
        assert_ne!(of_a.now(), before.0);
        assert_eq!((again.now(), of_b.now()), (of_a.now(), before.1));
        drop((of_a, again));
        epochs.moved(&a);
        let _c = epochs.of(&MeshId([3; 32]));
        assert_eq!(epochs.0.len(), 2, "nobody looks at the first any more");
    }
}
