//! Requests: who asks, and the ways to say no.

use zeroize::Zeroizing;

use super::{Flow, Now, Outcome, Server, Via};
use crate::auth::{Algorithm, Denied, Member, PASSWORD_ALGORITHMS_BIT, REALM, long_term_key};
use crate::metrics::Refused;
use crate::stun::{Builder, Class, Integrity, Message, Method, attr, channel_data};

/// Longest list of unknown attributes in an answer: it stays small however many there were.
const UNKNOWN_LISTED: usize = 8;

/// Who signed a request, and how.
pub(super) struct Asker {
    pub(super) member: Member,
    pub(super) username: Box<str>,
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) integrity: Integrity,
}

/// A refusal to somebody who proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct No(pub(super) u16, pub(super) &'static str);

impl<R: Clone> Server<R> {
    /// Takes what a client sent: a STUN message or channel data.
    pub fn client_sent<'a>(&mut self, now: Now, flow: &Flow, bytes: &'a [u8]) -> Outcome<'a, R> {
        if let Some((number, data)) = channel_data(bytes) {
            return self.channel_message(now, flow, number, data);
        }
        let Ok(message) = Message::parse(bytes) else {
            self.counters.refuse(Refused::Malformed);
            return Outcome::Nothing;
        };
        match (message.class(), message.method()) {
            (Class::Indication, Method::Send) => self.send_indication(now, flow, &message),
            (Class::Request, method) => self.request(now, flow, &message, method),
            _ => Outcome::Nothing,
        }
    }

    fn request<'a>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        method: Method,
    ) -> Outcome<'a, R> {
        let unknown = message.attributes().map(|a| a.kind).filter(|kind| attr::is_unknown(*kind));
        let unknown: Vec<u16> = unknown.take(UNKNOWN_LISTED).collect();
        if !unknown.is_empty() {
            return self.unsigned(now, flow, |server| server.unknown(message, &unknown));
        }
        match method {
            Method::Binding => {
                return self.unsigned(now, flow, |server| server.binding(flow, message));
            }
            Method::Allocate | Method::Refresh | Method::CreatePermission | Method::ChannelBind => {
            }
            _ => {
                return self.unsigned(now, flow, |s| s.refuse(message, 400, "Unknown method"));
            }
        }
        let asker = match self.authenticate(now, flow, message) {
            Ok(asker) => asker,
            Err((code, reason)) => {
                let challenge = |s: &mut Self| s.challenge(now, flow, message, code, reason);
                return self.unsigned(now, flow, challenge);
            }
        };
        let answered = match method {
            Method::Allocate => return self.allocate(now, flow, message, asker),
            Method::Refresh => self.refresh(now, flow, message, &asker),
            Method::CreatePermission => self.create_permission(now, flow, message, &asker),
            _ => self.channel_bind(now, flow, message, &asker),
        };
        match answered {
            Ok(reply) => self.sign(message, &asker, reply),
            Err(no) => self.deny(message, &asker, no),
        }
    }

    /// Answers somebody who proved nothing, and whose address may be a victim's: so often and no more.
    fn unsigned<'a>(
        &mut self,
        now: Now,
        flow: &Flow,
        answer: impl FnOnce(&mut Self) -> Outcome<'a, R>,
    ) -> Outcome<'a, R> {
        if self.throttle.take(flow.client, now.tick) {
            return answer(self);
        }
        self.counters.refuse(Refused::Throttled);
        Outcome::Nothing
    }

    /// RFC 8489 section 9.2.4.
    fn authenticate(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
    ) -> Result<Asker, (u16, &'static str)> {
        let Some(integrity) = message.integrity() else {
            return Err((401, "Unauthorized"));
        };
        let text = |kind| message.attribute(kind).and_then(|v| std::str::from_utf8(v).ok());
        let (Some(username), Some(realm), Some(nonce)) =
            (text(attr::USERNAME), text(attr::REALM), message.attribute(attr::NONCE))
        else {
            return Err((400, "USERNAME, REALM and NONCE are needed"));
        };
        if !self.nonces.is_good(nonce, flow.client, now.unix_ms / 1_000) {
            self.counters.refuse(Refused::StaleNonce);
            return Err((438, "Stale Nonce"));
        }
        // A server that offers algorithms sees them echoed, or somebody in between took them out.
        let offered = message.attribute(attr::PASSWORD_ALGORITHMS);
        let algorithm = match (offered, message.attribute(attr::PASSWORD_ALGORITHM)) {
            (None, None) => Algorithm::Md5,
            (Some(offered), Some(chosen))
                if PASSWORD_ALGORITHMS_BIT && offered == Algorithm::OFFER.as_slice() =>
            {
                Algorithm::read(chosen).ok_or((400, "PASSWORD-ALGORITHM was not offered"))?
            }
            _ => return Err((400, "PASSWORD-ALGORITHMS is not what was offered")),
        };
        let unauthorized = Err((401, "Unauthorized"));
        let member = match self.void.check(username, now.unix_ms) {
            Ok(member) => member,
            Err(denied) => {
                self.counters.refuse(match denied {
                    Denied::Malformed => Refused::WrongCredential,
                    Denied::Expired => Refused::ExpiredCredential,
                    Denied::Void => Refused::DeletedCredential,
                });
                return unauthorized;
            }
        };
        let key = long_term_key(algorithm, username, &self.setup.secret.password(username));
        if realm != REALM || !message.verify(&key) {
            self.counters.refuse(Refused::WrongCredential);
            return unauthorized;
        }
        Ok(Asker { member, username: username.into(), key, integrity })
    }

    /// An unsigned error with what is needed to try again: about 150 bytes.
    fn challenge<'a>(
        &self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        code: u16,
        reason: &str,
    ) -> Outcome<'a, R> {
        let mut reply =
            Builder::new(Class::Error, message.method(), message.transaction()).error(code, reason);
        if code != 400 {
            let nonce = self.nonces.make(flow.client, now.unix_ms / 1_000);
            reply = reply
                .attribute(attr::REALM, REALM.as_bytes())
                .attribute(attr::NONCE, nonce.as_bytes())
                .attribute(attr::PASSWORD_ALGORITHMS, &Algorithm::OFFER);
        }
        finish(message, reply)
    }

    /// An unsigned refusal.
    pub(super) fn refuse<'a>(
        &self,
        message: &Message<'_>,
        code: u16,
        reason: &str,
    ) -> Outcome<'a, R> {
        let reply = Builder::new(Class::Error, message.method(), message.transaction());
        finish(message, reply.error(code, reason))
    }

    /// 420 for attributes that must be understood and are not.
    pub(super) fn unknown<'a>(&self, message: &Message<'_>, kinds: &[u16]) -> Outcome<'a, R> {
        let list: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
        let reply = Builder::new(Class::Error, message.method(), message.transaction())
            .error(420, "Unknown Attribute")
            .attribute(attr::UNKNOWN_ATTRIBUTES, &list);
        finish(message, reply)
    }

    /// A signed refusal.
    pub(super) fn deny<'a>(
        &mut self,
        message: &Message<'_>,
        asker: &Asker,
        No(code, reason): No,
    ) -> Outcome<'a, R> {
        self.counters.answered(code);
        let reply = Builder::new(Class::Error, message.method(), message.transaction());
        self.sign(message, asker, reply.error(code, reason))
    }

    fn sign<'a>(&self, message: &Message<'_>, asker: &Asker, reply: Builder) -> Outcome<'a, R> {
        finish(message, reply.integrity(asker.integrity, &asker.key))
    }
}

fn finish<'a, R>(message: &Message<'_>, reply: Builder) -> Outcome<'a, R> {
    let reply = if message.has_fingerprint() { reply.fingerprint() } else { reply };
    Outcome::Reply(reply.finish(), Via::Same)
}
