//! How one pair of meshwire nodes moves bytes: the net seam, links and the broker relay.

pub mod link;
pub mod net;
