//! Invites: managed by admins over the WebSocket, previewed and claimed over HTTP.

use axum::Json;
use axum::extract::{Path, State};
use meshwire_signaling::frame::http::{ClaimAnswer, ClaimRequest, InvitePreview};
use meshwire_signaling::frame::{
    ErrorFrame, Frame, InviteCreate, InviteInfo, InviteRevoke, Invites, Joined, Ok as OkFrame, code,
};
use meshwire_signaling::invite::{Capability, Chain, Claim, Countersign, Link};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{MeshId, PublicKey, SecretKey, UnixMillis, codec};

use super::{Failure, Shared, Strict};
use crate::serve::Inner;
use crate::store::{InviteRow, MemberRow, StoreError, Tx};

/// Most invites in one list, and most joiners listed with each.
const MAX_LISTED: usize = 100;
const MAX_JOINED: usize = 20;
/// Bytes of one list, so that its frame stays below the limit whatever names are in it.
const MAX_LIST_BYTES: usize = 96 * 1024;
/// Most bytes of a chain; as many links as there may be, with the longest names, take half of it. Chains
/// are in lists of peers and beside mail, so they must not fill a frame.
pub(crate) const MAX_CHAIN_BYTES: usize = 24 * 1024;
/// Bytes that one joiner takes beside its name, in JSON.
const JOINED_BYTES: usize = 128;

/// The caller's row, if it may manage invites.
async fn admin(inner: &Inner, mesh: MeshId, key: PublicKey) -> Result<MemberRow, ErrorFrame> {
    let row = inner.store.member(&mesh, &key).await.map_err(|e| Failure::from(e).0)?;
    row.filter(|m| m.role.may_invite()).ok_or_else(|| {
        ErrorFrame::permanent(code::FORBIDDEN, "only the owner and admins manage invites")
    })
}

/// Registers an invite.
pub(crate) async fn create(
    inner: &Inner,
    mesh: MeshId,
    member: PublicKey,
    ask: InviteCreate,
) -> Result<Frame, ErrorFrame> {
    let row = admin(inner, mesh, member).await?;
    let issuer = codec::from_msgpack::<Chain>(&row.chain)
        .ok()
        .and_then(|c| c.verify(&mesh).ok())
        .ok_or_else(|| Failure::from(StoreError::Corrupt("members.chain")).0)?;
    let cap = Capability::verify(&ask.capability, &mesh, &issuer)
        .map_err(|e| ErrorFrame::permanent(code::INVITE_TAMPERED, e.to_string()))?;
    let now = inner.net.unix_ms();
    if cap.expires_at <= now {
        return Err(ErrorFrame::permanent(code::INVITE_EXPIRED, "the invite is already over"));
    }
    let row = InviteRow {
        invite: cap.invite,
        mesh,
        issuer: member,
        capability: codec::to_msgpack(&ask.capability),
        uses: cap.uses,
        used: 0,
        expires_at: cap.expires_at,
        created_at: now,
        revoked_at: None,
    };

    match inner.writer.run(move |tx| Box::pin(async move { tx.create_invite(&row).await })).await {
        Ok(true) => Ok(OkFrame { req: ask.req }.into()),
        Ok(false) => Err(ErrorFrame::permanent(code::EXISTS, "this invite is registered already")),
        Err(e) => Err(Failure::from(e).0),
    }
}

