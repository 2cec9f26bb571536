//! Founding, joining and inviting.

use std::sync::Arc;

use meshwire_signaling::frame::http::{ClaimRequest, CreateMesh as CreateMeshBody};
use meshwire_signaling::id::check_name;
use meshwire_signaling::invite::{
    AdminToken, Capability, Chain, Claim, Genesis, InviteLink, Member, Role, mesh_id,
};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Hash, PublicKey, SecretKey};
use meshwire_transport::http::{self, HttpCallError};
use meshwire_transport::link::LinkError;
use meshwire_transport::net::random;
use meshwire_transport::url::BaseUrl;

use super::mesh::Mesh;
use super::{Node, invalid, store_error};
use crate::api::{
    ApiError, CreateInvite, CreateMesh, ErrorKind, Invite, InviteRow, Invites, Join, MeshInfo,
};
use crate::store::MeshRow;

fn base_url(text: &str) -> Result<BaseUrl, ApiError> {
    text.parse()
        .map_err(|e: meshwire_transport::url::UrlError| invalid("bad_broker_url", e.to_string()))
}

fn named(name: &str) -> Result<(), ApiError> {
    check_name(name).map_err(|e| invalid("bad_name", e.to_string()))
}

/// A broker's answer over HTTP as callers see it.
fn http_error(e: HttpCallError) -> ApiError {
    use meshwire_signaling::frame::code;
    let text = e.to_string();
    match e {
        HttpCallError::Refused { error, .. } => {
            let kind = match error.code.as_str() {
                code::BAD_TOKEN
                | code::INVITE_REVOKED
                | code::INVITE_EXPIRED
                | code::INVITE_EXHAUSTED
                | code::INVITE_TAMPERED => ErrorKind::Auth,
                code::INVITE_NOT_FOUND => ErrorKind::NotFound,
                code::NAME_TAKEN | code::EXISTS => ErrorKind::Exists,
                code::UNAVAILABLE | code::RATE_LIMITED => ErrorKind::Unreachable,
                code::MALFORMED => ErrorKind::Internal,
                _ => ErrorKind::Denied,
            };
            ApiError::new(kind, &error.code, error.message)
        }
        HttpCallError::Tls(_) => ApiError::new(ErrorKind::Denied, "tls", text),
        HttpCallError::Connect { .. } => {
            ApiError::new(ErrorKind::Unreachable, "broker_unreachable", text)
        }
        _ => ApiError::new(ErrorKind::Unreachable, "no_broker", text),
    }
}

/// A link's error as callers see it.
pub(super) fn link_error(e: LinkError) -> ApiError {
    match e {
        LinkError::Refused(frame) => {
            let kind = if frame.permanent { ErrorKind::Denied } else { ErrorKind::Unreachable };
            ApiError::new(kind, &frame.code, frame.message)
        }
        e => ApiError::new(ErrorKind::Unreachable, "broker_unreachable", e.to_string()),
    }
}

/// The broker shows what it cannot have got honestly.
fn dishonest(text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Denied, "invite_tampered", text)
}

