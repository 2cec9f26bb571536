"""Input that every implementation refuses, and its neighbours that every implementation accepts.

Each is a `list_peers` frame (where not said otherwise) with one thing wrong, mostly inside `z`, a
field that nobody knows: strictness holds there too."""

from meshwire_ref import Key, pack

HEAD = b"\x83" + pack("type") + pack("list_peers") + pack("req") + pack(7) + pack("z")
OK = HEAD + b"\xc0"


def js(z):
    return b'{"type":"list_peers","req":7,"z":%s}' % (z if isinstance(z, bytes) else z.encode())


def raw_map(*parts):
    """A map of already encoded keys and values."""
    return bytes([0x80 | len(parts) // 2]) + b"".join(parts)


def nest_js(n):
    return js("[" * n + "]" * n)


def nest_mp(n):
    return HEAD + b"\x91" * (n - 1) + b"\x90"


def nest_maps(n):
    return HEAD + b"\x81\xa1a" * (n - 1) + b"\x80"


def bound(key):
    return ('{"type":"bound","req":7,"key":"%s"}' % key).encode()


def cases():
    key = Key("alice").public
    big = 2**53
    refused = [
        ("json", "duplicate key", b'{"type":"list_peers","req":7,"req":7}'),
        ("json", "duplicate key", b'{"type":"list_peers","type":"list_peers","req":7}'),
        ("json", "duplicate key in an unknown field", js('{"q":1,"q":1}')),
        ("json", "duplicate key, once escaped", js('{"q":1,"\\u0071":1}')),
        ("json", "17 containers", nest_js(16)),
        ("json", "17 containers around a number", js("[" * 16 + "1" + "]" * 16)),
        ("json", "200 containers", nest_js(199)),
        ("json", "integer over 2^53-1", js(str(big))),
        ("json", "integer under -(2^53-1)", js(str(-big))),
        ("json", "integer over 2^64", js(str(2**64))),
        ("json", "integer over 2^53-1 in a known field", b'{"type":"list_peers","req":%d}' % big),
        ("json", "floating point", js("1.5")),
        ("json", "floating point that is whole", js("1.0")),
        ("json", "floating point in exponent form", js("1e2")),
        ("json", "trailing bytes", js("0") + b"0"),
        ("json", "second value", js("0") + js("0")),
        ("json", "truncated", js("0")[:-1]),
        ("json", "empty", b""),
        ("json", "key that is not a string", b'{"type":"list_peers","req":7,1:2}'),
        ("json", "invalid UTF-8", js(b'"\xff\xfe"')),
        ("json", "overlong UTF-8", js(b'"\xc0\xaf"')),
        ("json", "half of a surrogate pair", js('"\\ud800"')),
        ("json", "not a map", b'["list_peers",7]'),
        ("json", "no type", b'{"req":7}'),
        ("json", "type is not a string", b'{"type":7,"req":7}'),
        ("json", "missing field", b'{"type":"list_peers"}'),
        ("json", "wrong type of field", b'{"type":"list_peers","req":"7"}'),
        ("json", "negative where unsigned", b'{"type":"list_peers","req":-7}'),
        ("json", "uppercase hex key", bound(key.hex().upper())),
        ("json", "short key", bound(key.hex()[:-2])),
        ("json", "key in base64", bound("iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=")),
        ("json", "lowercase ULID", b'{"type":"receipt_ack","from":"%s","id":"01jxsr1xg0000000000000000a","by":"%s"}' % (key.hex().encode(), key.hex().encode())),
        ("json", "ULID over 128 bits", b'{"type":"receipt_ack","from":"%s","id":"81JXSR1XG0000000000000000A","by":"%s"}' % (key.hex().encode(), key.hex().encode())),
        ("json", "base64 without padding", b'{"type":"invite_create","req":7,"capability":{"payload":"gA","sig":"%s"}}' % (b"00" * 64)),
        ("json", "base64url", b'{"type":"invite_create","req":7,"capability":{"payload":"_-8=","sig":"%s"}}' % (b"00" * 64)),
        ("msgpack", "duplicate key", raw_map(pack("type"), pack("list_peers"), pack("req"), pack(7), pack("req"), pack(7))),
        ("msgpack", "duplicate key in an unknown field", HEAD + b"\x82\xa1q\x01\xa1q\x01"),
        ("msgpack", "duplicate key in two spellings", HEAD + b"\x82\xa1q\x01\xd9\x01q\x01"),
        ("msgpack", "17 containers", nest_mp(16)),
        ("msgpack", "17 maps", nest_maps(16)),
        ("msgpack", "17 containers around a number", HEAD + b"\x91" * 16 + b"\x01"),
        ("msgpack", "10,000 containers", HEAD + b"\x91" * 10_000 + b"\x01"),
        ("msgpack", "integer over 2^53-1", HEAD + pack(big)),
        ("msgpack", "integer over 2^53-1, signed", HEAD + b"\xd3" + big.to_bytes(8, "big")),
        ("msgpack", "integer under -(2^53-1)", HEAD + pack(-big)),
        ("msgpack", "the least 64-bit integer", HEAD + pack(-(2**63))),
        ("msgpack", "the greatest 64-bit integer", HEAD + pack(2**64 - 1)),
        ("msgpack", "integer over 2^53-1 in a known field", b"\x82" + pack("type") + pack("list_peers") + pack("req") + pack(big)),
        ("msgpack", "float 64", HEAD + pack(1.5)),
        ("msgpack", "float 64 that is whole", HEAD + pack(1.0)),
        ("msgpack", "float 32", HEAD + b"\xca\x3f\x80\x00\x00"),
        ("msgpack", "trailing bytes", OK + b"\x00"),
        ("msgpack", "second value", OK + OK),
        ("msgpack", "truncated", OK[:-1]),
        ("msgpack", "truncated string", HEAD + b"\xa5abc"),
        ("msgpack", "truncated bin", HEAD + b"\xc4\x05abc"),
        ("msgpack", "truncated integer", HEAD + b"\xcf\x00\x00"),
        ("msgpack", "array of 2^32-1 that ends at once", HEAD + b"\xdd\xff\xff\xff\xff"),
        ("msgpack", "map of 2^32-1 that ends at once", HEAD + b"\xdf\xff\xff\xff\xff"),
        ("msgpack", "string of 2^32-1 that ends at once", HEAD + b"\xdb\xff\xff\xff\xff"),
        ("msgpack", "bin of 2^32-1 that ends at once", HEAD + b"\xc6\xff\xff\xff\xff"),
        ("msgpack", "empty", b""),
        ("msgpack", "integer as key", HEAD + b"\x81\x01\x02"),
        ("msgpack", "bin as key", HEAD + b"\x81\xc4\x01q\x02"),
        ("msgpack", "nil as key", HEAD + b"\x81\xc0\x02"),
        ("msgpack", "invalid UTF-8", HEAD + b"\xa2\xff\xfe"),
        ("msgpack", "overlong UTF-8", HEAD + b"\xa2\xc0\xaf"),
        ("msgpack", "invalid UTF-8 in a key", HEAD + b"\x81\xa1\xff\x01"),
        ("msgpack", "fixext 1", HEAD + b"\xd4\x01\x00"),
        ("msgpack", "timestamp (fixext 4)", HEAD + b"\xd6\xff\x00\x00\x00\x00"),
        ("msgpack", "ext 8", HEAD + b"\xc7\x01\x01\x00"),
        ("msgpack", "the byte that is never used", HEAD + b"\xc1"),
        ("msgpack", "not a map", pack(["list_peers", 7])),
        ("msgpack", "no type", pack({"req": 7})),
        ("msgpack", "type in bin", pack({"type": b"list_peers", "req": 7})),
        ("msgpack", "missing field", pack({"type": "list_peers"})),
        ("msgpack", "wrong type of field", pack({"type": "list_peers", "req": "7"})),
        ("msgpack", "uppercase hex key as text", pack({"type": "bound", "req": 7, "key": key.hex().upper()})),
        ("msgpack", "short key", pack({"type": "bound", "req": 7, "key": key[:-1]})),
        ("msgpack", "long key", pack({"type": "bound", "req": 7, "key": key + b"\0"})),
        ("msgpack", "key as array of integers", pack({"type": "bound", "req": 7, "key": list(key)})),
        ("msgpack", "key as text that is not UTF-8", raw_map(pack("type"), pack("bound"), pack("req"), pack(7), pack("key"), b"\xd9\x20" + b"\xff" * 32)),
    ]
    accepted = [
        ("json", "unknown field", js("null")),
        ("json", "16 containers", nest_js(15)),
        ("json", "the greatest integer", js(str(big - 1))),
        ("json", "the least integer", js(str(1 - big))),
        ("json", "white space around", b" " + js("0") + b"\n"),
        ("json", "a surrogate pair", js('"\\ud83d\\ude00"')),
        ("json", "the same key at two levels", js('{"req":1,"type":"x"}')),
        ("msgpack", "unknown field", OK),
        ("msgpack", "16 containers", nest_mp(15)),
        ("msgpack", "16 maps", nest_maps(15)),
        ("msgpack", "the greatest integer", HEAD + pack(big - 1)),
        ("msgpack", "the least integer", HEAD + pack(1 - big)),
        ("msgpack", "integers and lengths that are not the shortest form", b"\xdf\x00\x00\x00\x02" + b"\xdb\x00\x00\x00\x04type" + b"\xda\x00\x0alist_peers" + pack("req") + b"\xd3" + (7).to_bytes(8, "big")),
        ("msgpack", "fields in another order", pack({"req": 7, "type": "list_peers"})),
        ("msgpack", "the same key at two levels", HEAD + pack({"req": 1, "type": "x"})),
    ]
    show = lambda rows: [{"reason": r, "encoding": e, "bytes": b} for e, r, b in rows]
    return {
        "about": "Frames as bytes in hex. Each in `refused` must be refused as a whole, each in `accepted` read as list_peers with req 7.",
        "refused": show(refused),
        "accepted": show(accepted),
    }
