//! A TURN client that is no longer than measurements need: one allocation over UDP, one channel.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use meshwire_transport::net::{Datagram, Net as _, OsNet};
use meshwire_turn::stun::{Builder, Class, Integrity, Message, Method};
use tokio::time::timeout;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// The channel that is bound.
pub(crate) const CHANNEL: u16 = 0x4000;

pub(crate) struct Client {
    pub(crate) socket: Box<dyn Datagram>,
    server: SocketAddr,
    username: String,
    password: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    transaction: u8,
}

impl Client {
    /// A client at `from` that is `member` by TURN REST credentials.
    pub(crate) async fn new(
        from: SocketAddr,
        server: SocketAddr,
        secret: &str,
        member: &str,
    ) -> Result<Self, Failure> {
        let username = format!("{}:{member}", OsNet.unix_ms() / 1_000 + 3_600);
        let mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes())?.chain_update(&username);
        let bytes = mac.finalize().into_bytes();
        let password = base64::engine::general_purpose::STANDARD.encode(bytes);
        let socket = OsNet.udp_bind(from).await?;
        let (realm, nonce, transaction) = (Vec::new(), Vec::new(), 0);
        Ok(Self { socket, server, username, password, realm, nonce, transaction })
    }

    /// Allocates, and binds the channel to `peer`.
    pub(crate) async fn allocate(&mut self, peer: SocketAddr) -> Result<(), Failure> {
        self.ask(Method::Allocate, &[(0x0019, vec![17, 0, 0, 0])]).await?;
        let peer = self.xored(peer);
        let number = [CHANNEL.to_be_bytes().to_vec(), vec![0, 0]].concat();
        self.ask(Method::ChannelBind, &[(0x000c, number), (0x0012, peer)]).await
    }

    async fn ask(&mut self, method: Method, attributes: &[(u16, Vec<u8>)]) -> Result<(), Failure> {
        for _ in 0..2 {
            self.transaction += 1;
            let mut message = Builder::new(Class::Request, method, &[self.transaction; 12]);
            for (kind, value) in attributes {
                message = message.attribute(*kind, value);
            }
            if !self.nonce.is_empty() {
                let realm = String::from_utf8_lossy(&self.realm);
                let text = format!("{}:{realm}:{}", self.username, self.password);
                message = message
                    .attribute(0x0006, self.username.as_bytes())
                    .attribute(0x0014, &self.realm)
                    .attribute(0x0015, &self.nonce)
                    .integrity(Integrity::Sha1, &Md5::digest(text));
            }
            self.socket.send_to(&message.finish(), self.server).await?;
            let mut buf = [0; 2_000];
            let wait = timeout(Duration::from_secs(5), self.socket.recv_from(&mut buf));
            let (length, _) = wait.await??;
            let answer = Message::parse(&buf[..length])?;
            if answer.class() == Class::Success {
                return Ok(());
            }
            self.realm = answer.attribute(0x0014).unwrap_or_default().to_vec();
            self.nonce = answer.attribute(0x0015).unwrap_or_default().to_vec();
        }
        Err(format!("{method:?} was refused").into())
    }

    /// The address as the next request that is signed has it.
    fn xored(&self, addr: SocketAddr) -> Vec<u8> {
        let message = Builder::new(Class::Request, Method::Binding, &[self.transaction + 1; 12]);
        message.xor_address(0x0012, addr).finish().split_off(24)
    }
}
