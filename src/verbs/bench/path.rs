//! A direct path without nodes: a link of the same kind, made by the same adapters, and messages that
//! are sealed already. What remains of a message beside it is cryptography and bookkeeping.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use meshwire_signaling::envelope::{Author, StateHead, Suite, box_key_id};
use meshwire_signaling::frame::P2pKind;
use meshwire_signaling::id::Blob;
use meshwire_signaling::receipt::{Ends, Receipt, Verdict};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::{
    Channel, Content, Durability, Envelope, EnvelopeId, Hash, Header, InstanceId, MeshId, Priority,
    PublicKey, SecretKey, Target,
};
use meshwire_transport::direct::{Adapter as _, Begin, DirectPath, Signal};
use meshwire_transport::link::{Answer, LinkEvent, MessageLink};
use meshwire_transport::net::{Net, random};
use meshwire_transport::queue;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{Config, QuicAdapter, QuicNode};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::rtt::BYTES;
use super::world::PATIENCE;

/// How long the messages here live.
const TTL_MS: u64 = 3_600_000;

/// A message of one for the other, and the other's receipt for it.
#[derive(Clone)]
struct Letter {
    envelope: Envelope,
    from: PublicKey,
    id: EnvelopeId,
    receipt: Receipt,
}

/// Two ends, each with its key and its view of the pair.
struct Party {
    key: SecretKey,
    pair: Pair,
    peer: PublicKey,
}

/// A path whose other end answers each message with its receipt and a message.
pub(super) struct Path {
    link: Arc<dyn MessageLink>,
    events: queue::Receiver<LinkEvent>,
    request: Letter,
    /// Our receipt for the answer.
    answer: Letter,
    answering: JoinHandle<()>,
    parties: [Party; 2],
    mesh: MeshId,
    net: Arc<dyn Net>,
    /// From a message to its answer.
    pub(super) answers: Vec<Duration>,
    /// Work of processors for a message and its answer.
    pub(super) crypto: Vec<Duration>,
    _ends: [QuicAdapter; 2],
}

impl Drop for Path {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Path {
    pub(super) async fn start(net: &Arc<dyn Net>) -> anyhow::Result<Self> {
        let mesh = MeshId(random(net.as_ref()));
        let [one, two] = [(); 2].map(|()| SecretKey::from_seed(&random(net.as_ref())));
        let (near, far, ends) = connect(net, mesh, one.public(), two.public()).await?;
        let party = |key: &SecretKey, peer: PublicKey| -> anyhow::Result<Party> {
            Ok(Party { key: key.clone(), pair: Pair::new(key, &peer)?, peer })
        };
        let parties = [party(&one, two.public())?, party(&two, one.public())?];
        let request = letter(net.as_ref(), &mesh, &parties[0], &parties[1])?;
        let answer = letter(net.as_ref(), &mesh, &parties[1], &parties[0])?;
        let answering = tokio::spawn(answering(far, request.clone(), answer.clone()));
        let (answers, crypto) = (Vec::new(), Vec::new());
        let DirectPath { link, events, .. } = near;
        let net = net.clone();
        Ok(Self {
            link,
            events,
            request,
            answer,
            answering,
            parties,
            mesh,
            net,
            answers,
            crypto,
            _ends: ends,
        })
    }

    /// A message, its receipt, the answer.
    pub(super) async fn exchange(&mut self) -> anyhow::Result<()> {
        let envelope = self.request.envelope.clone();
        let start = Instant::now();
        let ticket = self.link.send(envelope).await?;
        let (mut answered, mut confirmed) = (None, false);
        while answered.is_none() || !confirmed {
            let event = timeout(PATIENCE, self.events.recv()).await.ok().flatten();
            match event.context("the direct path has ended")? {
                LinkEvent::Envelope(_) => {
                    answered = Some(start.elapsed());
                    self.link.answer(self.answer.confirm()).await?;
                }
                LinkEvent::Receipt { .. } => confirmed = true,
                LinkEvent::Down { reason, .. } => bail!("the direct path has ended: {reason}"),
                _ => {}
            }
        }
        self.answers.extend(answered);
        ticket.await?;
        Ok(())
    }

