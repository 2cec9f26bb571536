"""meshwire's own layouts."""

import meshwire_ref as ref
from meshwire_ref import Blob, Key, commitment, det, layout, pack, plain, sha256, signed, signed_hash
from world import *  # noqa: F403 - the people and objects by their short names
import world as w


def signed_case(name, kind, domain, signer, obj):
    s = signed(signer, domain, obj)
    payload = bytes(s["payload"])
    return {
        "name": name,
        "type": kind,
        "domain": domain,
        "rust_order": obj not in (w.hello_session_object, w.ack_old_object),
        "seed": signer.seed,
        "public": signer.public,
        "object": obj,
        "payload": payload,
        "layout": layout(domain, payload),
        "hash": signed_hash(domain, s),
        "sig": s["sig"],
    }


def signed_objects():
    counted = {"claim": signed_hash(ref.CLAIM, w.link_admin["claim"]), **w.count}
    rows = [
        ("genesis", "genesis", ref.GENESIS, w.owner, w.genesis_object),
        ("capability for an admin", "capability", ref.CAPABILITY, w.owner, w.cap_admin),
        ("capability for members", "capability", ref.CAPABILITY, w.admin, w.cap_member),
        ("claim", "claim", ref.CLAIM, w.invite_a, w.claim_admin),
        ("countersign", "countersign", ref.COUNTERSIGN, w.broker, counted),
        ("attestation, all", "attestation", ref.ATTESTATION, w.member, w.attest_all),
        ("attestation, a list", "attestation", ref.ATTESTATION, w.member, w.attest_list),
        ("attestation, nothing", "attestation", ref.ATTESTATION, w.member, w.attest_none),
        ("hello of a member", "hello", ref.HELLO, w.member, w.hello_object),
        ("hello of a session", "hello", ref.HELLO, w.agent, w.hello_session_object),
        ("hello ack", "hello_ack", ref.HELLO_ACK, w.broker, w.ack_object),
        ("hello ack of an older broker", "hello_ack", ref.HELLO_ACK, w.broker, w.ack_old_object),
        ("group, joining with a role", "group", ref.GROUP, w.member, w.joins_ops),
        ("group, leaving", "group", ref.GROUP, w.member, w.leaves_ops),
        ("resume token", "resume", ref.RESUME, w.broker, w.resume_object),
    ]
    return [signed_case(*row) for row in rows]


def chain_case(name, chain, key, who, role, joined_at, invited_by):
    return {
        "name": name,
        "chain": pack(chain),
        "json": chain,
        "fingerprint": sha256(pack(chain)),
        "member": {
            "key": key,
            "name": who,
            "role": role,
            "joined_at": joined_at,
            "invited_by": invited_by,
            "mesh_name": "lab",
            "broker": w.broker.public,
        },
    }


def refused_chains():
    def replace(n, **parts):
        links = [dict(x) for x in w.chain_member["links"]]
        links[n].update(parts)
        return {"genesis": w.genesis, "links": links}

    def twisted(**change):
        """carol's admission with something changed by whoever signs it."""
        cap = {**w.cap_member, **change.get("capability", {})}
        claim = {**w.claim_member, **change.get("claim", {})}
        count = {**w.count, **change.get("countersign", {})}
        who = {"issuer": w.admin, "invite": w.invite_m, "member": w.member, "broker": w.broker}
        who.update(change.get("by", {}))
        link = ref.link(who["issuer"], who["invite"], who["member"], who["broker"], cap, claim, count)
        return {"genesis": w.genesis, "links": [w.link_admin, link]}

    mallory = Key("mallory")
    by_mallory = {"member": mallory.public}
    other = signed(w.owner, ref.GENESIS, {**w.genesis_object, "nonce": det("other nonce")})
    carol_invites = ref.link(
        w.member, w.invite_m, mallory, w.broker,
        w.capability(w.member, w.invite_m, "member"), w.claim(w.invite_m, mallory, "mallory"), w.count,
    )  # fmt: skip
    return [
        ("another mesh's genesis", {"genesis": other, "links": []}),
        ("genesis signed by another key", {"genesis": signed(mallory, ref.GENESIS, w.genesis_object), "links": []}),
        ("the broker signs the capability", twisted(by={"issuer": w.broker})),
        ("the broker names itself as issuer", twisted(capability={"issuer": w.broker.public}, by={"issuer": w.broker})),
        ("a plain member invites", {"genesis": w.genesis, "links": [*w.chain_member["links"], carol_invites]}),
        ("an invite for an owner", twisted(capability={"role": "owner"})),
        ("an invite of another mesh", twisted(capability={"mesh": det("other mesh")}, claim={"mesh": det("other mesh")})),
        ("an invite for another broker", twisted(capability={"broker": mallory.public})),
        ("the claim signed without the invite's secret", twisted(by={"invite": w.broker})),
        ("the claim names a key whose secret the joiner lacks", twisted(claim=by_mallory)),
        ("the claim is for another invite", twisted(claim={"invite": mallory.public})),
        ("a name that poses as a group", twisted(claim={"name": "@all"})),
        ("a name that reads as a key", twisted(claim={"name": "deadbeef"})),
        ("another broker counts", twisted(by={"broker": mallory})),
        ("use 0", twisted(countersign={"use_number": 0})),
        ("more uses than allowed", twisted(countersign={"use_number": 6})),
        ("used after its end", twisted(countersign={"at": w.cap_member["expires_at"] + 1})),
        ("used over 60 s before its beginning", twisted(countersign={"at": w.NOW + 1_000 - 60_001})),
        ("a countersignature of another claim", replace(1, countersign=w.link_admin["countersign"])),
        ("a proof of another claim", replace(1, proof=w.link_admin["proof"])),
        ("the admin's link is missing", {"genesis": w.genesis, "links": [w.link_member]}),
        ("nine links", {"genesis": w.genesis, "links": [w.link_admin] * 9}),
    ]


