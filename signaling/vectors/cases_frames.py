"""An example of every frame and HTTP body, twice: as JSON text and as MessagePack."""

import meshwire_ref as ref
import world as w
from meshwire_ref import det, pack, text

ID = w.header()["id"]
TO_CAROL = {"from": w.member.public, "id": ID}
DELIVERED = ref.receipt(w.mesh, w.member, w.admin, ref.envelope_hash(w.mesh, w.dm), "delivered")[1]
REFUSED = ref.receipt(w.mesh, w.member, w.admin, ref.envelope_hash(w.mesh, w.dm), "refused", "blocked")[1]
PROOF = {"chain": w.chain_member, "attestation": w.attested}
WRAP = {"to": w.admin.public, "key": ref.Blob(ref.box(w.member, w.admin, det("frame wrap", 24), det("ck")))}
PRESENCE = {
    "type": "presence", "event": "joined", "key": w.agent.public, "member": w.member.public,
    "kind": "session", "at": w.NOW, "chain": w.chain_member,
}  # fmt: skip
INVITE = w.link_member["capability"]
PROFILE = {"avatar": "\U0001f980", "title": "database keeper", "bio": "Asks before it drops a table."}
ABOUT = {"status": "working", "summary": "moves the backups", "profile": PROFILE}
PEER = {
    "chain": w.chain_member, "online": True, "since": w.NOW, "about": ABOUT,
    "presences": [
        {"key": w.member.public, "kind": "member", "attendance": "online", "since": w.NOW, "features": ["gate"]},
        {
            "key": w.agent.public, "kind": "session", "attendance": "grace", "since": w.NOW,
            "about": {"status": "dnd"}, "attestation": w.attested,
        },
    ],
    "groups": [w.joined_ops],
}  # fmt: skip
HIDDEN = {"chain": w.chain_admin, "online": False, "hidden": True}
TO_GROUP = ref.envelope(
    w.mesh, w.member,
    w.header(channel="group", target={"kind": "group", "name": "ops"}, suite="wrap", key_id=ref.Blob(ref.commitment(det("ck")))),
    ref.secretbox(det("ck"), det("frame group", 24), pack(w.content())),
)  # fmt: skip


P2P = {
    "to": w.admin.public, "from": w.member.public, "adapter": "quic", "attempt": det("attempt", 16),
    "payload": ref.Blob(ref.box(w.member, w.admin, det("frame p2p", 24), b"sealed")),
}  # fmt: skip
TURN = {
    "addresses": ["udp:broker.example:3478", "tcp:broker.example:3478", "tls:broker.example:5349"],
    "username": "1750003600:a7f9", "password": "c2VjcmV0", "expires_at": w.NOW + 3_600_000,
}  # fmt: skip


def frame(kind, **fields):
    return {"type": kind, **fields}


