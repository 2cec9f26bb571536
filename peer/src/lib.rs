//! A meshwire node: durable outbox and inbox, path choice, keys and the local API.
//!
//! | module | what it holds |
//! |---|---|
//! | [`agent`] | one way to ask, whoever does the work |
//! | [`api`] | what can be asked |
//! | [`node`] | the node itself: meshes, links, mail |
//! | [`home`] | its folder and lock |
//! | [`core`] | decisions without I/O: outbox, inbox, order, resolve |
//! | [`path`] | which path a message takes, and when a direct one is sought |
//! | [`store`] | what it must not forget |
//! | [`doctor`] | what may be wrong, and what to do about it |
//! | [`local_api`], [`client`] | the two ends of its socket |

pub mod agent;
pub mod api;
pub mod client;
pub mod core;
pub mod doctor;
pub mod home;
mod keyring;
pub mod local_api;
pub mod node;
pub mod path;
pub mod store;

pub use agent::Agent;
pub use home::Home;
pub use node::Node;
