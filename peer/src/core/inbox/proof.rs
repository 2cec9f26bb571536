//! What of an envelope holds: who stands behind its author, and what is in it.

use meshwire_signaling::attest::Attestation;
use meshwire_signaling::envelope::{Proof, Suite, box_key_id};
use meshwire_signaling::invite::{Chain, Member};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::{Content, Envelope, Hash, Header, MeshId, PublicKey};

use super::{Known, MAX_KIND};

/// The member behind an author.
pub(super) struct Who {
    pub(super) member: PublicKey,
    pub(super) name: String,
    pub(super) proven: Option<Box<(Member, Chain)>>,
}

/// Which member stands behind the author, whose attestation must allow `needed` where it is no member.
/// None: nothing is known and nothing is shown.
pub(super) fn membership(
    mesh: &MeshId,
    header: &Header,
    proof: Option<&Proof>,
    known: Option<&Known>,
    needed: &str,
) -> Result<Option<Who>, String> {
    let author = header.from.key;
    let known_who = |k: &Known| Who { member: k.key, name: k.name.clone(), proven: None };
    let own = known.filter(|k| k.key == author);
    let Some(proof) = proof else { return Ok(own.map(known_who)) };
    let who = match known {
        // The whole chain was verified before: comparing beats verifying some ten signatures.
        Some(k) if proof.chain.fingerprint() == k.fingerprint => known_who(k),
        _ => match (proof.chain.verify(mesh), own) {
            (Ok(member), _) => Who {
                member: member.key,
                name: member.name.clone(),
                proven: Some(Box::new((member, proof.chain.clone()))),
            },
            // The proof lies outside the signature: what a carrier spoils must not harm a member
            // that we know.
            (Err(_), Some(k)) => known_who(k),
            (Err(e), None) => return Err(e.to_string()),
        },
    };
    if who.member == author {
        return Ok(Some(who));
    }
    if let Some(k) = own {
        return Ok(Some(known_who(k)));
    }
    let Some(signed) = &proof.attestation else {
        return Err("the chain is another member's and there is no attestation".into());
    };
    let attested = Attestation::verify(signed, mesh, &who.member, header.sent_at)
        .map_err(|e| format!("attestation: {e}"))?;
    if attested.key != author {
        return Err("the attestation is for another key".into());
    }
    if !attested.capabilities.allow(needed) {
        return Err(format!("its member does not allow it: no capability {needed}"));
    }
    // The member's own word for the name of what it vouches for.
    let name = format!("{}/{}", who.name, attested.name);
    Ok(Some(Who { name, ..who }))
}

/// Decrypts, and checks what nobody could check before.
pub(super) fn open(
    envelope: &Envelope,
    header: &Header,
    recipient: &PublicKey,
    pair: &Pair,
) -> Result<Content, String> {
    let content = if header.suite == Suite::Wrap {
        let wrap = envelope.wraps.iter().find(|w| w.to == *recipient);
        let wrap = wrap.ok_or("there is no wrap for us")?;
        let commitment = Hash::try_from(&header.key_id[..]).map_err(|e| e.to_string())?;
        let key = wrap.open(pair, &commitment).map_err(|e| format!("the wrap: {e}"))?;
        envelope.open_with(&key).map_err(|e| e.to_string())?
    } else {
        if box_key_id(recipient).is_ok_and(|id| id != header.key_id) {
            return Err("the key id names another key".into());
        }
        envelope.open_box(pair).map_err(|e| e.to_string())?
    };
    if content.seq == 0 || content.floor == 0 || content.floor > content.seq {
        return Err(format!("seq {} and floor {} make no sense", content.seq, content.floor));
    }
    let printable = content.kind.bytes().all(|b| (b' '..=b'~').contains(&b));
    if content.kind.is_empty() || content.kind.len() > MAX_KIND || !printable {
        return Err("the content type is not a short printable text".into());
    }
    Ok(content)
}
