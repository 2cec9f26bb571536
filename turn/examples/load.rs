//! Datagrams of 1,200 bytes through one allocation of a TURN server on loopback, as fast as it passes
//! them on: `load SERVER SECRET [plain|joined] [SECONDS]`. Works with every server that knows TURN REST
//! credentials. Keeps a window in flight, so that it measures what arrives and not what is dropped.
//! `joined` sends several datagrams in one call, as QUIC does. Prints datagrams per second.

mod client;

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use client::{CHANNEL, Client, Failure};
use meshwire_transport::net::{Net as _, OsNet, RecvMeta, Transmit};
use meshwire_turn::stun::channel_header;
use tokio::time::timeout;

const SIZE: usize = 1_200;
const FRAME: usize = SIZE + 4;
/// In flight: less than socket buffers hold, more than one round.
const WINDOW: u64 = 64;
const JOINED: usize = 16;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "it is what this program is for")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: load SERVER SECRET [plain|joined] [SECONDS]";
    let server: SocketAddr = args.next().ok_or(usage)?.parse()?;
    let secret = args.next().ok_or(usage)?;
    let joined = if args.next().as_deref() == Some("joined") { JOINED } else { 1 };
    let seconds: u64 = args.next().map_or(Ok(3), |s| s.parse())?;

    // Not the server's own address, which it does not relay to.
    let sink = OsNet.udp_bind(([127, 0, 0, 2], 0).into()).await?;
    let mut client = Client::new(SocketAddr::new(server.ip(), 0), server, &secret, "load").await?;
    client.allocate(sink.local_addr()?).await?;

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
