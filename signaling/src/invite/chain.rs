//! A member's certificate chain: genesis → admin → invite → member.

use serde::{Deserialize, Serialize};

use super::{Capability, Claim, Countersign, Genesis, Role, mesh_id};
use crate::UnixMillis;
use crate::codec;
use crate::id::{Hash, MeshId, PublicKey, SecretKey, Signature, check_name};
use crate::limits::{MAX_CHAIN, SKEW, ms};
use crate::sign::{SignError, Signed, domains};

/// One admission: who invited, who came, who counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Link {
    /// [`Capability`], signed by the link before (or the owner).
    pub capability: Signed,
    /// [`Claim`], signed by the invite's key.
    pub claim: Signed,
    /// The new member's own signature over the claim's payload.
    pub proof: Signature,
    /// [`Countersign`], signed by the broker that the genesis names.
    pub countersign: Signed,
}

/// Proof of membership that needs nobody's word: verified by every peer for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chain {
    /// [`Genesis`], signed by the owner.
    pub genesis: Signed,
    /// From the owner's first invitee to this member; empty for the owner.
    pub links: Vec<Link>,
}

/// What a chain proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// When the broker counted it in (the owner: when the mesh began), Unix milliseconds.
    pub joined_at: UnixMillis,
    /// Who invited it; none for the owner.
    pub invited_by: Option<PublicKey>,
    /// The mesh's name.
    pub mesh_name: String,
    /// The broker's key.
    pub broker: PublicKey,
}

/// Why a chain was refused; link numbers count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The genesis is not this mesh's.
    #[error("the genesis is of another mesh")]
    OtherMesh,
    /// Too many links.
    #[error("the chain has {0} links, at most {MAX_CHAIN} are allowed")]
    TooLong(usize),
    /// A signed object does not hold.
    #[error("link {link}, {part}: {error}")]
    Signature {
        /// Which link; 0 is the genesis.
        link: usize,
        /// Which object of it.
        part: &'static str,
        /// What is wrong.
        error: SignError,
    },
    /// Objects of one link do not belong together, or break the invite's terms.
    #[error("link {link}: {what}")]
    Terms {
        /// Which link.
        link: usize,
        /// Which rule is broken.
        what: &'static str,
    },
}

impl Chain {
    /// The owner's chain.
    #[must_use]
    pub fn owner(genesis: Signed) -> Self {
        Self { genesis, links: Vec::new() }
    }

    /// The id of the mesh whose genesis this chain starts with.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        mesh_id(&self.genesis)
    }

    /// SHA-256 of the chain's MessagePack form: a cache key for verified chains.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        Hash::of(&codec::to_msgpack(self))
    }

    /// Verifies the whole chain for `mesh`.
    ///
    /// # Errors
    /// The first thing wrong, from the genesis on.
    pub fn verify(&self, mesh: &MeshId) -> Result<Member, ChainError> {
        if self.mesh() != *mesh {
            return Err(ChainError::OtherMesh);
        }
        if self.links.len() > MAX_CHAIN {
            return Err(ChainError::TooLong(self.links.len()));
        }
        let bad = |error| ChainError::Signature { link: 0, part: "genesis", error };
        let genesis: Genesis = self.genesis.peek().map_err(bad)?;
        self.genesis.verify(&genesis.owner, domains::GENESIS).map_err(bad)?;
        if check_name(&genesis.owner_name).is_err() || check_name(&genesis.name).is_err() {
            return Err(ChainError::Terms { link: 0, what: "a name is not valid" });
        }
        let mut member = Member {
            key: genesis.owner,
            name: genesis.owner_name,
            role: Role::Owner,
            joined_at: genesis.created_at,
            invited_by: None,
            mesh_name: genesis.name,
            broker: genesis.broker,
        };
        for (i, link) in self.links.iter().enumerate() {
            member = link.verify(i + 1, mesh, member)?;
        }
        Ok(member)
    }
}

/// Checks a capability by itself: what a broker does when it is created and a joiner when it is
/// previewed. `issuer` is the verified issuer.
///
/// # Errors
/// [`ChainError`] with link number `link`.
pub(crate) fn check_capability(
    signed: &Signed,
    link: usize,
    mesh: &MeshId,
    issuer: &Member,
) -> Result<Capability, ChainError> {
    let terms = |what| Err(ChainError::Terms { link, what });
    let cap: Capability = signed
        .open(&issuer.key, domains::CAPABILITY)
        .map_err(|error| ChainError::Signature { link, part: "capability", error })?;
    if cap.mesh != *mesh || cap.broker != issuer.broker {
        return terms("the invite is for another mesh or broker");
    }
    if cap.issuer != issuer.key || !issuer.role.may_invite() {
        return terms("whoever signed the invite may not invite");
    }
    if cap.role == Role::Owner || cap.uses == 0 || cap.expires_at <= cap.issued_at {
        return terms("the invite's terms make no sense");
    }
    Ok(cap)
}