/// Lists a mesh's invites.
pub(crate) async fn list(
    inner: &Inner,
    mesh: MeshId,
    member: PublicKey,
    req: u64,
) -> Result<Frame, ErrorFrame> {
    admin(inner, mesh, member).await?;
    let failed = |e: StoreError| Failure::from(e).0;
    let (mut invites, mut bytes) = (Vec::new(), 0);
    for row in inner.store.invites(&mesh, MAX_LISTED).await.map_err(failed)? {
        let capability = codec::from_msgpack(&row.capability)
            .map_err(|_| failed(StoreError::Corrupt("invites.capability")))?;
        let joined = inner.store.joined(&row.invite, MAX_JOINED).await.map_err(failed)?;
        bytes += row.capability.len();
        bytes += joined.iter().map(|m| JOINED_BYTES + m.name.len()).sum::<usize>();
        if bytes > MAX_LIST_BYTES {
            break;
        }
        let joined =
            joined.into_iter().map(|m| Joined { key: m.key, name: m.name, at: m.joined_at });
        invites.push(InviteInfo {
            capability,
            revoked_at: row.revoked_at,
            joined: joined.collect(),
            used: row.used,
        });
    }
    Ok(Invites { req, invites }.into())
}

/// Ends an invite.
pub(crate) async fn revoke(
    inner: &Inner,
    mesh: MeshId,
    member: PublicKey,
    ask: &InviteRevoke,
) -> Result<Frame, ErrorFrame> {
    admin(inner, mesh, member).await?;
    let (invite, now, req) = (ask.invite, inner.net.unix_ms(), ask.req);

    match inner
        .writer
        .run(move |tx| Box::pin(async move { tx.revoke_invite(&mesh, &invite, now).await }))
        .await
    {
        Ok(true) => Ok(OkFrame { req }.into()),
        Ok(false) => Err(not_found()),
        Err(e) => Err(Failure::from(e).0),
    }
}

fn not_found() -> ErrorFrame {
    ErrorFrame::permanent(code::INVITE_NOT_FOUND, "this broker has no such invite")
}

fn parse(invite: &str) -> Result<PublicKey, Failure> {
    invite.parse().map_err(|_| not_found().into())
}

/// Why an invite can no longer be used: revoked, then expired, then exhausted (inventory B-135).
pub(super) fn ended(row: &InviteRow, now: UnixMillis) -> Option<ErrorFrame> {
    let (code, text) = if row.revoked_at.is_some() {
        (code::INVITE_REVOKED, "the invite was revoked: ask for a new one")
    } else if row.expires_at <= now {
        (code::INVITE_EXPIRED, "the invite has expired: ask for a new one")
    } else if row.used >= row.uses {
        (
            code::INVITE_EXHAUSTED,
            "the invite has been used as often as it allows: ask for a new one",
        )
    } else {
        return None;
    };
    Some(ErrorFrame::permanent(code, text))
}

/// An invite with what a joiner needs to verify it.
pub(super) async fn load(
    inner: &Inner,
    invite: &PublicKey,
) -> Result<(InviteRow, Chain, Signed), Failure> {
    let row = inner.store.invite(invite).await?.ok_or_else(not_found)?;
    let issuer = inner.store.member(&row.mesh, &row.issuer).await?;
    let issuer = issuer.ok_or(StoreError::Corrupt("invites.issuer"))?;
    let chain =
        codec::from_msgpack(&issuer.chain).map_err(|_| StoreError::Corrupt("members.chain"))?;
    let capability = codec::from_msgpack(&row.capability)
        .map_err(|_| StoreError::Corrupt("invites.capability"))?;
    Ok((row, chain, capability))
}

/// `GET /v2/invites/KEY`.
pub(super) async fn preview(
    State(inner): Shared,
    Path(invite): Path<String>,
) -> Result<Json<InvitePreview>, Failure> {
    let (row, issuer, capability) = load(&inner, &parse(&invite)?).await?;
    if let Some(error) = ended(&row, inner.net.unix_ms()) {
        // Somebody who has used it may look again: the claim says so.
        if error.code != code::INVITE_EXHAUSTED {
            return Err(error.into());
        }
    }
    Ok(Json(InvitePreview { issuer, capability, used: row.used }))
}