def envelope_case(name, author, header, content, body, env, **more):
    return {
        "name": name,
        "mesh": w.mesh,
        "author_seed": author.seed,
        "header": header,
        "header_bytes": bytes(env["header"]),
        "content": content,
        "content_bytes": pack(content),
        "body": body,
        "body_sha256": sha256(body),
        "layout": layout(ref.ENVELOPE, w.mesh, bytes(env["header"]), sha256(body)),
        "sig": env["sig"],
        "hash": ref.envelope_hash(w.mesh, env),
        "envelope": pack(env),
        "json": env,
        **more,
    }


def box_envelopes():
    full = w.content(
        type="application/json", reply_to=w.header()["id"], mentions=[w.owner.public, w.admin.public],
        correlation=ref.ulid(w.NOW, det("corr", 10)), response=True, seq=9, floor=4,
        content=Blob(b'{"ok":true}'),
    )  # fmt: skip
    to_session = w.header(
        channel="rpc", target={"kind": "session", "key": w.agent.public}, id=ref.ulid(w.NOW, det("rpc", 10)),
        priority="now", durability="live", key_id=Blob(ref.box_key_id(w.agent)),
    )  # fmt: skip
    by_session = w.header(**{"from": {"key": w.agent.public, "instance": w.instance}, "id": ref.ulid(w.NOW, det("by", 10))})
    proof = {"proof": {"chain": w.chain_member, "attestation": w.attested}}
    out = []
    for name, by, to, nonce, header, content, outside in [
        ("dm to a member", w.member, w.admin, w.dm_nonce, w.header(), w.content(), {}),
        ("rpc answer to a session, every field", w.member, w.agent, det("rpc nonce", 24), to_session, full, {}),
        ("dm by a session, with its proof", w.agent, w.admin, det("by nonce", 24), by_session, w.content(), proof),
    ]:
        body = ref.box(by, to, nonce, pack(content))
        env = ref.envelope(w.mesh, by, header, body, **outside)
        out.append(envelope_case(name, by, header, content, body, env, recipient_seed=to.seed, nonce=nonce))
    return out


def group_envelope():
    key, nonce = det("content key"), det("group nonce", 24)
    header = w.header(
        channel="group", target={"kind": "group", "name": "all"}, id=ref.ulid(w.NOW, det("group", 10)),
        priority="low", suite="wrap", key_id=Blob(commitment(key)),
    )  # fmt: skip
    content = w.content(content=Blob(b"to all"))
    body = ref.secretbox(key, nonce, pack(content))
    people = [(w.owner, det("wrap 0", 24)), (w.admin, det("wrap 1", 24))]
    wraps = [{"to": p.public, "key": Blob(ref.box(w.member, p, n, key))} for p, n in people]
    env = ref.envelope(w.mesh, w.member, header, body, wraps=wraps)
    return envelope_case(
        "to everybody", w.member, header, content, body, env, content_key=key, nonce=nonce,
        commitment=commitment(key),
        wraps=[
            {"recipient_seed": p.seed, "to": p.public, "nonce": n, "wrap": bytes(x["key"])}
            for (p, n), x in zip(people, wraps)
        ],
    )  # fmt: skip


