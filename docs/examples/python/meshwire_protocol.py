"""What meshwire signs, seals and verifies: sections 3 to 10 of docs/protocol.md.

Nothing in this file does I/O or looks at a clock. Whatever does not hold raises `Refused`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass

from meshwire_encoding import (
    Map,
    Refused,
    blob,
    decode_msgpack,
    encode_msgpack,
    fixed,
    mapping,
    maps,
    number,
    text,
    word,
)
from nacl import bindings as sodium
from nacl.exceptions import CryptoError

CLOCK_MS = 60_000
DAY_MS = 24 * 60 * 60 * 1000
MAX_FRAME = 262_144
MAX_HEADER = 2_048
MAX_BODY = 65_536
MAX_PAYLOAD = 8_192
MAX_LINKS = 8


# --- Section 3: ids ---------------------------------------------------------------------------------

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_message_id(now: int) -> str:
    value = (now << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


def message_id(of: Map, name: str) -> str:
    value = text(of, name)
    if not re.fullmatch(f"[0-7][{_CROCKFORD}]{{25}}", value):
        raise Refused(f"{name} is no message id")
    return value


def check_name(name: str) -> None:
    """Names of members and meshes: what could deceive a reader is refused."""
    hidden = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
    if (
        not 1 <= len(name) <= 64
        or any(unicodedata.category(c) == "Cc" for c in name)
        or hidden.search(name)
        or name != name.strip()
        or name[0] in "@#"
        or re.fullmatch("[0-9a-fA-F]{8,}", name)
    ):
        raise Refused(f"no valid name: {name!r}")


# --- Section 4: signatures --------------------------------------------------------------------------


def layout(domain: str, fields: list[bytes]) -> bytes:
    parts = [len(field).to_bytes(4, "big") + field for field in fields]
    return domain.encode("ascii") + b"\0" + b"".join(parts)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def verify(key: bytes, message: bytes, sig: bytes) -> None:
    try:
        sodium.crypto_sign_open(sig + message, key)
    except CryptoError as error:
        raise Refused("a signature does not hold") from error


class SecretKey:
    """An ed25519 key with its X25519 image; `seed` is what is stored."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self.public, self._secret = sodium.crypto_sign_seed_keypair(seed)
        self._image = sodium.crypto_sign_ed25519_sk_to_curve25519(self._secret)

    def sign(self, message: bytes) -> bytes:
        return bytes(sodium.crypto_sign(message, self._secret)[:64])

    def sign_object(self, domain: str, body: Map) -> Map:
        """A signed object: the payload is encoded here, once, and never again."""
        payload = encode_msgpack(body)
        return {"payload": payload, "sig": self.sign(layout(domain, [payload]))}

    # Section 5: encryption.

    def pair_secret(self, other: bytes) -> bytes:
        try:
            return bytes(sodium.crypto_scalarmult(self._image, x25519_image(other)))
        except (CryptoError, RuntimeError) as error:
            raise Refused("no shared secret with that key") from error

    def seal(self, plain: bytes, recipient: bytes) -> bytes:
        nonce = secrets.token_bytes(24)
        image = x25519_image(recipient)
        return nonce + bytes(sodium.crypto_box_easy(plain, nonce, image, self._image))

    def open(self, sealed: bytes, author: bytes) -> bytes:
        try:
            image = x25519_image(author)
            return bytes(sodium.crypto_box_open_easy(sealed[24:], sealed[:24], image, self._image))
        except (CryptoError, ValueError) as error:
            raise Refused("the box does not open") from error


def x25519_image(public: bytes) -> bytes:
    try:
        return bytes(sodium.crypto_sign_ed25519_pk_to_curve25519(public))
    except (CryptoError, RuntimeError) as error:
        raise Refused("the key has no X25519 image") from error


def open_signed(domain: str, signed: Map, key: bytes) -> Map:
    """The verified body of a signed object."""
    payload = blob(signed, "payload", MAX_PAYLOAD)
    verify(key, layout(domain, [payload]), fixed(signed, "sig", 64))
    return decode_msgpack(payload)


def signed_hash(domain: str, signed: Map) -> bytes:
    return sha256(layout(domain, [blob(signed, "payload", MAX_PAYLOAD)]))


