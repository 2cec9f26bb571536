//! Groups by hand.

use meshwire_signaling::envelope::{Author, StateHead, Suite};
use meshwire_signaling::group::{GroupAction, GroupStatement};
use meshwire_signaling::seal::{ContentKey, Pair, Wrap};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{
    Channel, Content, Durability, Envelope, EnvelopeId, Hash, Header, MeshId, Priority, PublicKey,
    SecretKey, Target,
};
use meshwire_transport::net::{OsNet, random};

use super::{HOUR_MS, Member, now};

/// A message to a group: frozen, but for its wraps.
pub struct Post {
    pub id: EnvelopeId,
    author: SecretKey,
    key: ContentKey,
    bare: Envelope,
}

impl Post {
    /// A wrap for one recipient.
    pub fn wrap(&self, to: PublicKey) -> Wrap {
        let pair = Pair::new(&self.author, &to).unwrap();
        self.key.wrap(&pair, to, &random(&OsNet))
    }

    /// The envelope with wraps for these.
    pub fn to(&self, recipients: impl IntoIterator<Item = PublicKey>) -> Envelope {
        let wraps = recipients.into_iter().map(|to| self.wrap(to)).collect();
        Envelope { wraps, ..self.bare.clone() }
    }

    /// Its hash, whoever gets it.
    pub fn hash(&self, mesh: &MeshId) -> Hash {
        self.bare.hash(mesh)
    }

    /// The envelope without any wraps.
    pub fn bare(&self) -> &Envelope {
        &self.bare
    }
}

impl Member {
    /// A message to a group.
    pub fn post(&self, mesh: &MeshId, group: &str, text: &str) -> Post {
        self.post_as(mesh, group, text, |_| {})
    }

    /// A message to a group, its header changed by `twist` before it is signed.
    pub fn post_as(
        &self,
        mesh: &MeshId,
        group: &str,
        text: &str,
        twist: impl FnOnce(&mut Header),
    ) -> Post {
        let at = now();
        let key = ContentKey::new(random(&OsNet));
        let mut header = Header {
            channel: Channel::Group,
            from: Author { key: self.public(), instance: self.instance },
            target: Target::Group { name: group.to_owned() },
            id: EnvelopeId::new(at, u128::from_be_bytes(random(&OsNet))),
            priority: Priority::Next,
            durability: Durability::Queued,
            sent_at: at,
            expires_at: at + HOUR_MS,
            suite: Suite::Wrap,
            key_id: key.commitment().0.to_vec().into(),
            ephemeral: None,
        };
        twist(&mut header);
        let content = Content {
            kind: "text/plain".into(),
            reply_to: None,
            mentions: Vec::new(),
            correlation: None,
            response: false,
            seq: 1,
            floor: 1,
            head: StateHead::origin(mesh),
            content: text.as_bytes().to_vec().into(),
        };
        let bare = Envelope::seal_group(mesh, &self.key, &header, &key, &random(&OsNet), &content);
        Post { id: header.id, author: self.key.clone(), key, bare }
    }

    /// The text of a group's message for this member: it carries this member's wrap and no other.
    pub fn open_post(&self, envelope: &Envelope) -> String {
        let header = envelope.header().unwrap();
        let [wrap] = envelope.wraps.as_slice() else {
            panic!("{} wraps where one is due", envelope.wraps.len());
        };
        assert_eq!(wrap.to, self.public(), "the wrap is one's own");
        let pair = Pair::new(&self.key, &header.from.key).unwrap();
        let commitment = Hash(header.key_id.0.as_slice().try_into().unwrap());
        let content = envelope.open_with(&wrap.open(&pair, &commitment).unwrap()).unwrap();
        String::from_utf8(content.content.0).unwrap()
    }

    /// This member's word that it joins a group.
    pub fn joins(&self, mesh: &MeshId, group: &str) -> Signed {
        self.word(mesh, group, GroupAction::Join, |_| {})
    }

    /// This member's word that it leaves a group.
    pub fn leaves(&self, mesh: &MeshId, group: &str) -> Signed {
        self.word(mesh, group, GroupAction::Leave, |_| {})
    }

    /// This member's word about a group, changed by `twist` before it is signed.
    pub fn word(
        &self,
        mesh: &MeshId,
        group: &str,
        action: GroupAction,
        twist: impl FnOnce(&mut GroupStatement),
    ) -> Signed {
        let (member, group) = (self.public(), group.to_owned());
        // Later than every word before.
        let at = now() + self.next_counter();
        let mut word = GroupStatement { mesh: *mesh, member, group, action, role: None, at };
        twist(&mut word);
        word.sign(&self.key)
    }
}
