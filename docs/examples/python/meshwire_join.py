"""Joining a mesh by an invite link: docs/protocol.md, section 10."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

from meshwire_encoding import (
    Map,
    Refused,
    decode_json,
    encode_json,
    fixed,
    mapping,
    number,
    text,
)
from meshwire_home import Home
from meshwire_protocol import MAX_FRAME, check_name, layout, parse_link, verify_capability, verify_chain


class ServerError(Exception):
    """The broker's refusal: a code of section 17."""

    def __init__(self, error: Map) -> None:
        self.code = text(error, "code")
        self.permanent = error.get("permanent") is True
        self.retry_after = number(error, "retry_after_ms") / 1000 if "retry_after_ms" in error else 0.0
        super().__init__(f"{self.code}: {error.get('message', '')}")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def join(link: str, name: str, path: Path) -> Home:
    """Becomes a member. Safe to repeat with the same home: the same key does not use the invite up."""
    invite = parse_link(link)
    if invite.pin is not None:
        # A pinned broker ends TLS itself and asks for the TLS exporter, which Python's ssl lacks.
        raise Refused("this example cannot use a broker with a pinned certificate")
    check_name(name)
    home = Home.load(path) if path.exists() else Home.create(path, invite)
    if home.mesh != invite.mesh:
        raise Refused("this home is for another mesh")

    # The broker's preview is believed as far as it is signed.
    url = f"{invite.base}/v2/invites/{invite.key.public.hex()}"
    preview = http(url)
    issuer = verify_chain(mapping(preview, "issuer"), invite.mesh)
    capability = verify_capability(mapping(preview, "capability"), invite.mesh, issuer)
    if issuer.broker != invite.broker or fixed(capability, "invite") != invite.key.public:
        raise Refused("the preview is of another broker or invite")

    # The invite's secret signs who comes in; the new key signs that it is held. The key is on disk.
    body = {
        "mesh": invite.mesh,
        "invite": invite.key.public,
        "member": home.key.public,
        "name": name,
        "claimed_at": now_ms(),
    }
    claim = invite.key.sign_object("meshwire/v2/member-claim", body)
    proof = home.key.sign(layout("meshwire/v2/member-claim-proof", [claim["payload"]]))
    answer = http(f"{url}/claim", {"claim": claim, "proof": proof})

    chain = mapping(answer, "chain")
    member = verify_chain(chain, invite.mesh)
    if member.key != home.key.public or member.name != name or member.broker != invite.broker:
        raise Refused("the chain is somebody else's")
    home.data["chain"] = chain
    home.pin_name(name, home.key.public)
    home.save()
    return home


def http(url: str, body: Map | None = None) -> Map:
    """GET, or POST of a body; JSON both ways."""
    data = None if body is None else encode_json(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return decode_json(answer.read(MAX_FRAME))
    except urllib.error.HTTPError as error:
        raise ServerError(decode_json(error.read(MAX_FRAME))) from error
