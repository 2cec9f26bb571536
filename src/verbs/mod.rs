//! A file per verb. Each has its arguments, whose doc comments are its help, and a function that
//! runs it and says how it ended.

pub(crate) mod broker;
pub(crate) mod demo;
pub(crate) mod down;
pub(crate) mod inbox;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod mesh;
pub(crate) mod message;
pub(crate) mod outbox;
pub(crate) mod peers;
pub(crate) mod send;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod verify;