FRAMES = [
    frame("challenge", nonce=det("challenge"), at=w.NOW, broker=w.broker.public, binding=True),
    frame("challenge", nonce=det("challenge"), at=w.NOW, broker=w.broker.public),
    frame("hello", hello=w.hello),
    frame("hello", hello=w.hello_session, attestation=w.attested),
    frame("hello_ack", ack=w.ack),
    frame("bind", req=1, key=w.agent.public, attestation=w.attested, proof=w.agent.sign(ref.BIND, b"")),
    frame("bound", req=1, key=w.agent.public),
    frame("bound", req=1, key=w.agent.public, resumed=True),
    frame("unbind", req=8, key=w.agent.public),
    *(frame("unbound", key=w.agent.public, reason=r) for r in ("disconnected", "kicked", "replaced", "expired")),
    frame("bye"),
    frame("goaway", reason="the broker stops", retry_after_ms=1_500),
    frame("send", req=2, envelope=w.dm),
    frame("send", req=3, envelope={**TO_GROUP, "proof": PROOF, "wraps": [WRAP]}, batch={"index": 0, "last": False}),
    frame("accepted", req=2, id=ID, state="relayed", duplicate=False),
    frame("accepted", req=2, id=ID, state="delivered"),
    frame("accepted", req=3, id=ID, state="relayed", duplicate=False, full=[w.admin.public]),
    frame("recipients_changed", req=3, id=ID, missing=[w.owner.public], gone=[w.admin.public]),
    frame("recipients_changed", req=3, id=ID, missing=[w.owner.public]),
    frame("message", to=w.admin.public, envelope={**w.dm, "proof": {"chain": w.chain_member}}, accepted_at=w.NOW, attempt=1),
    frame("client_ack", **TO_CAROL, receipt=DELIVERED),
    frame("client_nack", **TO_CAROL, by=w.admin.public, reason="blocked", permanent=True, receipt=REFUSED),
    frame("client_nack", **TO_CAROL, by=w.admin.public, reason="busy", permanent=False),
    frame("receipt", **TO_CAROL, receipt=DELIVERED),
    frame("receipt_ack", **TO_CAROL, by=w.admin.public),
    frame("drained"),
    frame("list_peers", req=4),
    frame("list_peers", req=4, after=w.admin.public, key=w.member.public),
    frame("peers", req=4, peers=[{"chain": w.chain_owner, "online": True, "since": w.NOW}, {"chain": w.chain_member, "online": False}], next=w.member.public, head=w.head),
    frame("peers", req=4, peers=[], head=w.head),
    frame("peers", req=4, peers=[PEER, HIDDEN], head=w.head),
    PRESENCE,
    {**PRESENCE, "attestation": w.attested},
    {**{k: v for k, v in PRESENCE.items() if k != "chain"}, "event": "left"},
    frame("peer_changed", peer=PEER),
    frame("peer_changed", peer=HIDDEN),
    frame("resync"),
    frame("set_presence", req=9, key=w.agent.public, status="dnd"),
    frame("set_presence", req=9, key=w.member.public, status="idle", summary="", profile=PROFILE, visible=False),
    frame("group", req=10, statement=w.joined_ops),
    frame("disconnect", req=11, keys=[w.member.public, w.agent.public], kick=True),
    frame("disconnect", req=11, all=True),
    frame("disconnected", req=11, affected=[w.agent.public], skipped=[w.member.public]),
    frame("disconnected", req=11, affected=[]),
    frame("invite_create", req=5, capability=INVITE),
    frame("invite_list", req=6),
    frame("invites", req=6, invites=[{"capability": INVITE, "revoked_at": w.NOW, "joined": [{"key": w.member.public, "name": "carol", "at": w.NOW}], "used": 1}]),
    frame("invite_revoke", req=7, invite=w.invite_m.public),
    *(frame(k, req=12, **P2P) for k in ("p2p_offer", "p2p_answer", "p2p_candidate", "p2p_bye")),
    *(frame(k, **P2P) for k in ("p2p_offer", "p2p_answer", "p2p_candidate", "p2p_bye")),
    frame("turn_credentials", req=13),
    frame("turn_servers", req=13, servers=[TURN], stun=["broker.example:3478", "broker.example:3479"]),
    frame("turn_servers", req=13),
    frame("ok", req=7),
    frame("error", req=2, id=ID, code="rate_limited", message="too many", permanent=False, retry_after_ms=250),
    frame("error", req=2, id=ID, code="target_gone", message="the session has ended", permanent=True, member=w.member.public),
    frame("error", code="malformed", message="not a map"),
]

HTTP = [
    ("BrokerInfo", {"broker": w.broker.public, "agent": "meshwire-broker/0.1.0", "at": w.NOW}),
    ("CreateMesh", {"genesis": w.genesis}),
    ("MeshCreated", {"mesh": w.mesh}),
    ("InvitePreview", {"issuer": w.chain_admin, "capability": INVITE, "used": 1}),
    ("ClaimRequest", {"claim": w.link_member["claim"], "proof": w.link_member["proof"]}),
    ("ClaimAnswer", {"chain": w.chain_member, "already_member": False}),
    ("HttpError", {"code": "invite_expired", "message": "the invite is over"}),
]


def cases():
    return {
        "about": "`msgpack` (hex) and `json` (text) are the same frame. HTTP bodies are JSON only.",
        "frames": [{"type": f["type"], "json": text(f), "msgpack": pack(f)} for f in FRAMES],
        "http": [{"type": t, "json": text(b)} for t, b in HTTP],
    }
