//! Raw quinn, for measurements: what a path of ours costs is told by what the same exchange costs
//! without it, in the same run.
//!
//! [`Bare`]: two endpoints on loopback sockets of their own, with keys as a node's, quinn's own defaults, and
//! nothing of ours in between. What one sends on a stream, the other sends back. [`BareEnd`]: one endpoint, for
//! bulk between processes, with a node's windows, congestion control and socket buffers.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use meshwire_signaling::Hash;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::AbortHandle;

use super::QuicError;
use super::congestion::Congestion;
use super::node::transport;
use super::tls::{Identity, SERVER_NAME};
use crate::net::Net;

/// Largest piece that is sent back at once.
const PIECE: usize = 64 << 10;
/// Bytes that wait in a socket of a [`BareEnd`], as in a node's.
const UDP_BUFFER: usize = 4 << 20;
/// Streams of a [`BareEnd`] at once.
const MOST_STREAMS: u32 = 2_048;

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

/// One end for bulk. All its connections end with it.
#[derive(Debug)]
pub struct BareEnd {
    identity: Identity,
    endpoint: Endpoint,
    addr: SocketAddr,
    transport: Arc<TransportConfig>,
}

impl Drop for BareEnd {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"dropped");
    }
}

impl BareEnd {
    /// Makes a key, and binds a loopback socket.
    ///
    /// # Errors
    /// [`QuicError::Socket`], [`QuicError::Tls`].
    pub fn start(net: &dyn Net) -> Result<Self, QuicError> {
        let identity = Identity::new(net)?;
        let socket = socket().map_err(QuicError::Socket)?;
        let addr = socket.local_addr().map_err(QuicError::Socket)?;
        let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
        let endpoint = Endpoint::new(config, None, socket, runtime).map_err(QuicError::Socket)?;
        let mut transport = transport(Congestion::default());
        transport.max_concurrent_bidi_streams(VarInt::from_u32(MOST_STREAMS));
        Ok(Self { identity, endpoint, addr, transport: Arc::new(transport) })
    }

    /// Where it is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// By what the other end knows it: SHA-256 of the SPKI of its key.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        self.identity.fingerprint()
    }

    /// Takes connections by `peer` from now on.
    ///
    /// # Errors
    /// [`QuicError::Tls`].
    pub fn listen(&self, peer: Hash) -> Result<(), QuicError> {
        let mut server = ServerConfig::with_crypto(self.identity.server(peer)?);
        server.transport_config(Arc::clone(&self.transport));
        self.endpoint.set_server_config(Some(server));
        Ok(())
    }

    /// The next connection.
    ///
    /// # Errors
    /// [`QuicError`]: there is none.
    pub async fn accept(&self) -> Result<Connection, QuicError> {
        Ok(self.endpoint.accept().await.ok_or(QuicError::Closed)?.await?)
    }

    /// Connects to another end, which listens for this one.
    ///
    /// # Errors
    /// [`QuicError`]: no connection.
    pub async fn connect(&self, to: SocketAddr, peer: Hash) -> Result<Connection, QuicError> {
        let mut client = ClientConfig::new(self.identity.client(peer)?);
        client.transport_config(Arc::clone(&self.transport));
        Ok(self.endpoint.connect_with(client, to, SERVER_NAME)?.await?)
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Systems cap this or refuse; what they give is better than nothing.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket.into())
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

    #[tokio::test]
    async fn two_ends_have_streams() {
        let [near, far] = [(); 2].map(|()| BareEnd::start(&OsNet).unwrap());
        far.listen(near.fingerprint()).unwrap();
        let connecting = near.connect(far.addr(), far.fingerprint());
        let (near, far) = tokio::try_join!(connecting, far.accept()).unwrap();
        let (mut send, _recv) = near.open_bi().await.unwrap();
        send.write_all(&[7; 100_000]).await.unwrap();
        send.finish().unwrap();
        let (_send, mut recv) = far.accept_bi().await.unwrap();
        assert_eq!(recv.read_to_end(200_000).await.unwrap(), [7; 100_000]);
    }
}
