//! Measuring a path with the kernel's own sockets, so that what is measured is what programs get.
//!
//! Each end is a UDP socket that a thread opened inside the host's namespace ([`super::namespace`]); no
//! program needs to be installed there. First small probes are echoed, for round trips and the losses
//! of each direction; then, where a rate was asked, a third more than it is sent each way and what
//! arrives is timed. The whole takes some two seconds plus round trips.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::clock;
use super::expect::{Expected, Way};

/// Bits of a probe as IPv4 packet; with IPv6's header it is 20 bytes longer.
pub(super) const PROBE_BITS: f64 = 64.0 * 8.0;
/// Bytes of a probe: what makes 64 with the headers of IPv4 and UDP.
const PROBE: usize = 36;
/// First bytes of a probe and of a packet of the flood: ports can be guessed by others.
const MAGIC: [u8; 8] = *b"mw-probe";
const FLOOD: [u8; 8] = *b"mw-flood";
/// How many probes, when time allows: standard error of 10 % loss: 0.95 %.
const PROBES: u32 = 1000;
/// The least, on slow links.
const FEW_PROBES: u32 = 100;
/// How far apart; on slow links further, so that they fill a quarter of the rate.
const SPACING: Duration = Duration::from_millis(1);
/// How long probes are sent, unless even a few need longer.
const PROBING: Duration = Duration::from_secs(4);
/// Silence after which nothing more is expected, beyond the path's latency.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a flood lasts, and how much of the asked rate it is.
const FLOODING: Duration = Duration::from_secs(1);
const SURPLUS: f64 = 1.33;
/// Packets that a flood has at least: on slow links they are smaller.
const FLOOD_PACKETS: f64 = 150.0;
const FLOOD_SIZES: (f64, f64) = (100.0, 1200.0);
/// How often a waiting thread looks whether it is over.
const TICK: Duration = Duration::from_millis(20);
/// A sleep may last this much longer than asked; the rest is waited for awake.
const OVERSLEEP: Duration = Duration::from_micros(150);
/// Headers of IPv4 or IPv6, and UDP.
const HEADERS: (u32, u32) = (28, 48);

/// What arrived of a flood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// IP bits per second between the first and the last packet.
    pub bits_per_second: f64,
    /// How many packets.
    pub packets: u32,
}

/// What a path did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Probes that were sent.
    pub sent: u32,
    /// Of these arrived.
    pub arrived: u32,
    /// Of these came back.
    pub returned: u32,
    /// Median round trip.
    pub rtt: Duration,
    /// Shortest round trip.
    pub fastest: Duration,
    /// What passes towards the other host; none where no link has a rate.
    pub rate_there: Option<Flow>,
    /// What passes from it.
    pub rate_back: Option<Flow>,
}

/// Measures between two sockets. `far` is reached at `to`.
pub(super) fn measure(
    near: &UdpSocket,
    far: &UdpSocket,
    to: SocketAddr,
    expected: &Expected,
) -> io::Result<Measured> {
    // On threads that hurry, which the caller's need not.
    std::thread::scope(|scope| {
        let work = || {
            clock::hurry();
            in_a_hurry(near, far, to, expected)
        };
        joined(scope.spawn(work))
    })
}

fn in_a_hurry(
    near: &UdpSocket,
    far: &UdpSocket,
    to: SocketAddr,
    expected: &Expected,
) -> io::Result<Measured> {
    let (count, spacing) = pace(expected);
    let patience = PATIENCE
        .saturating_add(expected.there.most)
        .saturating_add(expected.back.most)
        .min(Duration::from_secs(30));
    let echoes = echo(near, far, to, count, spacing, patience)?;
    let mut trips = echoes.trips;
    trips.sort_unstable();
    let mut measured = Measured {
        sent: count,
        arrived: echoes.arrived,
        returned: u32::try_from(trips.len()).unwrap_or(u32::MAX),
        rtt: trips.get(trips.len() / 2).copied().unwrap_or_default(),
        fastest: trips.first().copied().unwrap_or_default(),
        rate_there: None,
        rate_back: None,
    };
    if let Some(seen_as) = echoes.seen_as {
        measured.rate_there = flood(near, far, to, &expected.there, patience)?;
        measured.rate_back = flood(far, near, seen_as, &expected.back, patience)?;
    }
    Ok(measured)
}

/// How many probes, and how far apart.
fn pace(expected: &Expected) -> (u32, Duration) {
    let rates = [expected.there.rate, expected.back.rate];
    let slowest = rates.into_iter().flatten().map(bits).fold(f64::INFINITY, f64::min);
    let spaced = Duration::try_from_secs_f64(4.0 * PROBE_BITS / slowest).unwrap_or(PROBING);
    let spacing = spaced.max(SPACING);
    let fit = PROBING.as_nanos() / spacing.as_nanos().max(1);
    (u32::try_from(fit).unwrap_or(PROBES).clamp(FEW_PROBES, PROBES), spacing)
}