impl Node {
    /// Founds a mesh on a broker, with this node as its owner.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn create_mesh(&self, ask: CreateMesh) -> Result<MeshInfo, ApiError> {
        self.owner_only("found meshes")?;
        let token: AdminToken =
            ask.admin_token.parse().map_err(|e: meshwire_signaling::invite::TokenError| {
                ApiError::new(ErrorKind::Auth, "bad_token", e.to_string())
            })?;
        let base = base_url(&ask.broker_url)?;
        named(&ask.name)?;
        named(&ask.member_name)?;
        let net = self.services().net.as_ref();
        let info = http::broker_info(net, &base, token.pin).await.map_err(http_error)?;
        if info.broker != token.broker {
            let text = format!(
                "the broker at {base} has the key {}, the admin token is of {}: check --broker",
                info.broker.short(),
                token.broker.short()
            );
            return Err(ApiError::new(ErrorKind::Auth, "wrong_broker", text));
        }
        let key = SecretKey::from_seed(&random(net));
        let genesis = Genesis {
            name: ask.name,
            owner: key.public(),
            owner_name: ask.member_name,
            broker: token.broker,
            created_at: net.unix_ms(),
            nonce: Hash(random(net)),
        };
        let signed = Signed::new(&key, domains::GENESIS, &genesis);
        let mesh = mesh_id(&signed);
        // The key first: a mesh whose owner key is lost is lost.
        self.services().keyring.save(&mesh, &key)?;
        let body = CreateMeshBody { genesis: signed.clone() };
        http::create_mesh(net, &base, &token, &body).await.map_err(http_error)?;
        let chain = Chain::owner(signed);
        let member = chain.verify(&mesh).map_err(|e| dishonest(e.to_string()))?;
        self.adopt(chain, member, ask.broker_url, token.pin, false).await
    }

    /// Joins by an invite link.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn join(&self, ask: Join) -> Result<MeshInfo, ApiError> {
        self.owner_only("join meshes")?;
        let link: InviteLink =
            ask.invite.parse().map_err(|e: meshwire_signaling::invite::LinkError| {
                invalid("bad_invite", e.to_string())
            })?;
        named(&ask.member_name)?;
        if let Some(mesh) = self.meshes().into_iter().find(|m| m.id() == link.mesh) {
            return Ok(MeshInfo { already_member: true, ..mesh.info() });
        }
        let base = base_url(&link.base)?;
        let net = self.services().net.as_ref();
        let invite = link.secret.public();
        let preview =
            http::invite_preview(net, &base, link.pin, &invite).await.map_err(http_error)?;
        let issuer = preview
            .issuer
            .verify(&link.mesh)
            .map_err(|e| dishonest(format!("the inviter's certificate does not hold: {e}")))?;
        let terms = Capability::verify(&preview.capability, &link.mesh, &issuer)
            .map_err(|e| dishonest(format!("the invite does not hold: {e}")))?;
        if terms.invite != invite || issuer.broker != link.broker {
            return Err(dishonest("the broker shows another invite than the link's"));
        }
        let key = self.services().keyring.load_or_make(&link.mesh, net)?;
        let claim = Claim {
            mesh: link.mesh,
            invite,
            member: key.public(),
            name: ask.member_name,
            claimed_at: net.unix_ms(),
        };
        let (claim, proof) = claim.sign(&link.secret, &key);
        let body = ClaimRequest { claim, proof };
        let answer = http::claim(net, &base, link.pin, &invite, &body).await.map_err(http_error)?;
        let member = answer
            .chain
            .verify(&link.mesh)
            .map_err(|e| dishonest(format!("the broker's certificate does not hold: {e}")))?;
        if member.key != key.public() {
            return Err(dishonest("the broker's certificate is for another key"));
        }
        self.adopt(answer.chain, member, link.base, link.pin, answer.already_member).await
    }

    /// Keeps a membership and starts working for it.
    async fn adopt(
        &self,
        chain: Chain,
        member: Member,
        broker_url: String,
        pin: Option<Hash>,
        already_member: bool,
    ) -> Result<MeshInfo, ApiError> {
        let services = self.services();
        let now = services.net.unix_ms();
        let row = MeshRow {
            mesh: chain.mesh(),
            name: member.mesh_name.clone(),
            broker_url,
            broker_key: member.broker,
            pin,
            chain: chain.clone(),
            self_key: member.key,
            self_name: member.name.clone(),
            role: member.role,
            joined_at: now,
        };
        let instance = meshwire_signaling::InstanceId(random(services.net.as_ref()));
        services.store.mesh_insert(&row, instance).await.map_err(store_error)?;
        let mesh = self.start(row).await?;
        super::roster::admit(&mesh, member, chain).await;
        Ok(MeshInfo { already_member, ..mesh.info() })
    }

    /// Makes an invite and registers it with the broker.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn invite(&self, ask: CreateInvite) -> Result<Invite, ApiError> {
        self.owner_only("invite")?;
        let mesh = self.pick(ask.mesh.as_deref())?;
        if !mesh.row.role.may_invite() {
            let text = format!(
                "you are {} in {}: only the owner and admins invite",
                mesh.row.role.as_str(),
                mesh.row.name
            );
            return Err(ApiError::new(ErrorKind::Denied, "forbidden", text));
        }
        if ask.role == Role::Owner || ask.uses == 0 || ask.ttl_ms == 0 {
            let text = "an invite admits at least one admin or member and lives for a while";
            return Err(invalid("bad_invite_terms", text));
        }
        let base = ask.broker_url.unwrap_or_else(|| mesh.row.broker_url.clone());
        base_url(&base)?;
        mesh.up().await?;
        let net = self.services().net.as_ref();
        let secret = SecretKey::from_seed(&random(net));
        let now = net.unix_ms();
        let terms = Capability {
            mesh: mesh.id(),
            issuer: mesh.row.self_key,
            invite: secret.public(),
            role: ask.role,
            uses: ask.uses,
            issued_at: now,
            expires_at: now.saturating_add(ask.ttl_ms),
            broker: mesh.row.broker_key,
        };
        let signed = Signed::new(mesh.pairs.key(), domains::CAPABILITY, &terms);
        mesh.link.invite_create(signed).await.map_err(link_error)?;
        let link = InviteLink {
            base: base.trim_end_matches('/').to_owned(),
            secret,
            mesh: mesh.id(),
            broker: mesh.row.broker_key,
            pin: mesh.row.pin,
        };
        Ok(Invite {
            link: link.to_string(),
            invite: terms.invite,
            mesh_name: mesh.row.name.clone(),
            uses: terms.uses,
            role: terms.role,
            expires_at: terms.expires_at,
        })
    }

    /// Lists a mesh's invites, or ends one and returns it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn invites(&self, ask: Invites) -> Result<Vec<InviteRow>, ApiError> {
        self.owner_only("see and end invites")?;
        let mesh = self.pick(ask.mesh.as_deref())?;
        mesh.up().await?;
        if let Some(Ok(invite)) = ask.revoke.as_ref().map(|k| k.parse::<PublicKey>()) {
            // A whole key needs no list, which ends with the newest hundred.
            mesh.link.invite_revoke(invite).await.map_err(link_error)?;
            let rows = self.invite_rows(&mesh).await?;
            return Ok(rows.into_iter().filter(|r| r.invite == invite).collect());
        }
        let rows = self.invite_rows(&mesh).await?;
        let Some(prefix) = ask.revoke else { return Ok(rows) };
        let prefix = prefix.to_lowercase();
        let fits = |r: &InviteRow| r.invite.to_string().starts_with(&prefix);
        let found: Vec<PublicKey> = rows.iter().filter(|r| fits(r)).map(|r| r.invite).collect();
        match found.as_slice() {
            [invite] if prefix.len() >= crate::core::resolve::MIN_PREFIX => {
                mesh.link.invite_revoke(*invite).await.map_err(link_error)?;
                let rows = self.invite_rows(&mesh).await?;
                Ok(rows.into_iter().filter(|r| r.invite == *invite).collect())
            }
            [] => {
                let text = format!("no invite starts with {prefix:?}: see meshwire invite list");
                Err(ApiError::new(ErrorKind::NotFound, "invite_not_found", text))
            }
            _ => {
                let text = format!(
                    "{prefix:?} does not name one invite: give at least {} characters of its key, \
                     and enough to tell it apart",
                    crate::core::resolve::MIN_PREFIX
                );
                Err(ApiError::new(ErrorKind::Ambiguous, "invite_ambiguous", text))
            }
        }
    }

    async fn invite_rows(&self, mesh: &Arc<Mesh>) -> Result<Vec<InviteRow>, ApiError> {
        let now = self.services().net.unix_ms();
        let infos = mesh.link.invite_list().await.map_err(link_error)?;
        let row = |info: meshwire_signaling::frame::InviteInfo| {
            let terms: Capability = info.capability.peek().ok()?;
            let state = if info.revoked_at.is_some() {
                "revoked"
            } else if terms.expires_at <= now {
                "expired"
            } else if info.used >= terms.uses {
                "used"
            } else {
                "open"
            };
            Some(InviteRow {
                invite: terms.invite,
                state: state.to_owned(),
                role: terms.role,
                uses: terms.uses,
                used: info.used,
                expires_at: terms.expires_at,
                joined: info.joined.into_iter().map(|j| j.name).collect(),
            })
        };
        Ok(infos.into_iter().filter_map(row).collect())
    }
}