impl Capability {
    /// Checks a signed capability against its verified issuer.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn verify(signed: &Signed, mesh: &MeshId, issuer: &Member) -> Result<Self, ChainError> {
        check_capability(signed, 1, mesh, issuer)
    }
}

impl Claim {
    /// Signs the claim with the invite's secret and with the joiner's own key.
    #[must_use]
    pub fn sign(&self, invite: &SecretKey, member: &SecretKey) -> (Signed, Signature) {
        let signed = Signed::new(invite, domains::CLAIM, self);
        let proof = member.sign(domains::CLAIM_PROOF, &[&signed.payload]);
        (signed, proof)
    }

    /// Checks a signed claim and its proof against the invite's capability.
    ///
    /// # Errors
    /// [`ChainError`] with link number 1.
    pub fn verify(
        signed: &Signed,
        proof: &Signature,
        capability: &Capability,
    ) -> Result<Self, ChainError> {
        check_claim(signed, proof, 1, capability)
    }
}

fn check_claim(
    signed: &Signed,
    proof: &Signature,
    link: usize,
    cap: &Capability,
) -> Result<Claim, ChainError> {
    let bad = |part| move |error| ChainError::Signature { link, part, error };
    let claim: Claim = signed.open(&cap.invite, domains::CLAIM).map_err(bad("claim"))?;
    if claim.mesh != cap.mesh || claim.invite != cap.invite {
        return Err(ChainError::Terms { link, what: "the claim is for another invite" });
    }
    if check_name(&claim.name).is_err() {
        return Err(ChainError::Terms { link, what: "the name is not valid" });
    }
    claim
        .member
        .verify(domains::CLAIM_PROOF, &[&signed.payload], proof)
        .map_err(bad("proof of the member's key"))?;
    Ok(claim)
}

