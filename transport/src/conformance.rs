//! One suite that every adapter passes: what the rest of meshwire relies on in a [`MessageLink`].
//!
//! An adapter's test hands [`run`] a closure that makes two connected ends; the suite calls it once
//! per check and panics with a sentence when a check fails. It runs over a broker as well: ids are
//! fresh, envelopes are sealed and signed for real, whatever arrives is answered, repeated receipts
//! are taken for one. Waits are bounded by [`PATIENCE`].

mod checks;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use meshwire_signaling::envelope::{
    Author, Channel, Content, Header, StateHead, Suite, box_key_id,
};
use meshwire_signaling::receipt::{Ends, Receipt, Verdict};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::{
    Durability, Envelope, EnvelopeId, InstanceId, MeshId, Priority, PublicKey, SecretKey, Target,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::link::{Answer, LinkEvent, MessageLink};
use crate::net::{Net, random};

/// Longest wait for anything; only reached by a link that does not work.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One end of a link under test.
pub struct End {
    /// The link.
    pub link: Arc<dyn MessageLink>,
    /// Its events, none read yet.
    pub events: mpsc::Receiver<LinkEvent>,
    /// The member whose end it is.
    pub key: SecretKey,
}

/// Two connected ends. Whatever must outlive them (a broker) is the maker's business.
pub struct Rig {
    /// The mesh that both are members of.
    pub mesh: MeshId,
    /// Clock and randomness.
    pub net: Arc<dyn Net>,
    /// One end.
    pub a: End,
    /// The other.
    pub b: End,
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rig({:?}, {:?})", self.a.link, self.b.link)
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "End({:?})", self.link)
    }
}

/// Runs every check, each on a new rig.
///
/// # Panics
/// When a check fails.
pub async fn run<F: AsyncFn() -> Rig>(make: F) {
    Box::pin(checks::up_comes_first(make().await)).await;
    Box::pin(checks::an_envelope_arrives_intact(make().await)).await;
    Box::pin(checks::call_order_is_kept(make().await)).await;
    Box::pin(checks::a_receipt_comes_back(make().await)).await;
    Box::pin(checks::both_directions_work_at_once(make().await)).await;
    Box::pin(checks::too_large_is_refused_and_harmless(make().await)).await;
    Box::pin(checks::a_slow_reader_bounds_the_sender(make().await)).await;
    Box::pin(checks::a_duplicate_is_no_error(make().await)).await;
    Box::pin(checks::close_ends_everything(make().await)).await;
}

/// An end, and what came in at it and has not been asked for.
struct Player {
    end: End,
    other: PublicKey,
    mesh: MeshId,
    net: Arc<dyn Net>,
    pair: Pair,
    envelopes: VecDeque<Envelope>,
    receipts: BTreeMap<EnvelopeId, Receipt>,
}

impl Player {
    /// Both ends after their first event, which must be `Up`.
    async fn both(rig: Rig) -> (Self, Self) {
        let (a, b) = (rig.a.key.public(), rig.b.key.public());
        let player = |end: End, other| {
            let Ok(pair) = Pair::new(&end.key, &other) else { panic!("unusable keys in the rig") };
            let (mesh, net) = (rig.mesh, rig.net.clone());
            let (envelopes, receipts) = Default::default();
            Self { end, other, mesh, net, pair, envelopes, receipts }
        };
        let (mut a, mut b) = (player(rig.a, b), player(rig.b, a));
        for player in [&mut a, &mut b] {
            let first = player.event().await;
            assert!(matches!(first, LinkEvent::Up(_)), "the first event is Up, not {first:?}");
            assert!(player.end.link.is_up(), "a link that said Up is up");
        }
        (a, b)
    }

    fn key(&self) -> PublicKey {
        self.end.key.public()
    }

    async fn event(&mut self) -> LinkEvent {
        match timeout(PATIENCE, self.end.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => panic!("the events ended"),
            Err(_) => panic!("nothing came within {PATIENCE:?}"),
        }
    }

