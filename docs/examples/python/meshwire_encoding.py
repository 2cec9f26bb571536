"""The two encodings of docs/protocol.md, section 2, and typed access to what they decode to.

Objects are plain dictionaries. A key, hash, signature or payload in them is `bytes`, whichever
encoding it came in. Whatever does not hold raises `Refused`.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import msgpack  # type: ignore[import-untyped]

Map = dict[str, Any]

MAX_DEPTH = 16
MAX_INTEGER = 2**53 - 1


class Refused(Exception):
    """Something that came from outside does not hold."""


# JSON has no bytes, so a field's name says how its text is to be read. (MessagePack has `bin`.)
FIXED = {
    "key": 32, "broker": 32, "mesh": 32, "nonce": 32, "hash": 32, "invite": 32, "member": 32,
    "from": 32, "to": 32, "by": 32, "mac": 32, "after": 32, "next": 32, "sig": 64, "proof": 64,
}  # fmt: skip
BYTES = {"payload", "header", "body"}


def encode_msgpack(value: Map) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True))


def decode_msgpack(data: bytes) -> Map:
    try:
        value = msgpack.unpackb(
            data, raw=False, object_pairs_hook=_unique, ext_hook=_no_extension, strict_map_key=True
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise Refused(f"no MessagePack: {error}") from error
    return _checked_map(value)


def encode_json(value: Map) -> str:
    return json.dumps(_to_json(value), separators=(",", ":"), ensure_ascii=False)


def decode_json(data: bytes | str) -> Map:
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float
        )
    except (ValueError, RecursionError) as error:
        raise Refused(f"no JSON: {error}") from error
    return {name: _from_json(item, name) for name, item in _checked_map(value).items()}


def _unique(pairs: list[tuple[Any, Any]]) -> Map:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Refused("a key twice in one map")
    return result


def _no_float(text: str) -> Any:
    raise Refused(f"a floating-point number: {text}")


def _no_extension(code: int, _data: bytes) -> Any:
    raise Refused(f"a MessagePack extension type: {code}")


def _checked_map(value: Any) -> Map:
    if not isinstance(value, dict):
        raise Refused("not a map")
    checked = _checked(value, 1)
    assert isinstance(checked, dict)
    return checked


def _checked(value: Any, depth: int) -> Any:
    """Refuses what section 2 forbids anywhere; leaves away the fields that are null."""
    if isinstance(value, dict | list) and depth > MAX_DEPTH:
        raise Refused("too many containers inside each other")
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise Refused("a map key that is not text")
        items = {_checked(name, depth): _checked(item, depth + 1) for name, item in value.items()}
        return {name: item for name, item in items.items() if item is not None}
    if isinstance(value, list):
        return [_checked(item, depth + 1) for item in value]
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise Refused("half of a surrogate pair")
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > MAX_INTEGER:
            raise Refused("an integer that is too large")
    elif not isinstance(value, bytes | bool | None):
        raise Refused(f"a value of a forbidden type: {type(value).__name__}")
    return value


def _kind_of(name: str, in_wrap: bool) -> int | None:
    """The length of a fixed value, 0 for bytes of any length, None for everything else."""
    if name in BYTES or (in_wrap and name == "key"):
        return 0
    return FIXED.get(name)


def _to_json(value: Any, name: str = "", in_wrap: bool = False) -> Any:
    if isinstance(value, dict):
        return {n: _to_json(v, n, name == "wraps") for n, v in value.items()}
    if isinstance(value, list):
        return [_to_json(v, name, in_wrap) for v in value]
    if isinstance(value, bytes):
        return value.hex() if _kind_of(name, in_wrap) else base64.b64encode(value).decode()
    return value


def _from_json(value: Any, name: str = "", in_wrap: bool = False) -> Any:
    """Text that does not fit its field's kind stays text: `fixed` and `blob` below refuse it, and in
    an unknown field it does no harm."""
    if isinstance(value, dict):
        return {n: _from_json(v, n, name == "wraps") for n, v in value.items()}
    if isinstance(value, list):
        return [_from_json(v, name, in_wrap) for v in value]
    length = _kind_of(name, in_wrap)
    if isinstance(value, str) and length is not None:
        if length and re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value):
            return bytes.fromhex(value)
        if not length and re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", value) and len(value) % 4 == 0:
            return base64.b64decode(value)
    return value


def fixed(of: Map, name: str, length: int = 32) -> bytes:
    value = of.get(name)
    if not isinstance(value, bytes) or len(value) != length:
        raise Refused(f"{name} is not {length} bytes")
    return value


def blob(of: Map, name: str, most: int) -> bytes:
    value = of.get(name)
    if not isinstance(value, bytes) or len(value) > most:
        raise Refused(f"{name} is not bytes, or more than {most} of them")
    return value


def number(of: Map, name: str) -> int:
    value = of.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused(f"{name} is not a number from 0")
    return value


def text(of: Map, name: str) -> str:
    value = of.get(name)
    if not isinstance(value, str):
        raise Refused(f"{name} is not text")
    return value


def word(of: Map, name: str, known: str) -> str:
    value = text(of, name)
    if value not in known.split():
        raise Refused(f"{name} is none of: {known}")
    return value


def mapping(of: Map, name: str) -> Map:
    value = of.get(name)
    if not isinstance(value, dict):
        raise Refused(f"{name} is not a map")
    return value


def maps(of: Map, name: str) -> list[Map]:
    value = of.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Refused(f"{name} is not a list of maps")
    return value
