#!/usr/bin/env python3
"""Writes the test vectors in this folder: libsodium.json, layouts.json, frames.json,
refused.json, p2p.json, streams.json.

    python3 -m venv /tmp/vectors && /tmp/vectors/bin/pip install pynacl msgpack
    /tmp/vectors/bin/python signaling/vectors/generate.py          # writes
    /tmp/vectors/bin/python signaling/vectors/generate.py --check  # compares only

Deterministic: every key, nonce and id is SHA-256 of a label. Made with PyNaCl 1.6, msgpack 1.2."""

import json
import pathlib
import sys

import cases_frames
import cases_layouts
import cases_libsodium
import cases_p2p
import cases_refused
import cases_streams
from meshwire_ref import plain


def main():
    here = pathlib.Path(__file__).parent
    stale = []
    for name, module in [
        ("libsodium", cases_libsodium),
        ("layouts", cases_layouts),
        ("frames", cases_frames),
        ("refused", cases_refused),
        ("p2p", cases_p2p),
        ("streams", cases_streams),
    ]:
        path = here / f"{name}.json"
        text = json.dumps(plain(module.cases()), indent=1, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit("not what generate.py makes: " + ", ".join(stale))


if __name__ == "__main__":
    main()