# --- Sections 6 and 7: the certificate chain --------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """What a chain proves."""

    key: bytes
    name: str
    role: str
    joined_at: int
    broker: bytes


def verify_chain(chain: Map, mesh: bytes) -> Member:
    signed = mapping(chain, "genesis")
    if signed_hash("meshwire/v2/genesis", signed) != mesh:
        raise Refused("the chain is of another mesh")
    owner = fixed(decode_msgpack(blob(signed, "payload", MAX_PAYLOAD)), "owner")
    genesis = open_signed("meshwire/v2/genesis", signed, owner)
    check_name(text(genesis, "name"))
    check_name(text(genesis, "owner_name"))
    created, broker = number(genesis, "created_at"), fixed(genesis, "broker")
    member = Member(owner, text(genesis, "owner_name"), "owner", created, broker)
    links = maps(chain, "links")
    if len(links) > MAX_LINKS:
        raise Refused("the chain has too many links")
    for link in links:
        member = _verify_link(link, mesh, member)
    return member


def verify_capability(signed: Map, mesh: bytes, issuer: Member) -> Map:
    capability = open_signed("meshwire/v2/invite-capability", signed, issuer.key)
    if (
        fixed(capability, "mesh") != mesh
        or fixed(capability, "broker") != issuer.broker
        or fixed(capability, "issuer") != issuer.key
        or issuer.role not in ("owner", "admin")
        or number(capability, "uses") < 1
        or number(capability, "expires_at") <= number(capability, "issued_at")
    ):
        raise Refused("the invite's terms do not hold")
    word(capability, "role", "member admin")
    return capability


def _verify_link(link: Map, mesh: bytes, issuer: Member) -> Member:
    capability = verify_capability(mapping(link, "capability"), mesh, issuer)
    invite = fixed(capability, "invite")

    signed = mapping(link, "claim")
    claim = open_signed("meshwire/v2/member-claim", signed, invite)
    key, name = fixed(claim, "member"), text(claim, "name")
    if fixed(claim, "mesh") != mesh or fixed(claim, "invite") != invite:
        raise Refused("the claim is for another mesh or invite")
    check_name(name)
    proof = layout("meshwire/v2/member-claim-proof", [signed["payload"]])
    verify(key, proof, fixed(link, "proof", 64))

    domain = "meshwire/v2/claim-countersign"
    counted = open_signed(domain, mapping(link, "countersign"), issuer.broker)
    at = number(counted, "at")
    if (
        fixed(counted, "claim") != signed_hash("meshwire/v2/member-claim", signed)
        or not 1 <= number(counted, "use_number") <= capability["uses"]
        or not capability["issued_at"] - CLOCK_MS <= at <= capability["expires_at"]
    ):
        raise Refused("the broker's count does not hold")
    return Member(key, name, capability["role"], at, issuer.broker)


# --- Section 8: the envelope ------------------------------------------------------------------------


def envelope_hash(mesh: bytes, envelope: Map) -> bytes:
    signed = envelope_layout(mesh, envelope["header"], envelope["body"])
    return sha256(signed + b"\0\0\0\x40" + fixed(envelope, "sig", 64))


def envelope_layout(mesh: bytes, header: bytes, body: bytes) -> bytes:
    return layout("meshwire/v2/envelope", [mesh, header, sha256(body)])


def seal_envelope(me: SecretKey, mesh: bytes, header: Map, content: Map) -> Map:
    """An envelope of suite `box` to the key in `header["target"]`."""
    target: bytes = header["target"]["key"]
    header = header | {"suite": "box", "key_id": sha256(x25519_image(target))[:8]}
    packed, body = encode_msgpack(header), me.seal(encode_msgpack(content), target)
    sig = me.sign(envelope_layout(mesh, packed, body))
    return {"v": 2, "header": packed, "body": body, "sig": sig}


