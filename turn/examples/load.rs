//! Datagrams of 1,200 bytes through one allocation of a TURN server on loopback, as fast as it passes
//! them on: `load SERVER SECRET [plain|joined] [SECONDS]`. Works with every server that knows TURN REST
//! credentials. Keeps a window in flight, so that it measures what arrives and not what is dropped.
//! `joined` sends several datagrams in one call, as QUIC does. Prints datagrams per second.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use meshwire_transport::net::{Datagram, Net as _, OsNet, RecvMeta, Transmit};
use meshwire_turn::stun::{Builder, Class, Integrity, Message, Method, channel_header};
use tokio::time::timeout;

type Failure = Box<dyn std::error::Error>;

const SIZE: usize = 1_200;
const FRAME: usize = SIZE + 4;
/// In flight: less than socket buffers hold, more than one round.
const WINDOW: u64 = 64;
const JOINED: usize = 16;
const CHANNEL: u16 = 0x4000;

struct Client {
    socket: Box<dyn Datagram>,
    server: SocketAddr,
    username: String,
    password: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    transaction: u8,
}

impl Client {
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

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "it is what this program is for")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: load SERVER SECRET [plain|joined] [SECONDS]";
    let server: SocketAddr = args.next().ok_or(usage)?.parse()?;
    let secret = args.next().ok_or(usage)?;
    let joined = if args.next().as_deref() == Some("joined") { JOINED } else { 1 };
    let seconds: u64 = args.next().map_or(Ok(3), |s| s.parse())?;

    let username = format!("{}:load", OsNet.unix_ms() / 1_000 + 3_600);
    let mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes())?.chain_update(&username);
    let password = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    let socket = OsNet.udp_bind(SocketAddr::new(server.ip(), 0)).await?;
    // Not the server's own address, which it does not relay to.
    let sink = OsNet.udp_bind(([127, 0, 0, 2], 0).into()).await?;
    let (realm, nonce, transaction) = (Vec::new(), Vec::new(), 0);
    let mut client = Client { socket, server, username, password, realm, nonce, transaction };
    client.ask(Method::Allocate, &[(0x0019, vec![17, 0, 0, 0])]).await?;
    let peer = client.xored(sink.local_addr()?);
    let number = [CHANNEL.to_be_bytes().to_vec(), vec![0, 0]].concat();
    client.ask(Method::ChannelBind, &[(0x000c, number), (0x0012, peer)]).await?;

    let mut frames = Vec::new();
    for _ in 0..joined {
        frames.extend(channel_header(CHANNEL, u16::try_from(SIZE)?));
        frames.resize(frames.len() + SIZE, 7);
    }
    let transmit = Transmit {
        destination: server,
        ecn: None,
        contents: &frames,
        segment_size: (joined > 1).then_some(FRAME),
        src_ip: None,
    };
    let (mut sent, mut arrived, mut lost) = (0_u64, 0_u64, 0_u64);
    let mut buffers = vec![0; 65_536 * 32];
    let begun = OsNet.now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        while sent - arrived - lost + u64::try_from(joined)? <= WINDOW {
            match client.socket.try_send(&transmit) {
                Ok(()) => sent += u64::try_from(joined)?,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    client.socket.writable().await?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        let mut metas = [RecvMeta::default(); 32];
        let received = std::future::poll_fn(|cx| {
            let mut slices: Vec<_> = buffers.chunks_mut(65_536).map(IoSliceMut::new).collect();
            match sink.poll_recv(cx, &mut slices, &mut metas) {
                Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
                other => other,
            }
        });
        match timeout(Duration::from_millis(50), received).await {
            Ok(count) => {
                let datagrams = metas[..count?].iter().map(|m| m.len / SIZE).sum::<usize>();
                arrived += u64::try_from(datagrams)?;
            }
            // Whatever is still missing was dropped.
            Err(_) => lost = sent - arrived,
        }
    }
    let rate = u128::from(arrived) * 1_000 / begun.elapsed().as_millis().max(1);
    println!("{rate} {lost}");
    Ok(())
}
