//! The tasks that send probes, and listen for one that came through.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use is::stun::StunMessage;
use is::{DefaultSha1HmacProvider, Sha1HmacProvider as _};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::Side;
use super::budget::Permit;
use super::plan::{Easy, Hard, Step};
use crate::net::{Datagram, Net, RecvMeta, Transmit, random};
use crate::quic::demux;
use crate::quic::ice::Way;
use crate::quic::mux::Mux;

/// The longest datagram that is looked at: checks have about 100 bytes.
const MAX_PROBE: usize = 600;
/// Failed receptions of one socket in a row.
const FAILURES: usize = 4;

/// A check as a probe, and what its counterpart must be like.
#[derive(Clone)]
pub(in crate::quic) struct Probe {
    pub(in crate::quic) bytes: Vec<u8>,
    /// The user name of the peer's checks.
    pub(in crate::quic) user: String,
    /// Our ICE password, with which they are signed.
    pub(in crate::quic) pwd: String,
}

impl Probe {
    /// Whether this is a check of the peer's.
    fn answers(&self, datagram: &[u8]) -> bool {
        let stun = demux::classify(datagram, false) == demux::Kind::Stun;
        if !stun || !demux::is_request(datagram) {
            return false;
        }
        let hmac = |key: &[u8], parts: &[&[u8]]| DefaultSha1HmacProvider.sha1_hmac(key, parts);
        StunMessage::parse(datagram).is_ok_and(|message| {
            message.is_binding_request()
                && message.username() == Some(&self.user)
                && message.verify(self.pwd.as_bytes(), hmac)
        })
    }
}

/// What came through to the hard side: the peer's check, and the socket that has a way to it.
#[derive(Debug)]
pub(in crate::quic) struct Hit {
    pub(in crate::quic) socket: Arc<dyn Datagram>,
    pub(in crate::quic) way: Way,
    pub(in crate::quic) bytes: Vec<u8>,
}

/// A run that goes on; it stops when it is dropped, and all its sockets are closed.
pub(super) struct Run {
    pub(super) side: Side,
    /// The peer's address; of the hard side, of any port.
    pub(super) peer: IpAddr,
    pub(super) permit: Permit,
    task: AbortHandle,
    end: oneshot::Receiver<Hit>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Run {
    /// The easy side: probes from `from`, the main socket's address, to ports of `ip`.
    pub(super) fn easy(
        net: Arc<dyn Net>,
        mux: Arc<Mux>,
        permit: Permit,
        from: SocketAddr,
        ip: Ipv4Addr,
        probe: Probe,
    ) -> Self {
        let (nothing, end) = oneshot::channel();
        let spent = Arc::clone(&permit.spent);
        let mut plan = Easy::new(ip, permit.most, Instant::now());
        let task = tokio::spawn(async move {
            easy(&*net, &mux, from, &mut plan, &probe.bytes, &spent).await;
            drop(nothing);
        });
        Self { side: Side::Easy, peer: ip.into(), permit, task: task.abort_handle(), end }
    }

    /// The hard side: probes from many sockets at `from` to `to`.
    pub(super) fn hard(
        net: Arc<dyn Net>,
        permit: Permit,
        from: IpAddr,
        to: SocketAddr,
        probe: Probe,
    ) -> Self {
        let (hit, end) = oneshot::channel();
        let spent = Arc::clone(&permit.spent);
        let task = tokio::spawn(async move {
            let sending = Sending { from, to, probe, sockets: Vec::new() };
            if let Some(found) = sending.run(&*net, &spent).await {
                let _ = hit.send(found);
            }
        });
        Self { side: Side::Hard, peer: to.ip(), permit, task: task.abort_handle(), end }
    }

    /// Resolves when it is over: with what came through to the hard side, or with nothing.
    pub(super) async fn over(&mut self) -> Option<Hit> {
        (&mut self.end).await.ok()
    }
}

async fn easy(
    net: &dyn Net,
    mux: &Mux,
    from: SocketAddr,
    plan: &mut Easy,
    probe: &[u8],
    spent: &AtomicU32,
) {
    loop {
        match plan.poll(Instant::now(), u64::from_be_bytes(random(net))) {
            Step::To(to) => {
                spent.fetch_add(1, Ordering::Relaxed);
                mux.send_by(Way { local: from, remote: to }, probe);
            }
            Step::Wait(until) => sleep_until(until).await,
            Step::Over | Step::Open | Step::Again(_) => return,
        }
    }
}

/// The hard side's sockets.
struct Sending {
    from: IpAddr,
    to: SocketAddr,
    probe: Probe,
    sockets: Vec<Arc<dyn Datagram>>,
}

impl Sending {
    async fn run(mut self, net: &dyn Net, spent: &AtomicU32) -> Option<Hit> {
        let mut plan = Hard::new(Instant::now());
        loop {
            match plan.poll(Instant::now()) {
                Step::Open => match self.open(net).await {
                    Ok(()) => {
                        spent.fetch_add(1, Ordering::Relaxed);
                        plan.opened(Instant::now());
                    }
                    Err(_) => self.sockets.truncate(plan.refused()),
                },
                Step::Again(n) => {
                    if let Some(socket) = self.sockets.get(n) {
                        // What is lost now is sent with the next volley.
                        let _ = self.send(&**socket);
                    }
                }
                Step::Wait(until) => tokio::select! {
                    biased;
                    hit = poll_fn(|cx| self.hear(cx)) => return Some(hit),
                    () = sleep_until(until) => {}
                },
                Step::Over | Step::To(_) => return None,
            }
        }
    }

    /// One more socket, which has sent.
    async fn open(&mut self, net: &dyn Net) -> io::Result<()> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket: Arc<dyn Datagram> = net.udp_bind(any).await?.into();
        // A fresh one may not know yet that it can.
        socket.writable().await?;
        match self.send(&*socket) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            Ok(()) | Err(_) => self.sockets.push(socket),
        }
        Ok(())
    }

    fn send(&self, socket: &dyn Datagram) -> io::Result<()> {
        socket.try_send(&Transmit {
            destination: self.to,
            ecn: None,
            contents: &self.probe.bytes,
            segment_size: None,
            src_ip: Some(self.from),
        })
    }

    fn hear(&self, cx: &mut Context<'_>) -> Poll<Hit> {
        let mut buf = [0; MAX_PROBE];
        let mut meta = [RecvMeta::default()];
        for socket in &self.sockets {
            let mut failures = 0;
            while failures < FAILURES {
                match socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buf)], &mut meta) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => failures += 1,
                    Poll::Ready(Ok(_)) => {
                        let [RecvMeta { addr, len, stride, dst_ip, .. }] = meta;
                        let remote = SocketAddr::new(addr.ip(), addr.port());
                        let datagram = buf.get(..len.min(stride)).unwrap_or_default();
                        if remote != self.to || !self.probe.answers(datagram) {
                            continue;
                        }
                        let Ok(bound) = socket.local_addr() else { continue };
                        let local = SocketAddr::new(dst_ip.unwrap_or(self.from), bound.port());
                        let (socket, bytes) = (Arc::clone(socket), datagram.to_vec());
                        return Poll::Ready(Hit { socket, way: Way { local, remote }, bytes });
                    }
                }
            }
        }
        Poll::Pending
    }
}