def read_header(envelope: Map) -> Map:
    """The header of an envelope, well-formed but not verified."""
    if number(envelope, "v") != 2:
        raise Refused("an envelope of another version")
    blob(envelope, "body", MAX_BODY)
    header = decode_msgpack(blob(envelope, "header", MAX_HEADER))
    message_id(header, "id")
    word(header, "channel", "dm group topic rpc stream system")
    word(header, "priority", "now next low")
    word(header, "durability", "queued live")
    text(header, "suite")
    blob(header, "key_id", 32)
    number(header, "sent_at"), number(header, "expires_at")
    sender = mapping(header, "from")
    fixed(sender, "key"), fixed(sender, "instance", 16)
    kind = word(mapping(header, "target"), "kind", "member session service group topic")
    if kind in ("member", "session", "service"):
        fixed(header["target"], "key")
    return header


def verify_envelope(mesh: bytes, envelope: Map, author: bytes) -> None:
    signed = envelope_layout(mesh, envelope["header"], envelope["body"])
    verify(author, signed, fixed(envelope, "sig", 64))


def open_content(me: SecretKey, envelope: Map, author: bytes) -> Map:
    content = decode_msgpack(me.open(envelope["body"], author))
    text(content, "type")
    blob(content, "content", MAX_BODY)
    number(content, "seq"), number(content, "floor")
    fixed(mapping(content, "head"), "hash")
    return content


# --- Section 9: receipts ----------------------------------------------------------------------------


def receipt_mac(
    me: SecretKey, other: bytes, mesh: bytes, *, sender: bytes, recipient: bytes, verdict: str,
    reason: str, envelope: bytes,
) -> bytes:  # fmt: skip
    """Sender and recipient compute the same; `me` is one of them, `other` the other."""
    info = layout("meshwire/v2/receipt-key", [sender, recipient])
    extracted = hmac.digest(mesh, me.pair_secret(other), "sha256")  # HKDF (RFC 5869): extract,
    key = hmac.digest(extracted, info + b"\x01", "sha256")  # then the first block of expand
    fields = [verdict.encode(), reason.encode(), envelope, recipient]
    return hmac.digest(key, layout("meshwire/v2/receipt", fields), "sha256")


def make_receipt(
    me: SecretKey, mesh: bytes, author: bytes, envelope: bytes, reason: str = ""
) -> Map:
    """`delivered`, or with a reason `refused`; `envelope` is the envelope's hash."""
    verdict = "refused" if reason else "delivered"
    mac = receipt_mac(
        me, author, mesh, sender=author, recipient=me.public, verdict=verdict, reason=reason,
        envelope=envelope,
    )  # fmt: skip
    return {"verdict": verdict, "by": me.public, "mac": mac} | ({"reason": reason} if reason else {})


def check_receipt(me: SecretKey, mesh: bytes, to: bytes, envelope: bytes, receipt: Map) -> str:
    """The verdict of a receipt for my envelope to `to`, once its MAC is verified."""
    verdict = word(receipt, "verdict", "delivered refused gone")
    reason = text(receipt, "reason") if "reason" in receipt else ""
    if fixed(receipt, "by") != to or len(reason.encode()) > 64:
        raise Refused("the receipt is not by whom the message was for")
    if verdict == "delivered" and reason:
        raise Refused("a reason for having delivered")
    expected = receipt_mac(
        me, to, mesh, sender=me.public, recipient=to, verdict=verdict, reason=reason,
        envelope=envelope,
    )  # fmt: skip
    if not hmac.compare_digest(expected, fixed(receipt, "mac")):
        raise Refused("the receipt's MAC does not hold")
    return verdict


# --- Section 10: invite links -----------------------------------------------------------------------


@dataclass(frozen=True)
class Invite:
    base: str
    key: SecretKey
    mesh: bytes
    broker: bytes
    pin: bytes | None


def parse_link(link: str) -> Invite:
    front, _, fragment = link.partition("#")
    base, _, shown = front.rpartition("/i/")
    try:
        data = base64.b64decode(fragment + "=" * (-len(fragment) % 4), "-_", validate=True)
    except ValueError as error:
        raise Refused("the link's fragment is no base64url") from error
    if len(data) not in (98, 130) or data[0] != 1 or data[1] != (len(data) == 130):
        raise Refused("the link is of an unknown version, or cut off")
    key = SecretKey(data[2:34])
    if not base or key.public.hex() != shown:
        raise Refused("the link's secret is not of the invite that it names")
    return Invite(base, key, data[34:66], data[66:98], data[98:] or None)
