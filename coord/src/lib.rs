//! The meshwire broker: signaling, discovery, presence and the offline queue.
