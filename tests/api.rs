//! The local API as programs see it: over the socket and over loopback TCP, against real nodes.

// Helpers panic, which is what they are for.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

mod api {
    pub(crate) mod http;
    pub(crate) mod schema;

    mod docs;
    mod document;
    mod doors;
    mod events;
    mod limits;
    mod sending;
    mod sessions;
    mod streams;
}
