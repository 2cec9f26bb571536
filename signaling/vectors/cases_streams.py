"""Streams: opens, keys, records of both suites and directions, controls, and what must be refused."""

import meshwire_ref as ref
import world as w
from meshwire_ref import Blob, box, box_key_id, det, envelope, envelope_hash, hkdf, layout, pack, ulid
from nacl import bindings as sodium

STREAM = det("stream id", 16)
SECRET = det("stream secret")
FRESH = det("stream acceptance")
AES, CHACHA = "aes-256-gcm", "chacha20-poly1305"
SUITE = {AES: 1, CHACHA: 2}
KIND = {1: "chunk", 2: "control", 3: "accept"}
AT = w.NOW + 9_000
opener, acceptor = w.member, w.admin

OPEN = {"v": 1, "stream": STREAM, "secret": SECRET, "name": "pipe", "suites": [AES, CHACHA], "limit": 262_144}


def info(suite, direction, purpose, epoch):
    fields = (suite.encode(), STREAM, opener.public, acceptor.public, FRESH, direction.encode(), purpose.encode())
    return layout(ref.STREAM_KEY, *fields, epoch.to_bytes(8, "big"))


def key(suite, direction, purpose, epoch=0):
    return hkdf(w.mesh, SECRET, info(suite, direction, purpose, epoch))


def head(kind, suite, flags, number, stream=STREAM, zero=0):
    return bytes([kind, suite, flags, zero]) + stream + number.to_bytes(8, "big")


def sealed(suite, direction, kind, number, plaintext, last=False):
    prefix = head(kind, SUITE[suite], 1 if last else 0, number) + (FRESH if kind == 3 else b"")
    nonce = bytes(4) + number.to_bytes(8, "big")
    purpose, epoch = ("data", number >> 24) if kind == 1 else ("control", 0)
    k = key(suite, direction, purpose, epoch)
    seal = {AES: sodium.crypto_aead_aes256gcm_encrypt, CHACHA: sodium.crypto_aead_chacha20poly1305_ietf_encrypt}
    return {
        "suite": suite, "direction": direction, "kind": KIND[kind], "last": last,
        "number": number, "plaintext": plaintext, "record": prefix + seal[suite](plaintext, prefix, nonce, k),
    }  # fmt: skip


def state(heard, next_, limit, answer=False, stop=None, done=False, flags=0):
    flags |= (1 if answer else 0) | (0 if stop is None else 2) | (4 if done else 0)
    numbers = b"".join(n.to_bytes(8, "big") for n in (heard, next_, limit))
    return bytes([1, flags]) + numbers + (stop or 0).to_bytes(4, "big")


def reset(heard, code, reason):
    return b"\x02\x00" + heard.to_bytes(8, "big") + code.to_bytes(4, "big") + reason.encode()


def open_case(name, author, target, kind, content, at, ttl=60_000):
    header = {
        "channel": "stream", "from": {"key": author.public, "instance": w.instance},
        "target": {"kind": kind, "key": target.public}, "id": ulid(at, det("stream " + name, 10)),
        "priority": "now", "durability": "live", "sent_at": at, "expires_at": at + ttl,
        "suite": "box", "key_id": Blob(box_key_id(target)),
    }  # fmt: skip
    outer = {
        "type": "application/meshwire.stream-open", "seq": 0, "floor": 0, "head": w.head,
        "content": Blob(pack(content)),
    }  # fmt: skip
    nonce = det("nonce of stream " + name, 24)
    env = envelope(w.mesh, author, header, box(author, target, nonce, pack(outer)))
    return {
        "name": name, "mesh": w.mesh, "sender_seed": author.seed, "recipient_seed": target.seed,
        "nonce": nonce, "header": header, "object": content, "bytes": pack(content), "envelope": env,
        "hash": envelope_hash(w.mesh, env),
    }  # fmt: skip


def without(obj, field):
    return {k: v for k, v in obj.items() if k != field}


def change(**fields):
    return pack({**OPEN, **fields})


