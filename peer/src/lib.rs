//! A meshwire node: durable outbox and inbox, path choice, keys and the local API.
