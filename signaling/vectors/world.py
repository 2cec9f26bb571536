"""The people and objects that the layout and frame cases share."""

from meshwire_ref import (
    ATTESTATION,
    GENESIS,
    GROUP,
    HELLO,
    HELLO_ACK,
    RESUME,
    Blob,
    Key,
    box,
    box_key_id,
    det,
    envelope,
    link,
    pack,
    receipt,
    signed,
    signed_hash,
    ulid,
)

NOW = 1_750_000_000_000
DAY = 86_400_000

broker, owner, admin, member, agent, robot = (
    Key(n) for n in ("broker", "owner", "admin", "member", "agent", "robot")
)
invite_a, invite_m = Key("invite for admin"), Key("invite for member")
instance = det("instance", 16)

genesis_object = {
    "name": "lab",
    "owner": owner.public,
    "owner_name": "Ána",
    "broker": broker.public,
    "created_at": NOW,
    "nonce": det("genesis nonce"),
}
genesis = signed(owner, GENESIS, genesis_object)
mesh = signed_hash(GENESIS, genesis)


def capability(issuer, invite, role, uses=1):
    return {
        "mesh": mesh,
        "issuer": issuer.public,
        "invite": invite.public,
        "role": role,
        "uses": uses,
        "issued_at": NOW + 1_000,
        "expires_at": NOW + 7 * DAY,
        "broker": broker.public,
    }


def claim(invite, who, name):
    return {
        "mesh": mesh,
        "invite": invite.public,
        "member": who.public,
        "name": name,
        "claimed_at": NOW + 2_000,
    }


count = {"use_number": 1, "at": NOW + 2_500}
cap_admin = capability(owner, invite_a, "admin")
cap_member = capability(admin, invite_m, "member", uses=5)
claim_admin = claim(invite_a, admin, "bob@laptop")
claim_member = claim(invite_m, member, "carol")
link_admin = link(owner, invite_a, admin, broker, cap_admin, claim_admin, count)
link_member = link(admin, invite_m, member, broker, cap_member, claim_member, count)
chain_owner = {"genesis": genesis, "links": []}
chain_admin = {"genesis": genesis, "links": [link_admin]}
chain_member = {"genesis": genesis, "links": [link_admin, link_member]}


def attestation(kind, key, name, capabilities):
    return {
        "mesh": mesh,
        "member": member.public,
        "key": key.public,
        "kind": kind,
        "name": name,
        "capabilities": capabilities,
        "issued_at": NOW + 3_000,
        "expires_at": NOW + 3_000 + DAY // 2,
    }


attest_all = attestation("session", agent, "agent 7", "all")
attest_list = attestation("service", robot, "ci", {"list": ["dm", "topic:builds"]})
attest_none = attestation("session", agent, "agent 7", {"list": []})
attested = signed(member, ATTESTATION, attest_all)


def group(action, name, **role):
    return {"mesh": mesh, "member": member.public, "group": name, "action": action, **role, "at": NOW + 3_500}


joins_ops = group("join", "ops/db", role="lead")
leaves_ops = group("leave", "ops/db")
joined_ops = signed(member, GROUP, joins_ops)

# Carol's presence before this connection, and on it.
resume_object = {
    "mesh": mesh,
    "key": member.public,
    "instance": instance,
    "lease": det("lease", 16),
    "expires_at": NOW + 4_000 + 90_000,
}
resume = signed(broker, RESUME, resume_object)
resume_next = signed(broker, RESUME, {**resume_object, "expires_at": NOW + 4_010 + 90_000})

hello_object = {
    "mesh": mesh,
    "key": member.public,
    "kind": "member",
    "member": member.public,
    "instance": instance,
    "counter": 42,
    "features": {"dedupe": {}, "gate": {"mode": "idle", "on": True, "version": 1}},
    "requires": ["dedupe"],
    "client_nonce": det("client nonce"),
    "challenge": det("challenge"),
    "at": NOW + 4_000,
    "broker": broker.public,
    "binding": det("tls exporter"),
    "resume": resume,
    "agent": "meshwire/0.1.0",
}
# Field order is the author's choice: this author has its own, and leaves what may be absent away.
hello_session_object = {
    "agent": "other/1",
    "key": agent.public,
    "kind": "session",
    **{k: hello_object[k] for k in ("at", "broker", "challenge", "client_nonce", "counter", "instance", "member", "mesh")},
}
hello = signed(member, HELLO, hello_object)
hello_session = signed(agent, HELLO, hello_session_object)
limits = {
    "body": 65_536,
    "frame": 262_144,
    "wraps": 500,
    "recipients": 10_000,
    "window": 64,
    "rate": 1_000,
    "ttl_ms": 30 * DAY,
    "lease_ms": 30_000,
    "ping_ms": 30_000,
}
ack_object = {
    "hello": signed_hash(HELLO, hello),
    "broker": broker.public,
    "at": NOW + 4_010,
    "name": "carol",
    "role": "member",
    "limits": limits,
    "features": {f: {} for f in ("dedupe", "delegates", "groups", "lease", "receipts")},
    "requires": [],
    "lease": {"ttl_ms": 90_000, "resumed": True, "token": resume_next},
    "agent": "meshwire-broker/0.1.0",
}
# An older broker's: no leases, and limits that it does not know.
ack_old_object = {
    **{k: v for k, v in ack_object.items() if k != "lease"},
    "limits": {k: v for k, v in limits.items() if k != "recipients"},
    "features": {"dedupe": {}, "receipts": {}},
}
ack = signed(broker, HELLO_ACK, ack_object)

head = {"version": 0, "hash": mesh}


def header(**change):
    """A dm from carol to bob, queued."""
    out = {
        "channel": "dm",
        "from": {"key": member.public, "instance": instance},
        "target": {"kind": "member", "key": admin.public},
        "id": ulid(NOW + 5_000, det("dm id", 10)),
        "priority": "next",
        "durability": "queued",
        "sent_at": NOW + 5_000,
        "expires_at": NOW + 5_000 + 7 * DAY,
        "suite": "box",
        "key_id": Blob(box_key_id(admin)),
    }
    return {**out, **change}


def content(**change):
    out = {"type": "text/plain", "seq": 1, "floor": 1, "head": head, "content": Blob(b"hello")}
    order = ["type", "reply_to", "mentions", "correlation", "response", "seq", "floor", "head", "content"]
    both = {**out, **change}
    return {k: both[k] for k in order if k in both}


dm_nonce = det("dm nonce", 24)
dm = envelope(mesh, member, header(), box(member, admin, dm_nonce, pack(content())))
refused_receipt = receipt(mesh, member, admin, det("hash"), "refused", "blocked")[1]