/// `POST /v2/invites/KEY/claim`.
pub(super) async fn claim(
    State(inner): Shared,
    Path(invite): Path<String>,
    body: Result<Strict<ClaimRequest>, Failure>,
) -> Result<Json<ClaimAnswer>, Failure> {
    let invite = parse(&invite)?;
    let Strict(ask) = body?;
    let (row, issuer, capability) = load(&inner, &invite).await?;
    let terms: Capability =
        capability.peek().map_err(|_| StoreError::Corrupt("invites.capability"))?;
    let claim = Claim::verify(&ask.claim, &ask.proof, &terms)
        .map_err(|e| Failure::new(code::INVITE_TAMPERED, format!("the claim is refused: {e}")))?;
    let admission = Admission {
        mesh: row.mesh,
        invite,
        role: terms.role,
        issuer,
        capability,
        claim,
        ask,
        broker: inner.key.clone(),
        now: inner.net.unix_ms(),
    };

    let answer = inner.writer.run(move |tx| Box::pin(admission.admit(tx))).await??;
    if !answer.already_member {
        inner.registry.admitted(&row.mesh, claimant(&answer.chain), &answer.chain, &inner);
    }
    Ok(Json(answer))
}

/// The member whom a chain's last link admits.
fn claimant(chain: &Chain) -> PublicKey {
    let claim = chain.links.last().and_then(|l| l.claim.peek::<Claim>().ok());
    claim.map_or(PublicKey([0; 32]), |c| c.member)
}

/// A verified claim on its way into the store.
struct Admission {
    mesh: MeshId,
    invite: PublicKey,
    role: meshwire_signaling::invite::Role,
    issuer: Chain,
    capability: Signed,
    claim: Claim,
    ask: ClaimRequest,
    broker: SecretKey,
    now: UnixMillis,
}

impl Admission {
    /// Runs in the transaction: of two claims on the last use, one wins.
    async fn admit(self, tx: &mut dyn Tx) -> Result<Result<ClaimAnswer, Failure>, StoreError> {
        if let Some(member) = tx.member(&self.mesh, &self.claim.member).await? {
            let chain = codec::from_msgpack(&member.chain)
                .map_err(|_| StoreError::Corrupt("members.chain"))?;
            return Ok(Ok(ClaimAnswer { chain, already_member: true }));
        }
        let Some(row) = tx.invite(&self.invite).await? else { return Ok(Err(not_found().into())) };
        if let Some(error) = ended(&row, self.now) {
            return Ok(Err(error.into()));
        }
        if tx.name_holder(&self.mesh, &self.claim.name).await?.is_some() {
            let text = format!(
                "the name {:?} is taken in this mesh: choose another with --name",
                self.claim.name
            );
            return Ok(Err(Failure::new(code::NAME_TAKEN, text)));
        }
        let counter = Countersign {
            claim: self.ask.claim.hash(domains::CLAIM),
            use_number: row.used.saturating_add(1),
            at: self.now,
        };
        let mut chain = self.issuer;
        chain.links.push(Link {
            capability: self.capability,
            claim: self.ask.claim,
            proof: self.ask.proof,
            countersign: Signed::new(&self.broker, domains::COUNTERSIGN, &counter),
        });
        // What every peer will check; a chain that is too long ends here.
        if let Err(e) = chain.verify(&self.mesh) {
            return Ok(Err(Failure::new(code::INVITE_TAMPERED, e.to_string())));
        }
        let bytes = codec::to_msgpack(&chain);
        if bytes.len() > MAX_CHAIN_BYTES {
            let text = format!("the chain is larger than {MAX_CHAIN_BYTES} bytes");
            return Ok(Err(Failure::new(code::TOO_LARGE, text)));
        }
        tx.use_invite(&self.invite).await?;
        tx.add_member(&MemberRow {
            mesh: self.mesh,
            key: self.claim.member,
            name: self.claim.name,
            role: self.role,
            chain: bytes,
            invite: Some(self.invite),
            joined_at: self.now,
            seen_at: None,
            about: None,
            hidden: false,
        })
        .await?;
        Ok(Ok(ClaimAnswer { chain, already_member: false }))
    }
}
