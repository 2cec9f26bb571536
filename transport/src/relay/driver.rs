//! The task behind a relay link: connect, serve, wait, again.

use std::sync::Arc;

use meshwire_signaling::frame::feature;
use meshwire_signaling::limits::{MAX_BODY, MAX_FRAME, MAX_WRAPS};
use meshwire_signaling::sign::Signed;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::debug;

use super::RelayConfig;
use super::backoff::{Backoff, Next};
use super::connect::{Loss, connect};
use super::hello::Welcome;
use super::records::Records;
use super::session::{End, Session};
use super::state::{Pending, Shared, Up};
use super::wire::Ws;
use crate::dial::tls_for;
use crate::link::LinkEvent;
use crate::net::{self, Net};

/// Frames that wait for the writer.
const FRAMES: usize = 256;

/// See the module's documentation.
pub(super) struct Driver {
    net: Arc<dyn Net>,
    config: RelayConfig,
    shared: Arc<Shared>,
    records: Arc<Records>,
    events: mpsc::Sender<LinkEvent>,
    closing: watch::Receiver<bool>,
    /// Made at the first connection: reading the system's roots is slow.
    tls: Option<Option<Arc<ClientConfig>>>,
    /// The last ack's token. In memory only: after a restart the hello alone has to do.
    resume: Option<Signed>,
}

/// Resolves when the link is closed, or its last handle dropped.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closed| *closed).await;
}

impl Driver {
    pub(super) fn new(
        net: Arc<dyn Net>,
        config: RelayConfig,
        shared: Arc<Shared>,
        records: Arc<Records>,
        events: mpsc::Sender<LinkEvent>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self { net, config, shared, records, events, closing, tls: None, resume: None }
    }

    pub(super) async fn run(mut self) {
        let mut closing = self.closing.clone();
        let mut backoff = Backoff::default();
        loop {
            let connected = tokio::select! {
                biased;
                () = closed(&mut closing) => break,
                connected = self.connect() => connected,
            };
            let loss = match connected {
                Ok((ws, welcome)) => {
                    backoff.reset();
                    match self.serve(ws, *welcome).await {
                        End::Lost(loss) => loss,
                        End::Closed => break,
                    }
                }
                Err(loss) => loss,
            };
            tokio::select! {
                biased;
                () = closed(&mut closing) => break,
                again = self.pause(loss, &mut backoff) => if !again { return },
            }
        }
        // Also for a link whose handle was dropped, or whose events nobody reads.
        self.shared.close();
    }

    async fn connect(&mut self) -> Result<(Ws, Box<Welcome>), Loss> {
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None => {
                let tls = tls_for(&self.config.base, self.config.pin);
                let tls = tls.map_err(|e| Loss { next: Next::Slow, ..Loss::new(e.to_string()) })?;
                self.tls.insert(tls).clone()
            }
        };
        let (ws, welcome) =
            Box::pin(connect(&*self.net, &self.config, tls, self.resume.clone())).await?;
        self.resume = welcome.ack.lease.as_ref().map(|lease| lease.token.clone());
        Ok((ws, Box::new(welcome)))
    }

    async fn serve(&mut self, ws: Ws, welcome: Welcome) -> End {
        let (tx, frames) = mpsc::channel(FRAMES);
        let pending = Arc::new(Pending::default());
        let limit = |advertised: u64, ours: usize| {
            usize::try_from(advertised).unwrap_or(usize::MAX).min(ours)
        };
        let max_body = limit(welcome.ack.limits.body, MAX_BODY);
        let max_frame = limit(welcome.ack.limits.frame, MAX_FRAME);
        let max_wraps = limit(welcome.ack.limits.wraps, MAX_WRAPS);
        let up = Up::new(tx, pending.clone(), welcome.hello, max_body, max_wraps);
        if !self.shared.set_up(up) {
            return End::Closed;
        }
        debug!(target: "meshwire::events::relay", event = "up", broker = %welcome.ack.broker.short());
        let ours = &self.config.features;
        let streams =
            [ours, &welcome.ack.features].iter().all(|f| f.contains_key(feature::STREAMS));
        if streams {
            self.records.up();
        }
        let session = Session {
            records: &self.records,
            net: &*self.net,
            encoding: self.config.encoding,
            ack: welcome.ack,
            pending: pending.clone(),
            frames,
            events: &self.events,
            max_frame,
        };
        let end = Box::pin(session.run(ws, &mut self.closing)).await;
        // In this order: whoever learns of the loss and tries again must find the link down.
        self.shared.set_down();
        self.records.down();
        pending.fail(&self.shared.lost());
        end
    }

    /// Says why the link is down and waits. False when there is nothing to wait for.
    async fn pause(&self, loss: Loss, backoff: &mut Backoff) -> bool {
        let mut loss = loss;
        if loss.next == Next::Renew
            && let Err(e) = self.config.counter.renew().await
        {
            loss = Loss { reason: e.to_string(), next: Next::Retry, ..loss };
        }
        let random = u64::from_be_bytes(net::random(&*self.net));
        let retry_in = backoff.wait(loss.next, loss.hint, random);
        let Loss { reason, code, .. } = loss;
        debug!(target: "meshwire::events::relay", event = "down", reason, code, ?retry_in);
        if self.events.send(LinkEvent::Down { reason, code, retry_in }).await.is_err() {
            self.shared.close();
            return false;
        }
        match retry_in {
            Some(wait) => {
                sleep(wait).await;
                true
            }
            None => false,
        }
    }
}
