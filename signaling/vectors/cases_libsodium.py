"""What libsodium itself defines; meshwire adds nothing here."""

from nacl import bindings as sodium

from meshwire_ref import Key, box, det, secretbox, shared

P = 2**255 - 19
EIGHT = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"


def images():
    """Keys at the edges, sorted by what crypto_sign_ed25519_pk_to_curve25519 says of them."""
    one = Key("alice").public
    odd = {
        "identity": (1).to_bytes(32, "little"),
        "order 2": (P - 1).to_bytes(32, "little"),
        "order 4": bytes(32),
        "order 4, other sign": bytes(31) + b"\x80",
        "order 8": bytes.fromhex(EIGHT),
        "order 8, other sign": bytes.fromhex(EIGHT[:-2] + "fa"),
        "order 8, second": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        "order 8, second, other sign": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
        "all bits": b"\xff" * 32,
        "mixed order: a key plus a point of order 8": sodium.crypto_core_ed25519_add(one, bytes.fromhex(EIGHT)),
        "mixed order: a key plus the point of order 2": sodium.crypto_core_ed25519_add(one, (P - 1).to_bytes(32, "little")),
    }
    for sign in (0, 1):
        for k in range(19):
            y = (P + k) | sign << 255
            odd[f"y = p + {k}, sign {sign}"] = y.to_bytes(32, "little")
        for k in range(2, 40):
            y = k | sign << 255
            odd[f"y = {k}, sign {sign}"] = y.to_bytes(32, "little")
    refused, accepted = [], []
    for name, public in odd.items():
        try:
            x = sodium.crypto_sign_ed25519_pk_to_curve25519(public)
        except RuntimeError:
            refused.append({"name": name, "public": public})
        else:
            accepted.append({"name": name, "public": public, "x25519_public": x})
    return refused, accepted


def cases():
    names = ["alice", "bob", "carol", "dave", "erin"]
    keys = [Key(n) for n in names]
    plaintexts = [b"", b"a", b"hello", bytes(16), det("plain 64", 64), det("plain 1000", 1000)]
    pairs = [(keys[0], keys[1]), (keys[1], keys[0]), (keys[2], keys[3]), (keys[4], keys[4])]
    refused, accepted = images()
    return {
        "about": "What libsodium defines. Hex throughout; sealed = nonce (24) || tag (16) || ciphertext.",
        "keys": [
            {"name": n, "seed": k.seed, "public": k.public, "x25519_public": k.x_public, "x25519_secret": k.x_secret}
            for n, k in zip(names, keys)
        ],
        "shared_secrets": [{"seed": a.seed, "public": b.public, "secret": shared(a, b)} for a, b in pairs],
        "signatures": [{"seed": k.seed, "message": m, "signature": k.sign_raw(m)} for k in keys[:2] for m in plaintexts],
        "boxes": [
            {
                "sender_seed": a.seed,
                "recipient_seed": b.seed,
                "nonce": (nonce := det(f"box nonce {i} {j}", 24)),
                "plaintext": m,
                "sealed": box(a, b, nonce, m),
            }
            for i, (a, b) in enumerate(pairs)
            for j, m in enumerate(plaintexts)
        ],
        "secretboxes": [
            {
                "key": (key := det(f"secretbox key {j}")),
                "nonce": (nonce := det(f"secretbox nonce {j}", 24)),
                "plaintext": m,
                "sealed": secretbox(key, nonce, m),
            }
            for j, m in enumerate(plaintexts)
        ],
        "keys_without_image": refused,
        "odd_keys_with_image": accepted,
    }