impl Link {
    fn verify(&self, link: usize, mesh: &MeshId, issuer: Member) -> Result<Member, ChainError> {
        let cap = check_capability(&self.capability, link, mesh, &issuer)?;
        let claim = check_claim(&self.claim, &self.proof, link, &cap)?;
        let counter: Countersign = self
            .countersign
            .open(&issuer.broker, domains::COUNTERSIGN)
            .map_err(|error| ChainError::Signature { link, part: "countersignature", error })?;
        let terms = |what| Err(ChainError::Terms { link, what });
        if counter.claim != self.claim.hash(domains::CLAIM) {
            return terms("the countersignature is for another claim");
        }
        if counter.use_number == 0 || counter.use_number > cap.uses {
            return terms("the invite was used more often than it allows");
        }
        if counter.at > cap.expires_at || counter.at.saturating_add(ms(SKEW)) < cap.issued_at {
            return terms("the invite was not valid when it was used");
        }
        Ok(Member {
            key: claim.member,
            name: claim.name,
            role: cap.role,
            joined_at: counter.at,
            invited_by: Some(issuer.key),
            mesh_name: issuer.mesh_name,
            broker: issuer.broker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    struct World {
        broker: SecretKey,
        owner: SecretKey,
        chain: Chain,
        mesh: MeshId,
    }

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn world() -> World {
        let (broker, owner) = (key(1), key(2));
        let genesis = Genesis {
            name: "lab".into(),
            owner: owner.public(),
            owner_name: "ana".into(),
            broker: broker.public(),
            created_at: NOW,
            nonce: Hash([0; 32]),
        };
        let chain = Chain::owner(Signed::new(&owner, domains::GENESIS, &genesis));
        World { mesh: chain.mesh(), broker, owner, chain }
    }

    /// Admits `member`, letting `twist` spoil things on the way.
    fn admit(
        w: &World,
        issuer: (&SecretKey, &Chain),
        member: &SecretKey,
        role: Role,
        twist: impl Fn(&mut Capability, &mut Claim, &mut Countersign),
        broker: &SecretKey,
    ) -> Chain {
        let invite = key(77);
        let mut cap = Capability {
            mesh: w.mesh,
            issuer: issuer.0.public(),
            invite: invite.public(),
            role,
            uses: 2,
            issued_at: NOW,
            expires_at: NOW + 1000,
            broker: w.broker.public(),
        };
        let mut claim = Claim {
            mesh: w.mesh,
            invite: invite.public(),
            member: member.public(),
            name: "bob".into(),
            claimed_at: NOW,
        };
        let mut counter = Countersign { claim: Hash([0; 32]), use_number: 1, at: NOW + 10 };
        twist(&mut cap, &mut claim, &mut counter);
        let (claim, proof) = claim.sign(&invite, member);
        counter.claim = claim.hash(domains::CLAIM);
        let mut chain = issuer.1.clone();
        chain.links.push(Link {
            capability: Signed::new(issuer.0, domains::CAPABILITY, &cap),
            countersign: Signed::new(broker, domains::COUNTERSIGN, &counter),
            claim,
            proof,
        });
        chain
    }

    #[test]
    fn owner_admin_and_member_chains_hold() {
        let w = world();
        let owner = w.chain.verify(&w.mesh).unwrap();
        assert_eq!((owner.role, owner.name.as_str()), (Role::Owner, "ana"));
        let admin = key(3);
        let a = admit(&w, (&w.owner, &w.chain), &admin, Role::Admin, |_, _, _| {}, &w.broker);
        assert_eq!(a.verify(&w.mesh).unwrap().role, Role::Admin);
        let m = admit(&w, (&admin, &a), &key(4), Role::Member, |_, _, _| {}, &w.broker);
        let member = m.verify(&w.mesh).unwrap();
        assert_eq!((member.role, member.invited_by), (Role::Member, Some(admin.public())));
        // A plain member's invite admits nobody.
        let n = admit(&w, (&key(4), &m), &key(5), Role::Member, |_, _, _| {}, &w.broker);
        assert!(matches!(n.verify(&w.mesh), Err(ChainError::Terms { link: 3, .. })));
        assert_eq!(m.verify(&MeshId([0; 32])), Err(ChainError::OtherMesh));
    }

    #[test]
    fn broken_terms_are_refused() {
        let w = world();
        let by = |twist: &dyn Fn(&mut Capability, &mut Claim, &mut Countersign)| {
            admit(&w, (&w.owner, &w.chain), &key(4), Role::Member, twist, &w.broker)
                .verify(&w.mesh)
                .unwrap_err()
        };
        let terms = |e| matches!(e, ChainError::Terms { link: 1, .. });
        assert!(terms(by(&|_, _, c| c.use_number = 3)));
        assert!(terms(by(&|_, _, c| c.use_number = 0)));
        assert!(terms(by(&|_, _, c| c.at = NOW + 1001)));
        assert!(terms(by(&|_, _, c| c.at = NOW - 60_001)));
        assert!(terms(by(&|cap, _, _| cap.role = Role::Owner)));
        assert!(terms(by(&|cap, _, _| cap.mesh = MeshId([1; 32]))));
        assert!(terms(by(&|cap, _, _| cap.broker = key(9).public())));
        assert!(terms(by(&|_, claim, _| claim.mesh = MeshId([1; 32]))));
        assert!(terms(by(&|_, claim, _| claim.name = "@all".into())));
        // The claim names a key whose proof is another's.
        assert!(matches!(
            by(&|_, claim, _| claim.member = key(9).public()),
            ChainError::Signature { part: "proof of the member's key", .. }
        ));
    }

    #[test]
    fn a_broker_cannot_invent_a_member_swap_a_key_or_claim() {
        let w = world();
        let mallory = key(66);
        let good = admit(&w, (&w.owner, &w.chain), &key(4), Role::Member, |_, _, _| {}, &w.broker);

        // Invents: signs a capability with its own key.
        let invented =
            admit(&w, (&w.broker, &w.chain), &mallory, Role::Member, |_, _, _| {}, &w.broker);
        assert!(invented.verify(&w.mesh).is_err());

        // Swaps: keeps the owner's capability, replaces the claim by one that it signs itself.
        let mut swapped = good.clone();
        let mut claim: Claim = swapped.links[0].claim.peek().unwrap();
        claim.member = mallory.public();
        let (signed, proof) = claim.sign(&w.broker, &mallory);
        let mut counter: Countersign = swapped.links[0].countersign.peek().unwrap();
        counter.claim = signed.hash(domains::CLAIM);
        swapped.links[0].countersign = Signed::new(&w.broker, domains::COUNTERSIGN, &counter);
        swapped.links[0].claim = signed;
        swapped.links[0].proof = proof;
        assert!(matches!(
            swapped.verify(&w.mesh),
            Err(ChainError::Signature { part: "claim", error: SignError::BadSignature, .. })
        ));

        // Another broker's countersignature does not count.
        let other = admit(&w, (&w.owner, &w.chain), &key(4), Role::Member, |_, _, _| {}, &key(9));
        assert!(matches!(
            other.verify(&w.mesh),
            Err(ChainError::Signature { part: "countersignature", .. })
        ));
    }

    #[test]
    fn a_chain_is_bounded() {
        let w = world();
        let mut chain =
            admit(&w, (&w.owner, &w.chain), &key(4), Role::Member, |_, _, _| {}, &w.broker);
        chain.links = vec![chain.links[0].clone(); MAX_CHAIN + 1];
        assert_eq!(chain.verify(&w.mesh), Err(ChainError::TooLong(MAX_CHAIN + 1)));
    }
}
