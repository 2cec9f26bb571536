//! meshwire as a library: programs that join a mesh, send and receive.
//!
//! ```
//! use meshwire::{Event, Node, api};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let broker = meshwire::testing::broker(dir.path()).await?;
//! # let ana = Node::at(&dir.path().join("ana")).await?;
//! # let invite = meshwire::testing::found(&ana, &broker).await?;
//! # let home = dir.path().join("bob");
//! // An identity is made at the first join and kept in the home folder.
//! let node = Node::at(&home).await?;
//! node.join(api::Join { invite, member_name: "bob".into() }).await?;
//!
//! // The message is on disk, sealed for ana alone, before `send` returns.
//! let mut events = node.events();
//! let hello: api::Send = serde_json::from_str(r#"{"to": "ana", "message": "hello"}"#)?;
//! let sent = node.send(hello).await?;
//! # let back: api::Send = serde_json::from_str(r#"{"to": "bob", "message": "welcome"}"#)?;
//! # ana.send(back).await?;
//!
//! // What comes in has been verified, decrypted and stored when you hear of it.
//! loop {
//!     match events.recv().await? {
//!         Event::Message(row) => break assert_eq!(row.item.content, b"welcome"),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # let wait = api::Inbox { wait_ms: Some(10_000), ..Default::default() };
//! # assert_eq!(ana.inbox(wait).await?[0].message, "hello");
//! # assert_eq!(sent.to, "ana");
//! # node.close().await;
//! # ana.close().await;
//! # broker.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Bytes in order go through a stream, over whatever path is up:
//!
//! ```
//! use meshwire::{Node, api};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let broker = meshwire::testing::broker(dir.path()).await?;
//! # let ana = Node::at(&dir.path().join("ana")).await?;
//! # let invite = meshwire::testing::found(&ana, &broker).await?;
//! # let bob = Node::at(&dir.path().join("bob")).await?;
//! # bob.join(api::Join { invite, member_name: "bob".into() }).await?;
//! let reading = tokio::spawn(async move {
//!     let mut stream = ana.accept_stream(api::AcceptStream::default()).await?;
//!     let mut text = String::new();
//!     stream.read_to_string(&mut text).await?;
//!     // An end of our own, or the stream is reset when it is dropped.
//!     stream.finish();
//! #   stream.finished().await?;
//! #   ana.close().await;
//!     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(text)
//! });
//! let ask = api::OpenStream { to: "ana".into(), name: "notes".into(), ..Default::default() };
//! let mut stream = bob.open_stream(ask).await?;
//! stream.write_all(b"any number of bytes").await?;
//! stream.shutdown().await?;
//! // Everything has arrived.
//! stream.finished().await?;
//! assert_eq!(reading.await?.map_err(|e| e.to_string())?, "any number of bytes");
//! # bob.close().await;
//! # broker.shutdown().await;
//! # Ok(())
//! # }
//! ```

pub use meshwire_coord::{Broker, BrokerConfig, BrokerError, Database, Policy, Tls};
pub use meshwire_peer::node::{
    DirectPaths, Event, Misbehaviour, Node, PeerStream, StreamHandle, StreamInfo, StreamStats,
};
pub use meshwire_peer::{Agent, Home, api};
pub use meshwire_transport::net::{Net, OsNet};

pub mod direct;
pub mod sim;
pub mod testing;
pub mod turn_desk;

/// README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