def receipts():
    out = []
    for verdict, reason, by in [
        ("delivered", None, w.admin),
        ("refused", "undecryptable", w.admin),
        ("refused", "blocked", w.admin),
        ("refused", "conflict", w.admin),
        ("gone", "session ended", w.member),
        ("gone", None, w.member),
    ]:
        env_hash = ref.envelope_hash(w.mesh, w.dm)
        key, r = ref.receipt(w.mesh, w.owner, by, env_hash, verdict, reason)
        out.append({
            "mesh": w.mesh,
            "sender_seed": w.owner.seed,
            "recipient_seed": by.seed,
            "envelope_hash": env_hash,
            "verdict": verdict,
            "reason": reason,
            "x25519": ref.shared(by, w.owner),
            "key": key,
            "mac": r["mac"],
            "receipt": pack(r),
        })
    return out


def cases():
    attestation_hash = signed_hash(ref.ATTESTATION, w.attested)
    hello_hash = signed_hash(ref.HELLO, w.hello)
    people = [w.owner, w.admin, w.member, w.agent]
    pin = det("pin")
    domains = [v for k, v in sorted(vars(ref).items()) if isinstance(v, str) and v.startswith("meshwire/v2/")]
    joined, by = w.count["at"], (w.owner.public, w.admin.public)
    return {
        "about": "Hex throughout, but `object`, `header`, `content` and `json` are the JSON form of what is encoded.",
        "layouts": [
            {"domain": d, "fields": f, "layout": layout(d, *f), "sha256": sha256(layout(d, *f))}
            for d in domains
            for f in ([], [b""], [b"ab", b"c"], [b"a", b"bc"], [det("long field", 300)])
        ],
        "mesh": w.mesh,
        "signed": signed_objects(),
        "claim_proofs": [
            {"seed": w.admin.seed, "payload": bytes(w.link_admin["claim"]["payload"]), "proof": w.link_admin["proof"]},
            {"seed": w.member.seed, "payload": bytes(w.link_member["claim"]["payload"]), "proof": w.link_member["proof"]},
        ],
        "chains": [
            chain_case("owner", w.chain_owner, w.owner.public, "Ána", "owner", w.NOW, None),
            chain_case("admin", w.chain_admin, w.admin.public, "bob@laptop", "admin", joined, by[0]),
            chain_case("member", w.chain_member, w.member.public, "carol", "member", joined, by[1]),
        ],
        "chains_refused": [{"reason": r, "chain": pack(c)} for r, c in refused_chains()],
        "group_reach": [
            {"target": t, "joined": j, "reaches": r}
            for t, j, r in [
                ("ops", "ops", True), ("ops", "ops/db", True), ("ops", "ops/db/backup", True),
                ("ops/db", "ops/db/backup", True), ("ops/db", "ops", False), ("ops", "opsen", False),
                ("ops", "dev/ops", False), ("db", "ops/db", False),
            ]
        ],
        "group_names": [
            {"text": n, "valid": v}
            for n, v in [
                ("all", True), ("ops/db", True), ("a.b-c_1/x", True), ("0", True), ("x" * 128, True),
                ("", False), ("ops/", False), ("/ops", False), ("a//b", False), ("Ops", False),
                ("@ops", False), ("o p", False), ("\u00f6", False), ("x" * 129, False),
            ]
        ],
        "binds": [{
            "hello_hash": hello_hash,
            "seed": w.agent.seed,
            "attestation": w.attested,
            "attestation_hash": attestation_hash,
            "proof": w.agent.sign(ref.BIND, hello_hash, w.agent.public, attestation_hash),
        }],
        "box_key_ids": [{"public": p.public, "key_id": ref.box_key_id(p)} for p in people],
        "envelopes_box": box_envelopes(),
        "envelopes_group": [group_envelope()],
        "receipts": receipts(),
        "safety_numbers": [
            {"a": a.public, "b": b.public, "text": ref.safety_number(a.public, b.public)}
            for a in people for b in people
        ],
        "invite_links": [
            {
                "base": base, "seed": w.invite_m.seed, "mesh": w.mesh, "broker": w.broker.public, "pin": p,
                "text": ref.invite_link(base, w.invite_m, w.mesh, w.broker.public, p),
            }
            for base in ("https://broker.example:7900", "http://127.0.0.1:7900", "https://example.org/i/mesh")
            for p in (None, pin)
        ],
        "admin_tokens": [
            {
                "secret": det("admin secret"), "broker": w.broker.public, "pin": p,
                "text": ref.admin_token(det("admin secret"), w.broker.public, p),
                "bearer": det("admin secret").hex(),
                "digest": sha256(det("admin secret").hex().encode()),
            }
            for p in (None, pin)
        ],
    }  # fmt: skip
