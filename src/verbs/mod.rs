//! A file per verb. Each has its arguments, whose doc comments are its help, and a function that
//! runs it and says how it ended.

pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod disconnect;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod group;
pub(crate) mod inbox;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod kick;
pub(crate) mod man;
pub(crate) mod mesh;
pub(crate) mod message;
pub(crate) mod netcheck;
pub(crate) mod outbox;
pub(crate) mod path;
pub(crate) mod peers;
pub(crate) mod ping;
pub(crate) mod pipe;
pub(crate) mod send;
pub(crate) mod session;
pub(crate) mod set;
pub(crate) mod sim;
pub(crate) mod status;
pub(crate) mod stream;
pub(crate) mod turn;
pub(crate) mod up;
pub(crate) mod verify;
