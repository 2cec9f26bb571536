//! Many allocations at once on a TURN server on loopback, each of another client: `many SERVER SECRET
//! [COUNT]`. Prints how long making them took, and how many datagrams of 1,200 bytes per second pass when
//! they take turns at random. Wants as many descriptors as clients.

mod client;

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use client::{CHANNEL, Client, Failure};
use meshwire_transport::net::{Net as _, OsNet, RecvMeta};
use meshwire_turn::stun::channel_header;
use tokio::time::timeout;

const SIZE: usize = 1_200;
const WINDOW: u64 = 64;
const TIME: Duration = Duration::from_secs(3);
/// Clients of one /24: a server answers 1,000 strangers a second there.
const PER_PREFIX: u32 = 100;
/// Allocations of one member: a server has a limit for each.
const PER_MEMBER: u32 = 16;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "it is what this program is for")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: many SERVER SECRET [COUNT]";
    let server: SocketAddr = args.next().ok_or(usage)?.parse()?;
    let secret = args.next().ok_or(usage)?;
    let count: u32 = args.next().map_or(Ok(10_000), |n| n.parse())?;

    // Not the server's own address, which it does not relay to.
    let sink = OsNet.udp_bind(([127, 0, 0, 2], 0).into()).await?;
    let peer = sink.local_addr()?;
    let begun = OsNet.now();
    let mut clients = Vec::new();
    for n in 0..count {
        let [_, _, high, low] = (n / PER_PREFIX).to_be_bytes();
        let from = SocketAddr::from(([127, 1 + high, low, 1], 0));
        let member = format!("member{}", n / PER_MEMBER);
        let mut client = Client::new(from, server, &secret, &member).await?;
        client.allocate(peer).await?;
        clients.push(client);
    }
    let made = begun.elapsed();

    let mut frame = channel_header(CHANNEL, u16::try_from(SIZE)?).to_vec();
    frame.resize(frame.len() + SIZE, 7);
    let (mut sent, mut arrived, mut lost, mut next) = (0_u64, 0_u64, 0_u64, 0_usize);
    let mut buffers = vec![0; 65_536 * 32];
    let begun = OsNet.now();
    while begun.elapsed() < TIME {
        while sent - arrived - lost < WINDOW {
            // A prime step through them: each comes up as often, and no neighbour after another.
            next = next.wrapping_add(7_919);
            clients[next % clients.len()].socket.send_to(&frame, server).await?;
            sent += 1;
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
    let each = made / count.max(1);
    println!(
        "{count} allocations in {made:.1?} ({each:.0?} each); {rate} datagrams/s, {lost} lost"
    );
    Ok(())
}