OPENS_REFUSED = [
    ("version 2", change(v=2)),
    ("no secret", pack(without(OPEN, "secret"))),
    ("a secret of 31 bytes", change(secret=det("x", 31))),
    ("an id of 15 bytes", change(stream=det("x", 15))),
    ("an empty name", change(name="")),
    ("a name of 129 bytes", change(name="n" * 129)),
    ("a line break in the name", change(name="a\nb")),
    ("no suites", change(suites=[])),
    ("unknown suites only", change(suites=["rot13"])),
    ("nine suites", change(suites=[AES] * 9)),
    ("a negative limit", change(limit=-1)),
    ("a limit of 2^53", change(limit=2**53)),
]
RECORDS_REFUSED = [
    ("empty", b""),
    ("a header alone", head(1, 1, 0, 0)),
    ("no whole tag", head(1, 1, 0, 0) + bytes(15)),
    ("kind 0", head(0, 1, 0, 0) + bytes(16)),
    ("kind 4", head(4, 1, 0, 1) + bytes(48)),
    ("an accept with no whole tag", head(3, 1, 0, 1) + bytes(47)),
    ("a last accept", head(3, 1, 1, 1) + bytes(48)),
    ("accept 0", head(3, 1, 0, 0) + bytes(48)),
    ("suite 0", head(1, 0, 0, 0) + bytes(16)),
    ("suite 3", head(1, 3, 0, 0) + bytes(16)),
    ("flags 2", head(1, 1, 2, 0) + bytes(16)),
    ("a last control", head(2, 1, 1, 1) + bytes(16)),
    ("a byte that is not zero", head(1, 1, 0, 0, zero=1) + bytes(16)),
    ("number 2^62", head(1, 1, 0, 2**62) + bytes(16)),
    ("control 0", head(2, 1, 0, 0) + bytes(16)),
]
CONTROLS_REFUSED = [
    ("empty", b""),
    ("a state of 29 bytes", state(1, 2, 3)[:29]),
    ("a reset of 13 bytes", reset(1, 2, "")[:13]),
    ("a reason of 257 bytes", reset(1, 2, "r" * 257)),
    ("a reason that is not UTF-8", reset(1, 2, "") + b"\xff"),
]


def flip(record, at):
    return record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]


def cases():
    text = b"bytes of the stream"
    records = []
    for suite in (AES, CHACHA):
        for side in ("opener", "acceptor"):
            records += [
                sealed(suite, side, 3 if side == "acceptor" else 2, 1, state(0, 0, 262_144, answer=True)),
                sealed(suite, side, 1, 0, text),
                sealed(suite, side, 1, 1, b"", last=True),
                sealed(suite, side, 2, 2, reset(1, 256, "enough")),
                sealed(suite, side, 1, 2**24, text),
                sealed(suite, side, 1, 2**62 - 1, text, last=True),
            ]
    record, accept = records[1]["record"], records[6]["record"]
    forged = [("opener", flip(record, i)) for i in (1, 2, 4, 27, 28, len(record) - 1)]
    forged += [("acceptor", flip(accept, i)) for i in (0, 27, 28, 59, 60, len(accept) - 1)]
    forged.append(("opener", sealed(AES, "opener", 3, 1, state(0, 0, 262_144))["record"]))
    return {
        "about": "Hex throughout, but `object`, `header` and `envelope` are the JSON form of what is encoded.",
        "opens": [
            open_case("to a member", opener, acceptor, "member", OPEN, AT),
            open_case("to a session", acceptor, w.agent, "session", {**OPEN, "name": "ü" * 64, "limit": 0}, AT + 5, 1),
        ],
        "open_unknown": {
            "bytes": pack({**OPEN, "suites": ["later", CHACHA], "more": {"x": [1, None]}}), "suites": [CHACHA],
        },
        "opens_refused": [{"name": n, "bytes": b} for n, b in OPENS_REFUSED],
        "opens_refused_for_their_header": [
            open_case("lives 60.001 s", opener, acceptor, "member", OPEN, AT, 60_001),
        ],
        "ends": {
            "mesh": w.mesh, "stream": STREAM, "secret": SECRET, "opener": opener.public, "acceptor": acceptor.public,
            "fresh": FRESH,
        },
        "keys": [
            {"suite": s, "direction": d, "purpose": p, "epoch": e, "info": info(s, d, p, e), "key": key(s, d, p, e)}
            for s, d, p, e in [
                (AES, "opener", "data", 0), (AES, "opener", "data", 1), (AES, "acceptor", "data", 0),
                (AES, "opener", "control", 0), (CHACHA, "acceptor", "control", 0), (CHACHA, "opener", "data", 0),
            ]
        ],
        "records": records,
        "records_refused": [{"name": n, "record": r} for n, r in RECORDS_REFUSED],
        "records_forged": [{"suite": AES, "direction": d, "record": r} for d, r in forged],
        "states": [
            {"heard": 0, "next": 0, "limit": 65_536, "answer": True, "stop": None, "done": False,
             "bytes": state(0, 0, 65_536, answer=True)},
            {"heard": 7, "next": 2**32, "limit": 2**53 - 1, "answer": False, "stop": 256, "done": True,
             "bytes": state(7, 2**32, 2**53 - 1, stop=256, done=True)},
            {"heard": 7, "next": 8, "limit": 9, "answer": False, "stop": None, "done": False,
             "bytes": state(7, 8, 9)},
        ],
        "state_unknown": {"bytes": state(7, 8, 9, flags=0xF8) + b"later", "without": state(7, 8, 9)},
        "resets": [
            {"heard": 3, "code": 0, "reason": "", "bytes": reset(3, 0, "")},
            {"heard": 4, "code": 2**32 - 1, "reason": "r" * 256, "bytes": reset(4, 2**32 - 1, "r" * 256)},
        ],
        "control_unknown": {"bytes": b"\x03later"},
        "controls_refused": [{"name": n, "bytes": b} for n, b in CONTROLS_REFUSED],
    }  # fmt: skip
