//! Raw quinn, for measurements: what a path of ours costs is told by what the same exchange costs
//! without it, in the same run.
//!
//! Two endpoints on loopback sockets of their own, with keys as a node's, quinn's own defaults, and
//! nothing of ours in between. What one sends on a stream, the other sends back.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, VarInt};
use tokio::task::AbortHandle;

use super::QuicError;
use super::tls::{Identity, SERVER_NAME};
use crate::net::Net;

/// Largest piece that is sent back at once.
const PIECE: usize = 64 << 10;

/// One end of a stream whose other end echoes. All ends with this.
pub struct Bare {
    send: SendStream,
    recv: RecvStream,
    echoing: AbortHandle,
    ends: [Endpoint; 2],
}

impl fmt::Debug for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bare")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.echoing.abort();
        for end in &self.ends {
            end.close(VarInt::from_u32(0), b"dropped");
        }
    }
}

impl Bare {
    /// Connects both endpoints and opens the stream.
    ///
    /// # Errors
    /// [`QuicError`]: no socket, or no connection.
    pub async fn connect(net: &dyn Net) -> Result<Self, QuicError> {
        let (near, far) = (Identity::new(net)?, Identity::new(net)?);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = ServerConfig::with_crypto(far.server(near.fingerprint())?);
        let far_end = Endpoint::server(server, any).map_err(QuicError::Socket)?;
        let near_end = Endpoint::client(any).map_err(QuicError::Socket)?;
        let to = far_end.local_addr().map_err(QuicError::Socket)?;
        let client = ClientConfig::new(near.client(far.fingerprint())?);
        let connecting = near_end.connect_with(client, to, SERVER_NAME)?;
        let incoming = async {
            let incoming = far_end.accept().await.ok_or(QuicError::Closed)?;
            Ok::<_, QuicError>(incoming.await?)
        };
        let (connection, accepted) = tokio::try_join!(async { Ok(connecting.await?) }, incoming)?;
        let echoing = tokio::spawn(echo(accepted)).abort_handle();
        let (send, recv) = connection.open_bi().await?;
        Ok(Self { send, recv, echoing, ends: [near_end, far_end] })
    }

    /// Sends `bytes` and waits until they are back; in a stream's order, so one at a time.
    ///
    /// # Errors
    /// [`QuicError::Closed`]: the connection is lost.
    pub async fn round_trip(&mut self, bytes: &mut [u8]) -> Result<(), QuicError> {
        self.send.write_all(bytes).await.map_err(|_| QuicError::Closed)?;
        self.recv.read_exact(bytes).await.map_err(|_| QuicError::Closed)
    }
}

async fn echo(connection: Connection) {
    let Ok((mut send, mut recv)) = connection.accept_bi().await else { return };
    while let Ok(Some(piece)) = recv.read_chunk(PIECE, true).await {
        if send.write_chunk(piece.bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::OsNet;

    #[tokio::test]
    async fn what_is_sent_comes_back() {
        let mut bare = Bare::connect(&OsNet).await.unwrap();
        for n in 0..3_u8 {
            let mut bytes = [n; 256];
            bare.round_trip(&mut bytes).await.unwrap();
            assert_eq!(bytes, [n; 256]);
        }
    }
}
