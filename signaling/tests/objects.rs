//! The objects inside frames and envelopes, which are decoded after their signature or seal was
//! opened: whatever a member signs or seals, decoding it is a value or an error.

use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
use meshwire_signaling::codec::{from_msgpack, to_msgpack};
use meshwire_signaling::envelope::{
    Author, Channel, Content, Durability, Header, StateHead, Suite, Target,
};
use meshwire_signaling::frame::http::{ClaimAnswer, ClaimRequest, CreateMesh, InvitePreview};
use meshwire_signaling::frame::{HelloAckBody, HelloBody, Lease, Limits, Param, ResumeToken};
use meshwire_signaling::group::{GroupAction, GroupStatement};
use meshwire_signaling::invite::{Capability, Claim, Countersign, Genesis, Role};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{
    EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, Signature, UnixMillis, codec,
};
use proptest::prelude::*;

const NOW: UnixMillis = 1_700_000_000_000;

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

/// One of each, encoded.
fn objects(n: u8, text: &str, number: u64) -> Vec<Vec<u8>> {
    let mesh = MeshId([n; 32]);
    let signed = Signed { payload: vec![n; 40].into(), sig: Signature([n; 64]) };
    let features = [(text.to_owned(), [(text.to_owned(), Param::Int(number))].into())].into();
    vec![
        to_msgpack(&Header {
            channel: Channel::Dm,
            from: Author { key: key(n), instance: InstanceId([n; 16]) },
            target: Target::Group { name: text.to_owned() },
            id: EnvelopeId::new(NOW, u128::from(number)),
            priority: Priority::Low,
            durability: Durability::Live,
            sent_at: number,
            expires_at: number,
            suite: Suite::Wrap,
            key_id: vec![n; 32].into(),
            ephemeral: Some(Hash([n; 32])),
        }),
        to_msgpack(&Content {
            kind: text.to_owned(),
            reply_to: Some(EnvelopeId::new(NOW, 1)),
            mentions: vec![key(n), key(1)],
            correlation: None,
            response: true,
            seq: number,
            floor: 1,
            head: StateHead { version: number, hash: Hash([n; 32]) },
            content: text.as_bytes().to_vec().into(),
        }),
        to_msgpack(&Genesis {
            name: text.to_owned(),
            owner: key(n),
            owner_name: text.to_owned(),
            broker: key(1),
            created_at: number,
            nonce: Hash([n; 32]),
        }),
        to_msgpack(&Capability {
            mesh,
            issuer: key(n),
            invite: key(1),
            role: Role::Admin,
            uses: u32::from(n),
            issued_at: number,
            expires_at: number,
            broker: key(2),
        }),
        to_msgpack(&Claim {
            mesh,
            invite: key(n),
            member: key(1),
            name: text.to_owned(),
            claimed_at: number,
        }),
        to_msgpack(&Countersign { claim: Hash([n; 32]), use_number: u32::from(n), at: number }),
        to_msgpack(&Attestation {
            mesh,
            member: key(n),
            key: key(1),
            kind: IdentityKind::Service,
            name: text.to_owned(),
            capabilities: Capabilities::List(vec![text.to_owned()]),
            issued_at: number,
            expires_at: number,
        }),
        to_msgpack(&HelloBody {
            mesh,
            key: key(n),
            kind: IdentityKind::Session,
            member: key(1),
            instance: InstanceId([n; 16]),
            counter: number,
            features,
            requires: vec![text.to_owned()],
            client_nonce: Hash([n; 32]),
            challenge: Hash([1; 32]),
            at: number,
            broker: key(2),
            binding: Some(Hash([3; 32])),
            resume: Some(signed.clone()),
            agent: text.to_owned(),
        }),
        to_msgpack(&HelloAckBody {
            hello: Hash([n; 32]),
            broker: key(1),
            at: number,
            name: text.to_owned(),
            role: Role::Owner,
            limits: Limits::default(),
            features: Default::default(),
            requires: vec![text.to_owned()],
            lease: Some(Lease { ttl_ms: number, resumed: true, token: signed }),
            agent: text.to_owned(),
        }),
        to_msgpack(&ResumeToken {
            mesh,
            key: key(n),
            instance: InstanceId([n; 16]),
            lease: InstanceId([1; 16]),
            expires_at: number,
        }),
        to_msgpack(&GroupStatement {
            mesh,
            member: key(n),
            group: text.to_owned(),
            action: GroupAction::Join,
            role: Some(text.to_owned()),
            at: number,
        }),
    ]
}

/// Decodes `bytes` as everything; none of it may panic. Says how many took it.
fn decode_as_everything(bytes: &[u8]) -> usize {
    macro_rules! each {
        ($($ty:ty),*) => { [$(from_msgpack::<$ty>(bytes).is_ok()),*] };
    }
    let taken = each!(
        Header,
        Content,
        Genesis,
        Capability,
        Claim,
        Countersign,
        Attestation,
        HelloBody,
        HelloAckBody,
        ResumeToken,
        GroupStatement,
        CreateMesh,
        ClaimRequest,
        ClaimAnswer,
        InvitePreview
    );
    let json = codec::Encoding::Json;
    let _ = codec::decode::<CreateMesh>(json, bytes);
    let _ = codec::decode::<ClaimRequest>(json, bytes);
    let _ = codec::decode::<ClaimAnswer>(json, bytes);
    let _ = codec::decode::<InvitePreview>(json, bytes);
    taken.into_iter().filter(|t| *t).count()
}

proptest! {
    // Thousands of cuts each: a few cases reach every field.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_was_encoded_is_taken_and_every_cut_is_refused(
        n in any::<u8>(), text in ".{0,40}", number in 0..=(1u64 << 53) - 1,
    ) {
        for bytes in objects(n, &text, number) {
            prop_assert!(decode_as_everything(&bytes) >= 1);
            for cut in 0..bytes.len() {
                prop_assert_eq!(decode_as_everything(&bytes[..cut]), 0, "cut at {}", cut);
            }
        }
    }

}

proptest! {
    #[test]
    fn spoiled_objects_never_panic(
        n in any::<u8>(), which in 0..11usize, at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = objects(n, "text", 7).swap_remove(which);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        decode_as_everything(&bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_as_everything(&bytes);
    }
}
