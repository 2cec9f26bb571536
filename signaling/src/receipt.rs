//! What a recipient did with an envelope, in a form that the broker in between cannot forge.
//!
//! ```text
//! key = HKDF-SHA256(salt = mesh id, ikm = X25519(recipient, sender),
//!                   info = layout("meshwire/v2/receipt-key", [sender key, recipient key]))
//! mac = HMAC-SHA256(key, layout("meshwire/v2/receipt",
//!                               [verdict, reason or "", envelope hash, recipient key]))
//! ```

use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::id::{Hash, MeshId, PublicKey};
use crate::seal::Pair;
use crate::sign::{domains, layout};

/// Longest reason in a receipt, in bytes.
pub const MAX_REASON: usize = 64;

/// What became of the envelope at its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It has a row in the inbox of the node that holds the recipient's key.
    Delivered,
    /// It was refused for good; the reason says why.
    Refused,
    /// The session it was for has ended; the receipt is by the session's member.
    Gone,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

/// Reasons of a [`Verdict::Refused`].
pub mod reason {
    /// The body does not open with the recipient's key, or its content is malformed.
    pub const UNDECRYPTABLE: &str = "undecryptable";
    /// The recipient does not accept mail from this sender.
    pub const BLOCKED: &str = "blocked";
    /// The recipient has another envelope under the same sender and id.
    pub const CONFLICT: &str = "conflict";
    /// The sender's certificate chain does not hold for the recipient.
    pub const UNTRUSTED_SENDER: &str = "untrusted_sender";
    /// The recipient does not know this suite, channel or target.
    pub const UNSUPPORTED: &str = "unsupported";
    /// The envelope was past its expiry when it came.
    pub const EXPIRED: &str = "expired";
}

/// A recipient's receipt, carried back to the sender.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt {
    /// What happened.
    pub verdict: Verdict,
    /// Why, for everything but `delivered`; one of [`reason`] or a newer word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who says so: the envelope's recipient, or its member for `gone`.
    pub by: PublicKey,
    /// The MAC described in this module's documentation.
    pub mac: Hash,
}

/// The two ends of an envelope, whose shared secret keys its receipt.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Who signed the envelope.
    pub sender: &'a PublicKey,
    /// Who makes the receipt.
    pub recipient: &'a PublicKey,
}

impl Receipt {
    /// Makes a receipt; `pair` is the recipient's with the sender.
    #[must_use]
    pub fn new(
        pair: &Pair,
        ends: Ends<'_>,
        envelope: &Hash,
        verdict: Verdict,
        reason: Option<&str>,
    ) -> Self {
        let mac = mac(pair, ends, envelope, verdict, reason).finalize().into_bytes().into();
        Self { verdict, reason: reason.map(str::to_owned), by: *ends.recipient, mac: Hash(mac) }
    }

    /// Checks the MAC in constant time; `pair` is the sender's with `ends.recipient`.
    #[must_use]
    pub fn verify(&self, pair: &Pair, ends: Ends<'_>, envelope: &Hash) -> bool {
        self.by == *ends.recipient
            && self.reason.as_ref().is_none_or(|r| r.len() <= MAX_REASON)
            && mac(pair, ends, envelope, self.verdict, self.reason.as_deref())
                .verify_slice(&self.mac.0)
                .is_ok()
    }
}

fn mac(
    pair: &Pair,
    ends: Ends<'_>,
    envelope: &Hash,
    verdict: Verdict,
    reason: Option<&str>,
) -> Hmac<Sha256> {
    let mut key = Zeroizing::new([0; 32]);
    let info = layout(domains::RECEIPT_KEY, &[&ends.sender.0, &ends.recipient.0]);
    let derived = hkdf::Hkdf::<Sha256>::new(Some(&ends.mesh.0), pair.secret())
        .expand(&info, key.as_mut_slice());
    let mac = derived.ok().and_then(|()| Hmac::<Sha256>::new_from_slice(key.as_slice()).ok());
    let Some(mut mac) = mac else {
        // HKDF gives up to 8,160 bytes and HMAC takes keys of any length.
        unreachable!("32-byte key derivation failed");
    };
    mac.update(&layout(
        domains::RECEIPT,
        &[
            verdict.as_str().as_bytes(),
            reason.unwrap_or_default().as_bytes(),
            &envelope.0,
            &ends.recipient.0,
        ],
    ));
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SecretKey;

    #[test]
    fn a_receipt_holds_for_its_sender_recipient_envelope_and_verdict_only() {
        let [s, r, eve] = [[1; 32], [2; 32], [3; 32]].map(|seed| SecretKey::from_seed(&seed));
        let mesh = MeshId([4; 32]);
        let env = Hash([5; 32]);
        let (sp, rp) = (s.public(), r.public());
        let ends = Ends { mesh: &mesh, sender: &sp, recipient: &rp };
        let at_recipient = Pair::new(&r, &sp).unwrap();
        let at_sender = Pair::new(&s, &rp).unwrap();
        let receipt = Receipt::new(&at_recipient, ends, &env, Verdict::Delivered, None);
        assert!(receipt.verify(&at_sender, ends, &env));
        assert!(!receipt.verify(&at_sender, ends, &Hash([6; 32])));
        assert!(!receipt.verify(&at_sender, Ends { mesh: &MeshId([9; 32]), ..ends }, &env));
        let refused = Receipt { verdict: Verdict::Refused, ..receipt.clone() };
        assert!(!refused.verify(&at_sender, ends, &env));
        let reasoned = Receipt { reason: Some("blocked".into()), ..receipt.clone() };
        assert!(!reasoned.verify(&at_sender, ends, &env));
        // Whoever lacks both secrets, the broker for one, cannot make it.
        let forged =
            Receipt::new(&Pair::new(&eve, &sp).unwrap(), ends, &env, Verdict::Delivered, None);
        assert!(!forged.verify(&at_sender, ends, &env));
    }
}
