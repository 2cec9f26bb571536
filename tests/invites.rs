//! How people get in, and what keeps others out: over the broker's real HTTP and WebSocket. What a
//! hostile broker can try is in `invites/hostile.rs`.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

#[path = "invites/hostile.rs"]
mod hostile;
mod proto;

use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::http::{ClaimAnswer, ClaimRequest, CreateMesh};
use meshwire_signaling::frame::{
    ErrorFrame, Frame, InviteCreate, InviteInfo, InviteList, InviteRevoke, code,
};
use meshwire_signaling::invite::{Capability, Claim, Genesis, InviteLink, Role};
use meshwire_signaling::seal::x25519_public;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Hash, MeshId, PublicKey, SecretKey};
use meshwire_transport::http::{self as calls, HttpCallError};
use meshwire_transport::net::{OsNet, random};

use proto::{BOTH, Client, HOUR_MS, Member, World, http, new_key, now};

const MSGPACK: Encoding = Encoding::MsgPack;

/// Claims, or is refused with a status and a code.
async fn claim(
    world: &World,
    link: &InviteLink,
    body: &ClaimRequest,
) -> Result<ClaimAnswer, (u16, String)> {
    let invite = link.secret.public();
    match calls::claim(&OsNet, &world.base, world.pin, &invite, body).await {
        Ok(answer) => Ok(answer),
        Err(HttpCallError::Refused { status, error }) => Err((status, error.code)),
        Err(e) => panic!("{e}"),
    }
}

