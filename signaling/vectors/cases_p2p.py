"""Negotiation of direct paths: sealed steps of every kind, and the contents of the adapter `quic`."""

import meshwire_ref as ref
import world as w
from meshwire_ref import Blob, det, layout, pack, sha256

ATTEMPT = det("attempt", 16)
AT = w.NOW + 6_000


def candidate(kind, addr, priority, foundation):
    return {"kind": kind, "addr": addr, "priority": priority, "foundation": foundation}


HOST = candidate("host", "192.0.2.7:40000", 2_130_706_431, "1")
SIX = candidate("host", "[2001:db8::7]:40000", 2_130_706_175, "2")
SRFLX = candidate("srflx", "198.51.100.9:61234", 1_694_498_815, "a+/Z")
MAPPED = candidate("mapped", "198.51.100.9:40000", 1_694_498_814, "3")
PRFLX = candidate("prflx", "203.0.113.5:1024", 1_862_270_975, "4")
RELAYED = candidate("relayed", "203.0.113.80:50001", 16_777_215, "5")

OFFER = {"ufrag": "8hhY", "pwd": "YH75Fviy6338Vbrhrlp8Yh", "tls": det("tls spki"), "candidates": [HOST, SIX]}
ANSWER = {
    "ufrag": "9uB6", "pwd": "asd88fgpdd777uzjYhagZg", "tls": det("tls spki of bob"),
    "candidates": [RELAYED], "relay_only": True, "done": True,
}  # fmt: skip
CONTENTS = [
    ("offer", OFFER),
    ("offer", {"ufrag": "u" * 256, "pwd": "p" * 256, "tls": det("tls spki")}),
    ("offer", {**OFFER, "candidates": [HOST] * 20}),
    ("answer", ANSWER),
    ("candidate", {"candidates": [SRFLX, MAPPED, PRFLX, RELAYED]}),
    ("candidate", {"done": True}),
    ("bye", {"reason": "glare"}),
]


def change(content, **fields):
    return {**content, **fields}


def with_candidate(**fields):
    return change(OFFER, candidates=[{**HOST, **fields}])


REFUSED = [
    ("offer", "21 candidates", change(OFFER, candidates=[HOST] * 21)),
    ("candidate", "21 candidates", {"candidates": [HOST] * 21}),
    ("offer", "a ufrag of 3 characters", change(OFFER, ufrag="abc")),
    ("offer", "a ufrag of 257 characters", change(OFFER, ufrag="u" * 257)),
    ("offer", "a ufrag with a character that is none of ICE's", change(OFFER, ufrag="abc-")),
    ("answer", "a pwd of 21 characters", change(ANSWER, pwd="p" * 21)),
    ("offer", "no pwd", {k: v for k, v in OFFER.items() if k != "pwd"}),
    ("offer", "a tls hash of 31 bytes", change(OFFER, tls=det("x", 31))),
    ("offer", "an unknown kind of candidate", with_candidate(kind="carrier_pigeon")),
    ("offer", "a host name", with_candidate(addr="localhost:1")),
    ("offer", "no port", with_candidate(addr="192.0.2.7")),
    ("offer", "port 65536", with_candidate(addr="192.0.2.7:65536")),
    ("offer", "a leading zero", with_candidate(addr="192.0.2.07:1")),
    ("offer", "IPv6 without brackets", with_candidate(addr="2001:db8::7:1")),
    ("offer", "IPv6 in another spelling", with_candidate(addr="[2001:DB8::7]:1")),
    ("offer", "a zone", with_candidate(addr="[fe80::1%3]:1")),
    ("offer", "priority 0", with_candidate(priority=0)),
    ("offer", "priority 2^31", with_candidate(priority=2**31)),
    ("offer", "an empty foundation", with_candidate(foundation="")),
    ("offer", "a foundation of 33 characters", with_candidate(foundation="f" * 33)),
    ("bye", "an empty reason", {"reason": ""}),
    ("bye", "a sentence for a reason", {"reason": "had enough"}),
    ("bye", "a reason of 65 characters", {"reason": "r" * 65}),
]


def step(kind, sender, recipient, seq, content, **more):
    return {
        "v": 1,
        "kind": kind,
        "adapter": "quic",
        "attempt": ATTEMPT,
        "seq": seq,
        "from": sender.public,
        "instance": w.instance,
        "to": recipient.public,
        "at": AT + seq,
        "head": w.head,
        **more,
        "content": Blob(pack(content)),
    }


def sealed(label, key, recipient, obj, attestation=None):
    payload = pack(obj)
    said = layout(ref.P2P, w.mesh, payload)
    outer = {"payload": Blob(payload), "sig": key.sign_raw(said)}
    if attestation is not None:
        outer["attestation"] = attestation
    nonce = det("p2p nonce " + label, 24)
    return {
        "name": label,
        "mesh": w.mesh,
        "sender_seed": key.seed,
        "recipient_seed": recipient.seed,
        "nonce": nonce,
        "attestation": attestation,
        "object": obj,
        "payload": payload,
        "layout": said,
        "hash": sha256(said),
        "plain": pack(outer),
        "sealed": ref.box(key, recipient, nonce, pack(outer)),
    }


def initial(name, client, server):
    """The connection id that a path's first packets are addressed to."""
    said = [side[field] for side in (client, server) for field in ("ufrag", "pwd")]
    hashed = sha256(layout(ref.P2P_INITIAL, *(text.encode() for text in said)))
    return {"name": name, "client": said[:2], "server": said[2:], "id": hashed[:16]}


def cases():
    carol, bob = w.member, w.admin
    offer = sealed("offer", carol, bob, step("offer", carol, bob, 0, OFFER))
    to_offer = {"answers": offer["hash"]}
    by_session = {**step("offer", w.agent, bob, 0, OFFER), "attempt": det("attempt of a session", 16)}
    return {
        "about": "Hex throughout, but `object` and `attestation` are the JSON form of what is encoded.",
        "steps": [
            offer,
            sealed("answer", bob, carol, step("answer", bob, carol, 0, ANSWER, **to_offer)),
            sealed("candidate", carol, bob, step("candidate", carol, bob, 1, CONTENTS[4][1], **to_offer)),
            sealed("bye", bob, carol, step("bye", bob, carol, 1, CONTENTS[6][1], **to_offer)),
            sealed("offer of a session", w.agent, bob, by_session, w.attested),
        ],
        "quic": [{"kind": k, "object": c, "bytes": pack(c)} for k, c in CONTENTS],
        "quic_unknown_field": {
            "kind": "bye", "bytes": pack({"reason": "idle", "later": {"x": [1, None]}}), "without": pack({"reason": "idle"}),
        },
        "quic_initial": [
            initial("carol is QUIC's client", OFFER, ANSWER),
            initial("bob is QUIC's client", ANSWER, OFFER),
        ],
        "quic_refused": [{"kind": k, "name": n, "bytes": pack(c)} for k, n, c in REFUSED],
    }  # fmt: skip
