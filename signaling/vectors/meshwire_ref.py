"""A second implementation of meshwire's layouts, from docs/protocol.md alone: PyNaCl (libsodium),
msgpack, hashlib and hmac. It shares no code with the Rust crate; that is its purpose."""

import base64
import hashlib
import hmac
import json

import msgpack
from nacl import bindings as sodium

GENESIS = "meshwire/v2/genesis"
CAPABILITY = "meshwire/v2/invite-capability"
CLAIM = "meshwire/v2/member-claim"
CLAIM_PROOF = "meshwire/v2/member-claim-proof"
COUNTERSIGN = "meshwire/v2/claim-countersign"
ATTESTATION = "meshwire/v2/attestation"
HELLO = "meshwire/v2/hello"
HELLO_ACK = "meshwire/v2/hello-ack"
BIND = "meshwire/v2/bind"
ENVELOPE = "meshwire/v2/envelope"
RECEIPT = "meshwire/v2/receipt"
RECEIPT_KEY = "meshwire/v2/receipt-key"
CONTENT_KEY = "meshwire/v2/content-key"
GROUP = "meshwire/v2/group"
RESUME = "meshwire/v2/resume"
P2P = "meshwire/v2/p2p"
P2P_INITIAL = "meshwire/v2/p2p-initial"
STREAM_KEY = "meshwire/v2/stream-key"


class Blob(bytes):
    """Bytes that JSON shows as base64; plain `bytes` (keys, hashes, signatures) show as hex."""


def det(label, n=32):
    """`n` fixed bytes for a label: SHA-256 of the label, then of the label with a counter."""
    out = hashlib.sha256(b"meshwire vector: " + label.encode()).digest()
    i = 0
    while len(out) < n:
        i += 1
        out += hashlib.sha256(b"meshwire vector: %s %d" % (label.encode(), i)).digest()
    return out[:n]


def sha256(b):
    return hashlib.sha256(b).digest()


def pack(obj):
    """MessagePack with named fields: `bytes` as bin, `str` as str."""
    return msgpack.packb(obj, use_bin_type=True)


def plain(obj):
    """The JSON form of the same object."""
    if isinstance(obj, Blob):
        return base64.b64encode(obj).decode()
    if isinstance(obj, bytes):
        return obj.hex()
    if isinstance(obj, dict):
        return {k: plain(v) for k, v in obj.items()}
    if isinstance(obj, list):
        return [plain(v) for v in obj]
    return obj


def text(obj):
    return json.dumps(plain(obj), ensure_ascii=False, separators=(",", ":"))


class Key:
    """An ed25519 identity from a label."""

    def __init__(self, label):
        self.seed = det("key " + label)
        self.public, self.secret = sodium.crypto_sign_seed_keypair(self.seed)
        self.x_public = sodium.crypto_sign_ed25519_pk_to_curve25519(self.public)
        self.x_secret = sodium.crypto_sign_ed25519_sk_to_curve25519(self.secret)

    def sign_raw(self, message):
        return sodium.crypto_sign(message, self.secret)[:64]

    def sign(self, domain, *fields):
        return self.sign_raw(layout(domain, *fields))


def field(b):
    return len(b).to_bytes(4, "big") + b


def layout(domain, *fields):
    return domain.encode() + b"\0" + b"".join(field(f) for f in fields)


def signed(key, domain, obj):
    payload = pack(obj)
    return {"payload": Blob(payload), "sig": key.sign(domain, payload)}


def signed_hash(domain, s):
    return sha256(layout(domain, bytes(s["payload"])))


def link(issuer, invite, member, broker, capability, claim, countersign):
    """One admission; the countersignature's claim hash is filled in."""
    s = signed(invite, CLAIM, claim)
    return {
        "capability": signed(issuer, CAPABILITY, capability),
        "claim": s,
        "proof": member.sign(CLAIM_PROOF, bytes(s["payload"])),
        "countersign": signed(
            broker, COUNTERSIGN, {"claim": signed_hash(CLAIM, s), **countersign}
        ),
    }


def shared(mine, theirs):
    """The raw X25519 secret of two identities."""
    return sodium.crypto_scalarmult(mine.x_secret, theirs.x_public)


def box(mine, theirs, nonce, plaintext):
    return nonce + sodium.crypto_box(plaintext, nonce, theirs.x_public, mine.x_secret)


def secretbox(key, nonce, plaintext):
    return nonce + sodium.crypto_secretbox(plaintext, nonce, key)


def box_key_id(key):
    return sha256(key.x_public)[:8]


def commitment(content_key):
    return sha256(layout(CONTENT_KEY, content_key))


def envelope(mesh, author, header, body, **outside):
    h = pack(header)
    sig = author.sign(ENVELOPE, mesh, h, sha256(body))
    return {"v": 2, "header": Blob(h), "body": Blob(body), "sig": sig, **outside}


def envelope_hash(mesh, env):
    bytes_ = layout(ENVELOPE, mesh, bytes(env["header"]), sha256(bytes(env["body"])))
    return sha256(bytes_ + field(env["sig"]))


def hkdf(salt, ikm, info):
    """RFC 5869 with SHA-256, 32 bytes."""
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def receipt(mesh, sender, recipient, env_hash, verdict, reason=None):
    """(key, receipt); the same from either side of the pair."""
    info = layout(RECEIPT_KEY, sender.public, recipient.public)
    key = hkdf(mesh, shared(recipient, sender), info)
    said = layout(RECEIPT, verdict.encode(), (reason or "").encode(), env_hash, recipient.public)
    mac = hmac.new(key, said, hashlib.sha256).digest()
    out = {"verdict": verdict, "by": recipient.public, "mac": mac}
    if reason is not None:
        out = {"verdict": verdict, "reason": reason, "by": recipient.public, "mac": mac}
    return key, out


def safety_number(a, b):
    bits = int.from_bytes(sha256(min(a, b) + max(a, b))[:15], "big")
    return " ".join("%05d" % (((bits >> (100 - 20 * i)) & 0xFFFFF) % 100_000) for i in range(6))


def b64url(b):
    return base64.urlsafe_b64encode(b).decode().rstrip("=")


def invite_link(base, invite, mesh, broker, pin):
    raw = bytes([1, 1 if pin else 0]) + invite.seed + mesh + broker + (pin or b"")
    return f"{base}/i/{invite.public.hex()}#{b64url(raw)}"


def admin_token(secret, broker, pin):
    return "mwadmin1." + b64url(secret + broker + (pin or b""))


def ulid(ms, random):
    """48 bits of time and 80 random bits in Crockford's base32."""
    n = ms << 80 | int.from_bytes(random, "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[n >> (5 * i) & 31] for i in range(25, -1, -1))
