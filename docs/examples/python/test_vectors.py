"""Checks this client against signaling/vectors: run it before anything else.

    python test_vectors.py [FOLDER WITH THE VECTORS]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meshwire_encoding as e
import meshwire_protocol as p

unhex = bytes.fromhex


def refuses(what: str, function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except e.Refused:
        return
    raise AssertionError(f"not refused: {what}")


def same(from_json: Any, from_msgpack: Any) -> bool:
    """Equal, but for the bytes in fields that this client does not know: they stay text in JSON."""
    if isinstance(from_json, dict) and isinstance(from_msgpack, dict):
        return from_json.keys() == from_msgpack.keys() and all(
            same(from_json[name], from_msgpack[name])
            or (name not in e.FIXED and name not in e.BYTES and unknown(from_msgpack[name]))
            for name in from_json
        )
    if isinstance(from_json, list) and isinstance(from_msgpack, list):
        return len(from_json) == len(from_msgpack) and all(map(same, from_json, from_msgpack))
    return bool(from_json == from_msgpack)


def unknown(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, list) and all(map(unknown, value)))


def check_frames(vectors: Any) -> int:
    for case in vectors["frames"]:
        frame, packed = e.decode_json(case["json"]), e.decode_msgpack(unhex(case["msgpack"]))
        assert same(frame, packed), case["type"]
        assert json.loads(e.encode_json(frame)) == json.loads(case["json"]), case["type"]
        assert e.decode_msgpack(e.encode_msgpack(packed)) == packed, case["type"]
    return len(vectors["frames"])


def read_frame(case: Any) -> object:
    """Reads the fields that the cases in refused.json are about."""
    data = unhex(case["bytes"])
    frame = e.decode_json(data) if case["encoding"] == "json" else e.decode_msgpack(data)
    match e.text(frame, "type"):
        case "list_peers":
            return e.number(frame, "req")
        case "bound":
            return e.fixed(frame, "key")
        case "receipt_ack":
            return p.message_id(frame, "id")
        case "invite_create":
            return e.blob(e.mapping(frame, "capability"), "payload", p.MAX_PAYLOAD)
    raise AssertionError(f"a case for {frame}")


def check_refused(vectors: Any) -> int:
    for case in vectors["refused"]:
        refuses(f"{case['reason']} ({case['encoding']})", read_frame, case)
    for case in vectors["accepted"]:
        assert read_frame(case) == 7, case["reason"]
    return len(vectors["refused"]) + len(vectors["accepted"])


def check_libsodium(vectors: Any) -> int:
    for case in vectors["keys"]:
        assert p.SecretKey(unhex(case["seed"])).public.hex() == case["public"]
        assert p.x25519_image(unhex(case["public"])).hex() == case["x25519_public"]
    for case in vectors["shared_secrets"]:
        key = p.SecretKey(unhex(case["seed"]))
        assert key.pair_secret(unhex(case["public"])).hex() == case["secret"]
    for case in vectors["signatures"]:
        key, message = p.SecretKey(unhex(case["seed"])), unhex(case["message"])
        assert key.sign(message).hex() == case["signature"]
        p.verify(key.public, message, unhex(case["signature"]))
        refuses("another message", p.verify, key.public, message + b"!", key.sign(message))
    for case in vectors["boxes"]:
        sender, recipient = (p.SecretKey(unhex(case[k])) for k in ("sender_seed", "recipient_seed"))
        sealed = unhex(case["sealed"])
        assert recipient.open(sealed, sender.public).hex() == case["plaintext"]
        broken = sealed[:-1] + bytes([sealed[-1] ^ 1])
        refuses("a broken box", recipient.open, broken, sender.public)
    for case in vectors["keys_without_image"]:
        refuses(case["name"], p.x25519_image, unhex(case["public"]))
    return sum(len(cases) for cases in vectors.values() if isinstance(cases, list))


def check_layouts(vectors: Any) -> int:
    mesh = unhex(vectors["mesh"])
    for case in vectors["layouts"]:
        built = p.layout(case["domain"], [unhex(field) for field in case["fields"]])
        assert (built.hex(), p.sha256(built).hex()) == (case["layout"], case["sha256"])
    for case in vectors["signed"]:
        signed = {"payload": unhex(case["payload"]), "sig": unhex(case["sig"])}
        p.open_signed(case["domain"], signed, unhex(case["public"]))
        assert p.signed_hash(case["domain"], signed).hex() == case["hash"]
        signature = p.SecretKey(unhex(case["seed"])).sign(unhex(case["layout"]))
        assert signature == signed["sig"], case["name"]
    for case in vectors["claim_proofs"]:
        proof = p.layout("meshwire/v2/member-claim-proof", [unhex(case["payload"])])
        assert p.SecretKey(unhex(case["seed"])).sign(proof).hex() == case["proof"]
    for case in vectors["chains"]:
        chain = e.decode_msgpack(unhex(case["chain"]))
        assert e.decode_json(json.dumps(case["json"])) == chain
        member, expected = p.verify_chain(chain, mesh), case["member"]
        assert member.key.hex() == expected["key"] and member.name == expected["name"]
        assert member.role == expected["role"] and member.joined_at == expected["joined_at"]
    for case in vectors["chains_refused"]:
        chain = e.decode_msgpack(unhex(case["chain"]))
        refuses(case["reason"], p.verify_chain, chain, mesh)
    checked = ("layouts", "signed", "claim_proofs", "chains", "chains_refused")
    return sum(len(vectors[name]) for name in checked)


def check_envelopes(vectors: Any) -> int:
    mesh = unhex(vectors["mesh"])
    for case in vectors["envelopes_box"]:
        envelope = e.decode_msgpack(unhex(case["envelope"]))
        header = p.read_header(envelope)
        author, me = e.fixed(header["from"], "key"), p.SecretKey(unhex(case["recipient_seed"]))
        p.verify_envelope(mesh, envelope, author)
        assert p.envelope_hash(mesh, envelope).hex() == case["hash"]
        assert p.open_content(me, envelope, author)["content"] == e.decode_msgpack(
            unhex(case["content_bytes"])
        )["content"]
        stranger = p.SecretKey(b"\7" * 32)
        refuses("wrong author", p.verify_envelope, mesh, envelope, stranger.public)
        refuses("other mesh", p.verify_envelope, stranger.public, envelope, author)
        refuses("wrong recipient", p.open_content, stranger, envelope, author)
    return len(vectors["envelopes_box"])


def check_receipts(vectors: Any) -> int:
    for case in vectors["receipts"]:
        mesh, envelope = unhex(case["mesh"]), unhex(case["envelope_hash"])
        sender, recipient = (p.SecretKey(unhex(case[k])) for k in ("sender_seed", "recipient_seed"))
        receipt = e.decode_msgpack(unhex(case["receipt"]))
        to = recipient.public
        assert receipt["mac"].hex() == case["mac"]
        assert p.check_receipt(sender, mesh, to, envelope, receipt) == case["verdict"]
        if case["verdict"] != "gone":
            made = p.make_receipt(recipient, mesh, sender.public, envelope, case["reason"] or "")
            assert made == receipt
        for forged in (
            receipt | {"mac": bytes(32)},
            receipt | {"verdict": "refused" if case["verdict"] == "delivered" else "delivered"},
            receipt | {"by": sender.public},
            receipt | {"reason": "another"},
        ):
            refuses("forgery", p.check_receipt, sender, mesh, to, envelope, forged)
    return len(vectors["receipts"])


def check_links(vectors: Any) -> int:
    for case in vectors["invite_links"]:
        invite = p.parse_link(case["text"])
        assert invite.base == case["base"] and invite.key.seed.hex() == case["seed"]
        assert invite.mesh.hex() == case["mesh"] and invite.broker.hex() == case["broker"]
        assert (invite.pin.hex() if invite.pin else None) == case["pin"]
        refuses("a link that was cut off", p.parse_link, case["text"][:-4])
    return len(vectors["invite_links"])


def main() -> None:
    default = Path(__file__).resolve().parents[3] / "signaling" / "vectors"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for file, checks in {
        "frames": [check_frames],
        "refused": [check_refused],
        "libsodium": [check_libsodium],
        "layouts": [check_layouts, check_envelopes, check_receipts, check_links],
    }.items():
        vectors = json.loads((folder / f"{file}.json").read_text())
        for check in checks:
            count = check(vectors)
            assert count > 0, f"{file}.json has nothing for {check.__name__}"
            print(f"{check.__name__}: {count} hold")


if __name__ == "__main__":
    main()