async fn refused(world: &World, link: &InviteLink, body: &ClaimRequest) -> (u16, String) {
    claim(world, link, body).await.unwrap_err()
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn listed(owner: &mut Client, invite: PublicKey) -> InviteInfo {
    let Ok(Frame::Invites(all)) = owner.ask(|req| InviteList { req }.into()).await else {
        panic!("the owner may list");
    };
    let of = |i: &InviteInfo| i.capability.peek::<Capability>().unwrap().invite == invite;
    all.invites.into_iter().find(of).unwrap()
}

async fn revoke(client: &mut Client, invite: PublicKey) -> Result<Frame, ErrorFrame> {
    client.ask(|req| InviteRevoke { req, invite }.into()).await
}

/// An invite on a connection that stays.
async fn invite(
    world: &World,
    owner: &mut Client,
    twist: impl FnOnce(&mut Capability),
) -> InviteLink {
    let link = InviteLink { secret: new_key(), ..world.link.clone() };
    owner.create_invite(world, &link.secret, twist).await.unwrap();
    link
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_claim_the_last_use_at_once_one_wins() {
    const ROUNDS: usize = 30;
    let world = World::start().await;
    let mut owner = world.connect(&world.owner, MSGPACK).await;
    let mut first_won = 0;
    for round in 0..ROUNDS {
        let link = invite(&world, &mut owner, |_| {}).await;
        let bodies = ["a", "b"].map(|n| world.claim(&link, &new_key(), &format!("{n}{round}")));
        let (a, b) =
            tokio::join!(claim(&world, &link, &bodies[0]), claim(&world, &link, &bodies[1]));
        let loser = match (a, b) {
            (Ok(_), Err(loser)) => {
                first_won += 1;
                loser
            }
            (Err(loser), Ok(_)) => loser,
            other => panic!("round {round}: not one winner: {other:?}"),
        };
        assert_eq!(loser, is(410, code::INVITE_EXHAUSTED));
        let row = listed(&mut owner, link.secret.public()).await;
        assert_eq!((row.used, row.joined.len()), (1, 1), "round {round}");
    }
    println!("the first of two won {first_won} of {ROUNDS} rounds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_admits_exactly_as_many_as_it_says() {
    let world = World::start().await;
    let link = world.invite(3, Role::Member).await;
    let bodies: Vec<_> = (0..8).map(|n| world.claim(&link, &new_key(), &format!("m{n}"))).collect();
    let claims = bodies.iter().map(|body| claim(&world, &link, body));
    let (won, lost): (Vec<_>, Vec<_>) =
        futures_util::future::join_all(claims).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (3, 5));
    for e in lost {
        assert_eq!(e.unwrap_err(), is(410, code::INVITE_EXHAUSTED));
    }
    let mut uses: Vec<u32> = won
        .into_iter()
        .map(|a| {
            let chain = a.unwrap().chain;
            chain.verify(&world.mesh).unwrap();
            let last = chain.links.last().unwrap();
            last.countersign.peek::<meshwire_signaling::invite::Countersign>().unwrap().use_number
        })
        .collect();
    uses.sort_unstable();
    assert_eq!(uses, [1, 2, 3]);
}

#[tokio::test]
async fn joining_again_with_the_same_key_burns_nothing() {
    let world = World::start().await;
    let link = world.invite(2, Role::Member).await;
    let key = new_key();
    let first = claim(&world, &link, &world.claim(&link, &key, "bob")).await.unwrap();
    assert!(!first.already_member);
    for name in ["bob", "bobby"] {
        let again = claim(&world, &link, &world.claim(&link, &key, name)).await.unwrap();
        assert!(again.already_member);
        assert_eq!(again.chain, first.chain, "the first certificate stands, name and all");
    }
    let preview = async || {
        calls::invite_preview(&OsNet, &world.base, None, &link.secret.public()).await.unwrap().used
    };
    assert_eq!(preview().await, 1);
    // Also once nothing is left of it.
    world.member_by(&link, "carol").await;
    assert_eq!(preview().await, 2);
    let again = claim(&world, &link, &world.claim(&link, &key, "bob")).await.unwrap();
    assert!(again.already_member);
    let late = refused(&world, &link, &world.claim(&link, &new_key(), "dave")).await;
    assert_eq!(late, is(410, code::INVITE_EXHAUSTED));
    assert_eq!(preview().await, 2);
}

#[tokio::test]
async fn a_claim_that_was_tampered_with_is_refused_and_burns_nothing() {
    let world = World::start().await;
    let mut owner = world.connect(&world.owner, MSGPACK).await;
    let link = invite(&world, &mut owner, |_| {}).await;
    let key = new_key();
    let tampered = is(400, code::INVITE_TAMPERED);
    let good = world.claim(&link, &key, "bob");
    let terms: Claim = good.claim.peek().unwrap();
    let signed = |terms: &Claim, invite: &SecretKey, member: &SecretKey| {
        let (claim, proof) = terms.sign(invite, member);
        ClaimRequest { claim, proof }
    };

    // Signed by another key than the invite's.
    let body = signed(&terms, &new_key(), &key);
    assert_eq!(refused(&world, &link, &body).await, tampered);
    // Another name, or another member's key, under the old signature.
    for changed in [
        Claim { name: "root".into(), ..terms.clone() },
        Claim { member: new_key().public(), ..terms.clone() },
    ] {
        let mut body = good.clone();
        body.claim.payload = signed(&changed, &new_key(), &key).claim.payload;
        assert_eq!(refused(&world, &link, &body).await, tampered);
    }
    // Somebody else's key: no proof of it.
    let body = signed(&Claim { member: world.owner.public(), ..terms.clone() }, &link.secret, &key);
    assert_eq!(refused(&world, &link, &body).await, tampered);
    // For another mesh or invite; with a name that is none.
    for changed in [
        Claim { mesh: MeshId([1; 32]), ..terms.clone() },
        Claim { invite: world.link.secret.public(), ..terms.clone() },
        Claim { name: "@all".into(), ..terms.clone() },
        Claim { name: String::new(), ..terms.clone() },
    ] {
        let body = signed(&changed, &link.secret, &key);
        assert_eq!(refused(&world, &link, &body).await, tampered);
    }
    // A claim on another invite, posted to this one.
    let body = world.claim(&world.link, &key, "bob");
    assert_eq!(refused(&world, &link, &body).await, tampered);

    assert_eq!(listed(&mut owner, link.secret.public()).await.used, 0);
    assert!(claim(&world, &link, &good).await.is_ok(), "the invite is still good");
}

#[tokio::test]
async fn unknown_expired_revoked_and_exhausted_invites_each_say_so() {
    let world = World::start().await;
    let mut owner = world.connect(&world.owner, Encoding::Json).await;
    let preview = async |link: &InviteLink| {
        let key = link.secret.public();
        match calls::invite_preview(&OsNet, &world.base, None, &key).await {
            Ok(_) => (200, String::new()),
            Err(HttpCallError::Refused { status, error }) => (status, error.code),
            Err(e) => panic!("{e}"),
        }
    };
    let body = |link: &InviteLink| world.claim(link, &new_key(), "late");

    let unknown = InviteLink { secret: new_key(), ..world.link.clone() };
    assert_eq!(refused(&world, &unknown, &body(&unknown)).await, is(404, code::INVITE_NOT_FOUND));
    assert_eq!(preview(&unknown).await, is(404, code::INVITE_NOT_FOUND));
    let missing = http::get(world.broker.addr(), "/v2/invites/not-a-key").await;
    assert_eq!((missing.status, missing.code()), is(404, code::INVITE_NOT_FOUND));

    let short = invite(&world, &mut owner, |c| c.expires_at = now() + 150).await;
    proto::within("the expiry", async {
        while preview(&short).await.0 == 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(preview(&short).await, is(410, code::INVITE_EXPIRED));
    assert_eq!(refused(&world, &short, &body(&short)).await, is(410, code::INVITE_EXPIRED));

    let taken_back = invite(&world, &mut owner, |c| c.uses = 2).await;
    let bob = world.member_by(&taken_back, "bob").await;
    revoke(&mut owner, taken_back.secret.public()).await.unwrap();
    assert_eq!(preview(&taken_back).await, is(410, code::INVITE_REVOKED));
    let late = refused(&world, &taken_back, &body(&taken_back)).await;
    assert_eq!(late, is(410, code::INVITE_REVOKED));
    assert!(listed(&mut owner, taken_back.secret.public()).await.revoked_at.is_some());
    world.connect(&bob, MSGPACK).await.close().await; // who used it stays

    let once = invite(&world, &mut owner, |_| {}).await;
    world.member_by(&once, "carol").await;
    assert_eq!(refused(&world, &once, &body(&once)).await, is(410, code::INVITE_EXHAUSTED));
    // Who has used it may look again.
    assert_eq!(preview(&once).await.0, 200);
}

#[tokio::test]
async fn a_name_belongs_to_one_key() {
    let world = World::start().await;
    let mut owner = world.connect(&world.owner, MSGPACK).await;
    let link = invite(&world, &mut owner, |_| {}).await;
    world.member("bob").await;
    for name in ["bob", "ana"] {
        let late = refused(&world, &link, &world.claim(&link, &new_key(), name)).await;
        assert_eq!(late, is(409, code::NAME_TAKEN));
    }
    assert_eq!(listed(&mut owner, link.secret.public()).await.used, 0, "nothing was burnt");
    world.member_by(&link, "bob 2").await;
}

#[tokio::test]
async fn only_the_admin_tokens_holder_founds_a_mesh() {
    let world = World::start().await;
    let key = new_key();
    let genesis = Genesis {
        name: "other".into(),
        owner: key.public(),
        owner_name: "eve".into(),
        broker: world.broker.key(),
        created_at: now(),
        nonce: Hash(random(&OsNet)),
    };
    let sign = |g: &Genesis, key: &SecretKey| CreateMesh {
        genesis: Signed::new(key, domains::GENESIS, g),
    };
    let good = serde_json::to_vec(&sign(&genesis, &key)).unwrap();
    let token = world.broker.admin_token().unwrap();
    let bearer = format!("Authorization: Bearer {}", token.bearer().as_str());
    let json = "Content-Type: application/json";
    let post = async |headers: &[&str], body: &[u8]| {
        http::request(world.broker.addr(), "POST", "/v2/meshes", headers, body).await
    };
    let whole = format!("Authorization: Bearer {token}");
    let zeros = format!("Authorization: Bearer {}", "0".repeat(64));
    let basic = bearer.replace("Bearer", "Basic");
    for headers in [
        vec![json],
        vec![json, zeros.as_str()],
        vec![json, whole.as_str()],
        vec![json, basic.as_str()],
        vec![json, "Authorization: Bearer "],
        vec![json, "Authorization: "],
    ] {
        let answer = post(&headers, &good).await;
        assert_eq!((answer.status, answer.code()), is(401, code::BAD_TOKEN), "{headers:?}");
        // Nor does it say what is wrong with the body.
        let answer = post(&headers, b"{").await;
        assert_eq!((answer.status, answer.code()), is(401, code::BAD_TOKEN), "{headers:?}");
    }
    let with_token = [json, bearer.as_str()];
    let forged = serde_json::to_vec(&sign(&genesis, &new_key())).unwrap();
    let answer = post(&with_token, &forged).await;
    assert_eq!((answer.status, answer.code()), is(400, code::BAD_SIGNATURE));
    let elsewhere = Genesis { broker: new_key().public(), ..genesis.clone() };
    let answer = post(&with_token, &serde_json::to_vec(&sign(&elsewhere, &key)).unwrap()).await;
    assert_eq!((answer.status, answer.code()), is(400, code::WRONG_BROKER));
    for _ in 0..2 {
        // Once more is a retry.
        assert_eq!(post(&with_token, &good).await.status, 200);
    }
}

#[tokio::test]
async fn only_owner_and_admins_manage_invites() {
    let world = World::start().await;
    let admin_link = world.invite(1, Role::Admin).await;
    let admin = world.member_by(&admin_link, "ad").await;
    let bob = world.member("bob").await;
    let open = world.link.secret.public();
    let capability = |issuer: &Member, role: Role| {
        let secret = new_key();
        let terms = Capability {
            mesh: world.mesh,
            issuer: issuer.public(),
            invite: secret.public(),
            role,
            uses: 1,
            issued_at: now(),
            expires_at: now() + HOUR_MS,
            broker: world.broker.key(),
        };
        (secret, Signed::new(&issuer.key, domains::CAPABILITY, &terms), terms)
    };
    for encoding in BOTH {
        let mut b = world.connect(&bob, encoding).await;
        let (_, own, _) = capability(&bob, Role::Member);
        let create = |capability: Signed| move |req| Frame::from(InviteCreate { req, capability });
        assert_eq!(b.ask(create(own.clone())).await.unwrap_err().code, code::FORBIDDEN);
        let list = b.ask(|req| InviteList { req }.into()).await.unwrap_err();
        assert_eq!((list.code.as_str(), list.permanent), (code::FORBIDDEN, true));
        assert_eq!(revoke(&mut b, open).await.unwrap_err().code, code::FORBIDDEN);
        b.peers().await;
        b.close().await;

        let mut a = world.connect(&admin, encoding).await;
        // An admin cannot register what another has signed, nor anything changed or senseless.
        assert_eq!(a.ask(create(own)).await.unwrap_err().code, code::INVITE_TAMPERED);
        let (_, mut changed, terms) = capability(&admin, Role::Member);
        let more = Capability { uses: 1_000, ..terms.clone() };
        changed.payload = Signed::new(&new_key(), domains::CAPABILITY, &more).payload;
        assert_eq!(a.ask(create(changed)).await.unwrap_err().code, code::INVITE_TAMPERED);
        let sign = |terms: Capability| Signed::new(&admin.key, domains::CAPABILITY, &terms);
        for senseless in [
            Capability { role: Role::Owner, ..terms.clone() },
            Capability { uses: 0, ..terms.clone() },
            Capability { expires_at: terms.issued_at, ..terms.clone() },
            Capability { mesh: MeshId([1; 32]), ..terms.clone() },
            Capability { broker: new_key().public(), ..terms.clone() },
            Capability { issuer: world.owner.public(), ..terms.clone() },
        ] {
            let refused = a.ask(create(sign(senseless))).await.unwrap_err();
            assert_eq!(refused.code, code::INVITE_TAMPERED);
        }
        let over = Capability { issued_at: 1, expires_at: 2, ..terms.clone() };
        let refused = a.ask(create(sign(over))).await.unwrap_err();
        assert_eq!(refused.code, code::INVITE_EXPIRED);
        assert_eq!(
            revoke(&mut a, new_key().public()).await.unwrap_err().code,
            code::INVITE_NOT_FOUND
        );

        // What it may do.
        let (secret, good, _) = capability(&admin, Role::Admin);
        a.ask(create(good.clone())).await.unwrap();
        assert_eq!(a.ask(create(good)).await.unwrap_err().code, code::EXISTS);
        let link = InviteLink { secret, ..world.link.clone() };
        let second = world.member_by(&link, &format!("{encoding:?}")).await;
        assert_eq!(second.chain.links.len(), 2, "owner, admin, admin");
        listed(&mut a, open).await;
        a.close().await;
    }
}

#[tokio::test]
async fn the_page_behind_an_invite_has_no_script_and_no_secret() {
    let world = World::start().await;
    let mut owner = world.connect(&world.owner, MSGPACK).await;
    let link = invite(&world, &mut owner, |_| {}).await;
    let text = link.to_string();
    let (url, fragment) = text.split_once('#').unwrap();
    let path = url.strip_prefix(world.broker.url()).unwrap();
    let page = http::get(world.broker.addr(), path).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<strong>ana</strong>") && page.body.contains("lab"));
    let preview = http::get(world.broker.addr(), &path.replace("/i/", "/v2/invites/")).await;
    assert_eq!(preview.status, 200);
    revoke(&mut owner, link.secret.public()).await.unwrap();
    let over = http::get(world.broker.addr(), path).await;
    assert_eq!(over.status, 410);
    let none = http::get(world.broker.addr(), &format!("/i/{}", new_key().public())).await;
    let garbage = http::get(world.broker.addr(), "/i/%3Cscript%3E").await;
    assert_eq!((none.status, garbage.status), (404, 404));
    for page in [page, over, none, garbage] {
        let html = page.body.to_lowercase();
        for word in ["<script", "javascript:", "onload", "onclick", "<iframe", "<form", "src="] {
            assert!(!html.contains(word), "{word} in {html}");
        }
        assert!(!page.body.contains(&hex::encode(link.secret.seed().as_slice())));
        assert!(!page.body.contains(fragment));
        let csp = page.header("content-security-policy").unwrap();
        assert!(csp.starts_with("default-src 'none'") && !csp.contains("script-src"), "{csp}");
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    }
    assert!(!preview.body.contains(&hex::encode(link.secret.seed().as_slice())));
}

#[tokio::test]
async fn a_preview_lets_a_joiner_verify_the_invite() {
    let world = World::start().await;
    let invite = world.link.secret.public();
    let preview = calls::invite_preview(&OsNet, &world.base, None, &invite).await.unwrap();
    let issuer = preview.issuer.verify(&world.mesh).unwrap();
    assert_eq!((issuer.key, issuer.name.as_str()), (world.owner.public(), "ana"));
    let terms = Capability::verify(&preview.capability, &world.mesh, &issuer).unwrap();
    assert_eq!((terms.invite, terms.uses, terms.broker), (invite, 1_000, world.broker.key()));
    assert_eq!(preview.used, 0);
    world.member("bob").await;
    let preview = calls::invite_preview(&OsNet, &world.base, None, &invite).await.unwrap();
    assert_eq!(preview.used, 1);
}

#[tokio::test]
async fn defect_13_invite_binds_the_members_ed25519_key() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    // The key that everybody finds in the certificate is the one that says hello and signs mail.
    assert_eq!(bob.chain.verify(&world.mesh).unwrap().key, bob.public());
    let mut a = world.connect(&world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    let roster = a.peers().await.peers;
    let keys: Vec<_> = roster.iter().map(|p| p.chain.verify(&world.mesh).unwrap().key).collect();
    assert!(keys.contains(&bob.public()));
    let (_, mail) = bob.letter(&world.mesh, world.owner.public(), 1, "hello", |_| {});
    b.hand(mail).await.unwrap();
    let m = a.message().await;
    assert_eq!(world.owner.open(&m.envelope), "hello");
    assert_eq!(m.envelope.proof.unwrap().chain.verify(&world.mesh).unwrap().key, bob.public());
    // Its X25519 image in its place proves nothing.
    let key = new_key();
    let claim = world.claim(&world.link, &key, "carol").claim.peek::<Claim>().unwrap();
    let image = PublicKey(x25519_public(&key.public()).unwrap());
    let (claim, proof) = Claim { member: image, ..claim }.sign(&world.link.secret, &key);
    let refused = refused(&world, &world.link, &ClaimRequest { claim, proof }).await;
    assert_eq!(refused, is(400, code::INVITE_TAMPERED));
}
