//! The broker's decisions, without sockets, clock or database: values in, values out.

pub mod accept;
pub mod claim;
pub mod hello;
pub mod presence;
pub mod rate;