#[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
fn bits(rate: u64) -> f64 {
    rate as f64
}

struct Echoes {
    arrived: u32,
    trips: Vec<Duration>,
    /// The near end as the far end sees it, behind NATs.
    seen_as: Option<SocketAddr>,
}

/// Nanoseconds from `base` until now.
fn clock_ns(base: Instant) -> u64 {
    u64::try_from(clock::now().saturating_duration_since(base).as_nanos()).unwrap_or(u64::MAX)
}

fn echo(
    near: &UdpSocket,
    far: &UdpSocket,
    to: SocketAddr,
    count: u32,
    spacing: Duration,
    patience: Duration,
) -> io::Result<Echoes> {
    let base = clock::now();
    let (done, heard, back) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let reflector = scope.spawn(|| reflect(far, &done));
        let listener = scope.spawn(|| {
            let (mut seen, mut trips) = (BTreeSet::new(), Vec::new());
            listen(near, &done, |probe, _| {
                if let Some((number, sent)) = read_probe(probe)
                    && seen.insert(number)
                {
                    let now = clock_ns(base);
                    trips.push(Duration::from_nanos(now.saturating_sub(sent)));
                    heard.store(now, Ordering::Relaxed);
                    back.fetch_add(1, Ordering::Relaxed);
                }
            })
            .map(|()| trips)
        });
        let sent = (|| {
            for number in 0..count {
                wait_until(base + spacing.saturating_mul(number));
                send(near, &write_probe(number, clock_ns(base)), to)?;
            }
            Ok(())
        })();
        let last = clock_ns(base);
        let quiet = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        // The last missing echo ends it; where one is lost, silence.
        while back.load(Ordering::Relaxed) < count
            && clock_ns(base) < last.max(heard.load(Ordering::Relaxed)).saturating_add(quiet)
        {
            std::thread::sleep(TICK);
        }
        done.store(true, Ordering::Relaxed);
        let (arrived, seen_as) = joined(reflector)?;
        let trips = joined(listener)?;
        sent.map(|()| Echoes { arrived, trips, seen_as })
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a measuring thread panicked")))
}

/// Sends probes back, each once. Says how many there were, and from whom.
fn reflect(socket: &UdpSocket, done: &AtomicBool) -> io::Result<(u32, Option<SocketAddr>)> {
    let (mut seen, mut from) = (BTreeSet::new(), None);
    listen(socket, done, |probe, source| {
        if let Some((number, _)) = read_probe(probe)
            && seen.insert(number)
        {
            from = Some(source);
            // A lost echo is what the other end counts.
            let _ = send(socket, probe, source);
        }
    })?;
    Ok((u32::try_from(seen.len()).unwrap_or(u32::MAX), from))
}

/// Hands everything that comes to `take`, until it is over.
fn listen(
    socket: &UdpSocket,
    done: &AtomicBool,
    mut take: impl FnMut(&[u8], SocketAddr),
) -> io::Result<()> {
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = [0; 2048];
    while !done.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => take(buffer.get(..length).unwrap_or_default(), from),
            Err(e) if is_passing(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Timeouts, and what ICMP says about earlier packets: a path may lose and refuse.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::WouldBlock
            | Kind::TimedOut
            | Kind::Interrupted
            | Kind::ConnectionRefused
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}

fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    match socket.send_to(bytes, to) {
        Err(e) if !is_passing(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Waits as precisely as a thread can.
fn wait_until(at: Instant) {
    loop {
        let left = at.saturating_duration_since(clock::now());
        match left.checked_sub(OVERSLEEP) {
            _ if left.is_zero() => return,
            Some(most) if !most.is_zero() => std::thread::sleep(most),
            _ => std::thread::yield_now(),
        }
    }
}

fn write_probe(number: u32, sent: u64) -> [u8; PROBE] {
    let mut probe = [0; PROBE];
    probe[..8].copy_from_slice(&MAGIC);
    probe[8..12].copy_from_slice(&number.to_be_bytes());
    probe[12..20].copy_from_slice(&sent.to_be_bytes());
    probe
}

fn read_probe(bytes: &[u8]) -> Option<(u32, u64)> {
    let (number, rest) = bytes.strip_prefix(&MAGIC)?.split_first_chunk()?;
    let (sent, _) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), u64::from_be_bytes(*sent)))
}

