//! Buffers for records that come in. A fresh allocation of 32 KiB for each would take longer than its cipher.

use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use meshwire_signaling::stream::MAX_RECORD;

/// A record, and the length of the next one, where a carrier puts that in front.
const ROOM: usize = MAX_RECORD + 2;

/// Buffers that wait to be used, of all streams: 2 MiB.
const SPARE: usize = 64;

static POOL: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// An empty buffer with room for a record of `length` bytes and two more, for [`super::Live::receive`]. A large one is
/// used again once the application has read what was in it. A small one is never much larger than the record: what
/// counts for a window is the record, and what it pins is the buffer.
#[must_use]
pub fn buffer(length: usize) -> BytesMut {
    if length < MAX_RECORD / 2 {
        return BytesMut::with_capacity(length + 2);
    }
    let spare = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
    spare.unwrap_or_else(|| BytesMut::with_capacity(ROOM))
}

/// Takes back what was read, if nobody holds a part of it and it is a whole buffer.
pub(super) fn recycle(read: Bytes) {
    let Ok(mut buffer) = read.try_into_mut() else { return };
    buffer.clear();
    // The header in front of what was read is part of it again.
    if buffer.try_reclaim(ROOM) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < SPARE {
            pool.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_sliced_is_whole_again() {
        let mut first = buffer(MAX_RECORD);
        first.resize(MAX_RECORD, 7);
        let at = first.as_ptr();
        let text = first.freeze().slice(28..MAX_RECORD - 16);
        let mut again = text.try_into_mut().unwrap();
        again.clear();
        assert!(again.try_reclaim(ROOM));
        again.resize(MAX_RECORD, 0);
        assert_eq!(again.as_ptr(), at);
        let held = again.freeze();
        recycle(held.clone());
        assert_eq!(held.len(), MAX_RECORD, "somebody holds it");
    }
}
