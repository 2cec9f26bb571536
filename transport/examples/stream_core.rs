//! How fast the core of streams is alone: two sides in one thread, without I/O. Per byte there is one copy in `write`,
//! one seal, one copy that stands for a socket's, and one open.
//!
//! `cargo run --release -p meshwire-transport --example stream_core`

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::time::Duration;

use bytes::BytesMut;
use meshwire_signaling::stream::{
    Ends, Fresh, Keys, MAX_PLAINTEXT, OVERHEAD, Open, Role, Secret, Suite,
};
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use meshwire_transport::link::PathKind;
use meshwire_transport::stream::{Budget, LinkId, Read, Stream, StreamError, Windows};
use tokio::time::Instant;

/// Bytes of the application's writes.
const WRITE: usize = 64 << 10;
/// Bytes per measurement.
const ALL: usize = 2 << 30;
const LINK: LinkId = LinkId(0);
const FRESH: Fresh = Fresh([6; 32]);

fn ends() -> Ends {
    let [opener, acceptor] = [[2; 32], [3; 32]].map(PublicKey);
    Ends { mesh: MeshId([1; 32]), stream: StreamId([4; 16]), opener, acceptor }
}

fn main() -> Result<(), StreamError> {
    for suite in Suite::preferred() {
        let took = sealing(suite);
        println!("{:<18} seal + open alone  {:>6.0} MB/s", suite.as_str(), rate(took));
        let (took, records) = core(suite)?;
        println!(
            "{:<18} core, both sides   {:>6.0} MB/s ({records} records)",
            suite.as_str(),
            rate(took)
        );
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(took: Duration) -> f64 {
    ALL as f64 / took.as_secs_f64() / 1e6
}

/// The cipher's own speed on records of the largest size.
fn sealing(suite: Suite) -> Duration {
    let keys = |role| Keys::derive(Secret::new([5; 32]), suite, ends(), FRESH, role);
    let (mut seal, mut open) = (keys(Role::Opener).seal, keys(Role::Acceptor).open);
    let mut record = vec![7; MAX_PLAINTEXT + OVERHEAD];
    let began = Instant::now();
    for _ in 0..ALL / MAX_PLAINTEXT {
        let opened = seal.chunk(false, &mut record).and_then(|_| {
            let header = meshwire_signaling::stream::Header::parse(&record)?;
            open.open(&header, &mut record).map(|text| text.len())
        });
        assert_eq!(opened, Ok(MAX_PLAINTEXT));
    }
    began.elapsed()
}

/// All through two cores, one way.
fn core(suite: Suite) -> Result<(Duration, u64), StreamError> {
    let budget = Budget::new(256 << 20);
    let windows = Windows::default();
    let mut now = Instant::now();
    let (mut a, open) =
        Stream::open(Secret::new([5; 32]), "bench", ends(), &windows, &budget, now)?;
    let open = Open { suites: vec![suite], ..open };
    let mut b = Stream::accept(&open, ends(), FRESH, &windows, &budget, now)?;
    for side in [&mut a, &mut b] {
        side.link_up(LINK, PathKind::Memory, Some(Duration::from_millis(1)), now);
    }
    let block = vec![7; WRITE];
    let mut spare = Vec::new();
    let (mut written, mut read, mut records) = (0, 0, 0_u64);
    let began = now;
    while read < ALL {
        now = Instant::now();
        while written < ALL {
            let from = written % WRITE;
            let to = WRITE.min(from + ALL - written);
            let taken = a.write(&block[from..to], now)?;
            written += taken;
            if taken == 0 {
                break;
            }
        }
        records += carry(&mut a, &mut b, &mut spare, now);
        while let Read::Data(bytes) = b.read(usize::MAX, now)? {
            read += bytes.len();
            spare.extend(bytes.try_into_mut());
        }
        records += carry(&mut b, &mut a, &mut spare, now);
        a.handle_timeout(now);
        b.handle_timeout(now);
    }
    Ok((began.elapsed(), records))
}

/// The copy is a socket's; `spare` are buffers that were read.
fn carry(from: &mut Stream, to: &mut Stream, spare: &mut Vec<BytesMut>, now: Instant) -> u64 {
    let mut records = 0;
    while let Some(record) = from.poll_transmit(LINK, now) {
        let mut buffer = spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(&record);
        drop(record);
        assert_eq!(to.receive(LINK, buffer, now), Ok(()));
        records += 1;
    }
    records
}