    fn note(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Envelope(inbound) => {
                assert_eq!(inbound.to, self.key(), "the carrier says whom it is for");
                self.envelopes.push_back(inbound.envelope);
            }
            LinkEvent::Receipt { from, id, receipt } => {
                assert_eq!(from, self.key(), "receipts come to the author");
                self.receipts.insert(id, receipt);
            }
            LinkEvent::Down { reason, .. } => panic!("the link went down: {reason}"),
            _ => {}
        }
    }

    /// The next envelope.
    async fn envelope(&mut self) -> Envelope {
        loop {
            if let Some(envelope) = self.envelopes.pop_front() {
                return envelope;
            }
            let event = self.event().await;
            self.note(event);
        }
    }

    /// The receipt for `id`.
    async fn receipt(&mut self, id: EnvelopeId) -> Receipt {
        loop {
            if let Some(receipt) = self.receipts.remove(&id) {
                return receipt;
            }
            let event = self.event().await;
            self.note(event);
        }
    }

    /// Waits for `work` while reading events, as a node does.
    async fn reading<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(timeout(PATIENCE, work));
        loop {
            tokio::select! {
                biased;
                done = &mut work => match done {
                    Ok(done) => return done,
                    Err(_) => panic!("not done within {PATIENCE:?}"),
                },
                Some(event) = self.end.events.recv() => self.note(event),
            }
        }
    }

    /// A new envelope to the other end.
    fn seal(&self, seq: u64, text: &[u8]) -> (EnvelopeId, Envelope) {
        let now = self.net.unix_ms();
        let id = EnvelopeId::new(now, u128::from_be_bytes(random(&*self.net)));
        let Ok(key_id) = box_key_id(&self.other) else { panic!("unusable keys in the rig") };
        let header = Header {
            channel: Channel::Dm,
            from: Author { key: self.key(), instance: InstanceId([7; 16]) },
            target: Target::Member { key: self.other },
            id,
            priority: Priority::Now,
            durability: Durability::Queued,
            sent_at: now,
            expires_at: now.saturating_add(3_600_000),
            suite: Suite::Box,
            key_id,
            ephemeral: None,
        };
        let content = Content {
            kind: "application/octet-stream".into(),
            reply_to: None,
            mentions: Vec::new(),
            correlation: None,
            response: false,
            seq,
            floor: 1,
            head: StateHead::origin(&self.mesh),
            content: text.to_vec().into(),
        };
        let nonce = random(&*self.net);
        let sealed =
            Envelope::seal_box(&self.mesh, &self.end.key, &header, &self.pair, &nonce, &content);
        (id, sealed)
    }

    /// Opens an envelope from the other end: its id, seq and text.
    fn open(&self, envelope: &Envelope) -> (EnvelopeId, u64, Vec<u8>) {
        let checked = match envelope.check(&self.mesh) {
            Ok(checked) => checked,
            Err(e) => panic!("an envelope arrived damaged: {e}"),
        };
        match envelope.open_box(&self.pair) {
            Ok(content) => (checked.header.id, content.seq, content.content.0),
            Err(e) => panic!("an envelope arrived damaged: {e}"),
        }
    }

    /// Answers an envelope from the other end as delivered.
    async fn deliver(&mut self, envelope: &Envelope) {
        let (id, ..) = self.open(envelope);
        let (mesh, sender, recipient) = (&self.mesh, &self.other, &self.key());
        let ends = Ends { mesh, sender, recipient };
        let hash = envelope.hash(&self.mesh);
        let receipt = Receipt::new(&self.pair, ends, &hash, Verdict::Delivered, None);
        let answer = Answer::Final { from: self.other, id, receipt };
        let link = self.end.link.clone();
        let taken = self.reading(link.answer(answer)).await;
        assert_eq!(taken, Ok(()), "an answer is taken");
    }

    /// Whether `receipt` is the other end's for our `envelope`.
    fn believes(&self, receipt: &Receipt, envelope: &Envelope) -> bool {
        let ends = Ends { mesh: &self.mesh, sender: &self.key(), recipient: &self.other };
        receipt.verdict == Verdict::Delivered
            && receipt.verify(&self.pair, ends, &envelope.hash(&self.mesh))
    }
}