/// Sends more than a way carries and times what arrives. None where the way has no rate.
fn flood(
    from: &UdpSocket,
    into: &UdpSocket,
    to: SocketAddr,
    way: &Way,
    patience: Duration,
) -> io::Result<Option<Flow>> {
    let Some(rate) = way.rate.map(bits) else { return Ok(None) };
    let headers = if to.is_ipv4() { HEADERS.0 } else { HEADERS.1 };
    let (payload, count, spacing) = plan_flood(rate, way, headers);
    let mut packet = vec![0; payload];
    if let Some(start) = packet.get_mut(..FLOOD.len()) {
        start.copy_from_slice(&FLOOD);
    }
    let base = clock::now();
    let (done, heard) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| {
            let (mut arrivals, mut bytes) = (Vec::new(), 0_u64);
            listen(into, &done, |packet, _| {
                if packet.starts_with(&FLOOD) {
                    let now = clock_ns(base);
                    // The first one starts the clock: its own sending was before.
                    if !arrivals.is_empty() {
                        bytes += u64::try_from(packet.len()).unwrap_or(0) + u64::from(headers);
                    }
                    arrivals.push(now);
                    heard.store(now, Ordering::Relaxed);
                }
            })
            .map(|()| (arrivals, bytes))
        });
        let sent = (|| {
            for number in 0..count {
                wait_until(base + spacing.saturating_mul(number));
                send(from, &packet, to)?;
            }
            Ok(())
        })();
        let last = clock_ns(base);
        let quiet = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        while clock_ns(base) < last.max(heard.load(Ordering::Relaxed)).saturating_add(quiet) {
            std::thread::sleep(TICK);
        }
        done.store(true, Ordering::Relaxed);
        let (arrivals, bytes) = joined(listener)?;
        sent.map(|()| flow(&arrivals, bytes))
    })
}

fn flow(arrivals: &[u64], bytes: u64) -> Option<Flow> {
    let took = arrivals.last()?.checked_sub(*arrivals.first()?).filter(|t| *t > 0)?;
    let bits_per_second = bits(bytes) * 8.0 / Duration::from_nanos(took).as_secs_f64();
    Some(Flow { bits_per_second, packets: u32::try_from(arrivals.len()).ok()? })
}

/// Payload, number and distance of a flood's packets.
fn plan_flood(rate: f64, way: &Way, headers: u32) -> (usize, u32, Duration) {
    // What the link itself loses does not reach its queue.
    let offered = rate * SURPLUS / (1.0 - way.loss).max(0.05);
    let most = f64::from(way.mtu.max(headers)).min(FLOOD_SIZES.1);
    let wanted = offered * FLOODING.as_secs_f64() / 8.0 / FLOOD_PACKETS;
    let size = wanted.clamp(FLOOD_SIZES.0.min(most), most);
    let spacing = Duration::try_from_secs_f64(size * 8.0 / offered).unwrap_or(FLOODING);
    let count = FLOODING.as_nanos() / spacing.as_nanos().max(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1200 by the clamp above"
    )]
    let size = size as usize;
    let payload = size.saturating_sub(usize::try_from(headers).unwrap_or(0)).max(FLOOD.len());
    (payload, u32::try_from(count).unwrap_or(u32::MAX).max(20), spacing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_fill_no_link() {
        let with = |rate| Expected { there: Way { rate, ..Way::default() }, back: Way::default() };
        assert_eq!(pace(&with(None)), (1000, Duration::from_millis(1)));
        assert_eq!(pace(&with(Some(64_000))), (125, Duration::from_millis(32)));
        assert_eq!(pace(&with(Some(1))).0, 100);
    }

    #[test]
    fn a_flood_is_a_third_more_than_the_rate_and_fits_the_mtu() {
        for rate in [64_000, 1_000_000, 100_000_000] {
            let way = Way { rate: Some(rate), mtu: 1280, ..Way::default() };
            let (payload, count, spacing) = plan_flood(bits(rate), &way, 28);
            assert!(payload + 28 <= 1200 && count >= 20);
            let sent =
                bits(u64::try_from(payload).expect("small") + 28) * 8.0 / spacing.as_secs_f64();
            assert!((1.30..1.36).contains(&(sent / bits(rate))), "{sent}");
        }
        let small = Way { mtu: 68, ..Way::default() };
        assert_eq!(plan_flood(1e6, &small, 28).0, 40);
    }

    #[test]
    fn a_flow_is_timed_from_its_first_to_its_last_packet() {
        let flow = flow(&[1_000_000, 2_000_000, 3_000_000], 2000).expect("a flow");
        assert!((flow.bits_per_second - 8e6).abs() < 1.0);
        assert_eq!(super::flow(&[5], 0), None);
    }

    #[test]
    fn what_is_no_probe_is_none() {
        assert_eq!(read_probe(&write_probe(7, 9)), Some((7, 9)));
        assert_eq!(read_probe(b"mw-probe123"), None);
        assert_eq!(read_probe(b"hello"), None);
    }
}
