//! Founding a mesh.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use meshwire_signaling::frame::code;
use meshwire_signaling::frame::http::{CreateMesh, MeshCreated};
use meshwire_signaling::invite::Chain;
use meshwire_signaling::{Hash, codec};
use subtle::ConstantTimeEq as _;

use super::{Failure, Shared, Strict};
use crate::serve::ADMIN_SETTING;
use crate::store::MemberRow;

pub(super) async fn create(
    State(inner): Shared,
    headers: HeaderMap,
    body: Result<Strict<CreateMesh>, Failure>,
) -> Result<Json<MeshCreated>, Failure> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let secret = bearer.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
    let wanted = inner.store.setting(ADMIN_SETTING).await?.unwrap_or_default();
    if !bool::from(Hash::of(secret.as_bytes()).0.as_slice().ct_eq(&wanted)) {
        let text = "founding a mesh needs the broker's admin token, printed at its first start";
        return Err(Failure::new(code::BAD_TOKEN, text));
    }
    let Strict(ask) = body?;
    let chain = Chain::owner(ask.genesis);
    let mesh = chain.mesh();
    let owner = chain
        .verify(&mesh)
        .map_err(|e| Failure::new(code::BAD_SIGNATURE, format!("the genesis is refused: {e}")))?;
    if owner.broker != inner.key.public() {
        return Err(Failure::new(code::WRONG_BROKER, "the genesis names another broker's key"));
    }
    let row = MemberRow {
        mesh,
        key: owner.key,
        name: owner.name,
        role: owner.role,
        chain: codec::to_msgpack(&chain),
        invite: None,
        joined_at: inner.net.unix_ms(),
        seen_at: None,
        about: None,
        hidden: false,
    };
    let name = owner.mesh_name;

    // Founding the same mesh again is a retry, not an error.
    inner.writer.run(move |tx| Box::pin(async move { tx.create_mesh(&name, &row).await })).await?;
    Ok(Json(MeshCreated { mesh }))
}
