//! What one datagram costs the server's core, by how many allocations there are: `core`. Prints
//! nanoseconds per channel datagram from a client and to one.

use std::net::SocketAddr;
use std::time::Duration;

use md5::{Digest as _, Md5};
use meshwire_transport::net::{Net as _, OsNet};
use meshwire_turn::auth::REALM;
use meshwire_turn::core::{Flow, Limits, Now, Outcome, Server, Setup, Transport};
use meshwire_turn::stun::{Builder, Class, Integrity, Message, Method, channel_header};
use meshwire_turn::{AddressPolicy, Kind, Member, Secret};

type Failure = Box<dyn std::error::Error>;
const NOW: Now = Now { tick: 0, unix_ms: 1_700_000_000_000 };
const TIMES: u32 = 200_000;

fn flow(n: u32) -> Flow {
    let [_, b, c, d] = n.to_be_bytes();
    let client = SocketAddr::from(([8, b, c, d], 5_000));
    Flow { transport: Transport::Udp, id: 0, local: None, client }
}

fn measure(count: u32) -> Result<[Duration; 2], Failure> {
    let secret = Secret::new("secret");
    let (policy, behaviour) = (AddressPolicy::default(), None);
    let limits = Limits { bytes_per_second: u64::MAX / 2_000, ..Limits::default() };
    let setup = Setup { secret: secret.clone(), policy, limits, v4: true, v6: false, behaviour };
    let mut server: Server<u32> = Server::new(setup);
    let peer: SocketAddr = "1.1.1.1:9".parse()?;
    let mut ids = Vec::new();
    for n in 0..count {
        let member = Member::new(Kind::Member, &format!("m{n}"))?;
        let given = secret.issue(&member, 3_600, NOW.unix_ms);
        let key = Md5::digest(format!("{}:{REALM}:{}", given.username, *given.password));
        let flow = flow(n);
        let hello = Builder::new(Class::Request, Method::Allocate, &[0; 12]).finish();
        // All clients are of a few prefixes, which get 1,000 answers each second.
        let now = Now { tick: u64::from(n) * 10, ..NOW };
        let Outcome::Reply(reply, _) = server.client_sent(now, &flow, &hello) else {
            return Err("no answer".into());
        };
        let nonce = Message::parse(&reply)?.attribute(0x0015).unwrap_or_default().to_vec();
        let sign = |message: Builder| {
            let message = message.attribute(0x0006, given.username.as_bytes());
            let message = message.attribute(0x0014, REALM.as_bytes()).attribute(0x0015, &nonce);
            message.integrity(Integrity::Sha1, &key).finish()
        };
        let allocate = Builder::new(Class::Request, Method::Allocate, &[1; 12]);
        let allocate = sign(allocate.attribute(0x0019, &[17, 0, 0, 0]));
        let Outcome::Open(open) = server.client_sent(now, &flow, &allocate) else {
            return Err("no allocation".into());
        };
        let [_, _, high, low] = n.to_be_bytes();
        let relayed = SocketAddr::from(([9, 9, high, low], 50_000));
        server.opened(open.allocation, Ok((n, relayed)));
        ids.push(open.allocation);
        let bind = Builder::new(Class::Request, Method::ChannelBind, &[2; 12]);
        let bind = bind.attribute(0x000c, &[0x40, 0, 0, 0]).xor_address(0x0012, peer);
        server.client_sent(now, &flow, &sign(bind));
    }
    let now = Now { tick: u64::from(count) * 10, ..NOW };
    let mut frame = channel_header(0x4000, 1_200).to_vec();
    frame.resize(1_204, 7);
    let begun = OsNet.now();
    for n in 0..TIMES {
        let outcome = server.client_sent(now, &flow(n.wrapping_mul(7_919) % count), &frame);
        assert!(matches!(outcome, Outcome::ToPeer { .. }));
    }
    let out = begun.elapsed() / TIMES;
    let begun = OsNet.now();
    for n in 0..usize::try_from(TIMES)? {
        let id = ids[n.wrapping_mul(7_919) % ids.len()];
        assert!(server.peer_sent(now, id, peer, 1_200).is_some());
    }
    Ok([out, begun.elapsed() / TIMES])
}

#[expect(clippy::print_stdout, reason = "it is what this program is for")]
fn main() -> Result<(), Failure> {
    for count in [1, 100, 1_000, 10_000] {
        let [out, back] = measure(count)?;
        println!("{count} allocations: {out:?} per datagram from a client, {back:?} to one");
    }
    Ok(())
}