    /// What both nodes do with a message and its answer beside carrying them: seal and sign, verify
    /// and open, make a receipt and check it.
    pub(super) fn crypt(&mut self) -> anyhow::Result<()> {
        let [one, two] = &self.parties;
        let start = Instant::now();
        for (from, to) in [(one, two), (two, one)] {
            let letter = letter(self.net.as_ref(), &self.mesh, from, to)?;
            letter.envelope.check(&self.mesh)?;
            letter.envelope.open_box(&to.pair)?;
            let ends = Ends { mesh: &self.mesh, sender: &letter.from, recipient: &from.peer };
            if !letter.receipt.verify(&from.pair, ends, &letter.envelope.hash(&self.mesh)) {
                bail!("a receipt does not hold");
            }
        }
        self.crypto.push(start.elapsed());
        Ok(())
    }

    /// Ends it in good order.
    pub(super) async fn end(self) {
        self.link.close().await;
    }
}

impl Letter {
    fn confirm(&self) -> Answer {
        Answer::Final { from: self.from, id: self.id, receipt: self.receipt.clone() }
    }
}

/// The other end.
async fn answering(path: DirectPath, request: Letter, answer: Letter) {
    let DirectPath { link, mut events, info: _info, .. } = path;
    while let Some(event) = events.recv().await {
        if !matches!(event, LinkEvent::Envelope(_)) {
            continue;
        }
        // Nobody waits for the ticket: the next message says that this one has come.
        let confirmed = link.answer(request.confirm()).await;
        if confirmed.is_err() || link.send(answer.envelope.clone()).await.is_err() {
            return;
        }
    }
}

fn letter(net: &dyn Net, mesh: &MeshId, from: &Party, to: &Party) -> anyhow::Result<Letter> {
    let at = net.unix_ms();
    let id = EnvelopeId::new(at, u128::from_be_bytes(random(net)));
    let header = Header {
        channel: Channel::Dm,
        from: Author { key: from.key.public(), instance: InstanceId([0; 16]) },
        target: Target::Member { key: from.peer },
        id,
        priority: Priority::Next,
        durability: Durability::Queued,
        sent_at: at,
        expires_at: at.saturating_add(TTL_MS),
        suite: Suite::Box,
        key_id: box_key_id(&from.peer)?,
        ephemeral: None,
    };
    let content = Content {
        kind: "text/plain".into(),
        reply_to: None,
        mentions: Vec::new(),
        correlation: None,
        response: false,
        seq: 1,
        floor: 1,
        head: StateHead::origin(mesh),
        content: vec![b'0'; BYTES].into(),
    };
    let nonce = random(net);
    let envelope = Envelope::seal_box(mesh, &from.key, &header, &from.pair, &nonce, &content);
    let author = from.key.public();
    let ends = Ends { mesh, sender: &author, recipient: &from.peer };
    let hash: Hash = envelope.hash(mesh);
    let receipt = Receipt::new(&to.pair, ends, &hash, Verdict::Delivered, None);
    Ok(Letter { envelope, from: author, id, receipt })
}

/// Connects two adapters over loopback, without a broker in between.
async fn connect(
    net: &Arc<dyn Net>,
    mesh: MeshId,
    one: PublicKey,
    two: PublicKey,
) -> anyhow::Result<(DirectPath, DirectPath, [QuicAdapter; 2])> {
    let begin = async |me, peer, offers| -> anyhow::Result<_> {
        let config = Config::new(Arc::new(FixedInterfaces::new([])));
        let node = QuicNode::start(net.clone(), config).await?;
        let adapter = QuicAdapter::new(net.clone(), Arc::new(node));
        let begin = Begin { mesh, me, peer, offers, hide: false, better: false, loopback: true };
        Ok((adapter.begin(begin), adapter))
    };
    let (near, near_end) = begin(one, two, true).await?;
    let (far, far_end) = begin(two, one, false).await?;
    let (hear_near, hear_far) = (near.hear, far.hear);
    let both = async {
        tokio::try_join!(connected(near.signals, &hear_far), connected(far.signals, &hear_near))
    };
    let (near, far) = timeout(PATIENCE, both).await.context("no direct path came up in time")??;
    Ok((near, far, [near_end, far_end]))
}

/// Tells the other end what one has to say, until the path is up.
async fn connected(
    mut signals: queue::Receiver<Signal>,
    other: &queue::Sender<(P2pKind, Blob)>,
) -> anyhow::Result<DirectPath> {
    loop {
        match signals.recv().await.context("the attempt has ended")? {
            Signal::Say { kind, content } => {
                let over = |_| anyhow!("the other end's attempt is over");
                other.send((kind, content)).await.map_err(over)?;
            }
            Signal::Stayed { .. } => {}
            Signal::Connected(path) => return Ok(path),
            Signal::Failed { detail, .. } => bail!("no direct path: {detail}"),
        }
    }
}
