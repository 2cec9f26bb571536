"""This client against real processes: a broker and a node of the `meshwire` binary.

    MESHWIRE_BIN=target/release/meshwire python docs/examples/python/test_interop.py

Everything runs once in JSON and once in MessagePack. Every wait is bounded; whatever does not happen
ends the run with status 1. BREAK=receipt makes the client answer with wrong receipts: the run must
then fail, because the node must not believe them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import meshwire_client
from meshwire_client import Client, Home, Member, ServerError, join, now_ms
from meshwire_encoding import Map, Refused
from meshwire_protocol import (
    SecretKey,
    envelope_hash,
    envelope_layout,
    make_receipt,
    new_message_id,
    read_header,
    seal_envelope,
)

BINARY = os.environ.get("MESHWIRE_BIN", "target/release/meshwire")
WAIT = 20.0

os.environ["NO_PROXY"] = "127.0.0.1"


def check(what: str, held: bool) -> None:
    print(f"  {'ok' if held else 'FAILED'}: {what}", flush=True)
    if not held:
        raise SystemExit(f"failed: {what}")


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [BINARY, "--home", str(home), "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, Any]:
    """Exit code and answer."""
    try:
        out, err = process.communicate(timeout=WAIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise SystemExit(f"failed: {process.args!r} did not end in {WAIT} s") from None
    lines = (out if process.returncode == 0 else err).strip().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}


def meshwire(home: Path, *arguments: str) -> Any:
    code, answer = finish(start(home, *arguments))
    if code != 0:
        raise SystemExit(f"failed: meshwire {' '.join(arguments)}: {answer}")
    return answer


class Broker:
    """A broker on a free port of loopback. `listening` is what it says of itself."""

    def __init__(self, folder: Path) -> None:
        log, home = folder / "broker.json", str(folder / "broker")
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [BINARY, "--home", home, "--json", "broker", "--listen", "127.0.0.1:0"],
                stdout=out,
                stderr=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + WAIT
        while not (line := log.read_text()).endswith("\n"):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.stop()
                raise SystemExit("failed: the broker does not listen")
            time.sleep(0.05)
        self.listening = json.loads(line)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()


def pump(client: Client, until: Any, what: str) -> None:
    """Answers frames until something is the case."""
    deadline = time.monotonic() + WAIT
    while not until():
        if time.monotonic() > deadline:
            raise SystemExit(f"failed: waited {WAIT} s for: {what}")
        client.step(0.1)


def wrong_receipt(me: SecretKey, mesh: bytes, author: bytes, envelope: bytes, reason: str = "") -> Map:
    receipt = make_receipt(me, mesh, author, envelope, reason)
    return receipt | {"mac": bytes([receipt["mac"][0] ^ 1]) + receipt["mac"][1:]}


class LostAcks(Client):
    """A client whose answers to messages do not arrive."""

    lost = 0

    def __enter__(self) -> LostAcks:
        super().__enter__()
        return self

    def _send(self, frame: Map) -> None:
        if frame["type"] == "client_ack":
            self.lost += 1
        else:
            super()._send(frame)


def texts(client: Client) -> list[str]:
    return [message.content.decode() for message in client.unread()]


def joins(link: str, name: str, path: Path) -> Home:
    home = join(link, name, path)
    again = join(link, name, path)
    check("joined; the chain is verified; the claim repeated with the same key", again.mesh == home.mesh)
    tampered = link[:-2] + ("AA" if not link.endswith("AA") else "BB")
    try:
        join(tampered, name, path.with_suffix(".tampered"))
        check("a link with another broker key is refused", False)
    except Refused:
        check("a link with another broker key is refused", True)
    return home


def sends(client: Client, ana: Member, node: Path) -> None:
    home = client.home
    id = client.send(ana, "hello from Python")
    check("accepted", client.state(id) in ("relayed", "delivered"))
    check("delivered, by a receipt whose MAC holds", client.wait_delivered(id, WAIT))
    check("the same envelope again is a duplicate", client.send_stored(id))
    inbox = meshwire(node, "inbox", "--peek")["messages"]
    check("the node has it once", json.dumps(inbox).count(id) == 1 and "hello from Python" in str(inbox))

    # A body that the node cannot open: it says so, in a receipt that holds.
    row = home.data["outbox"][id]
    header = read_header(row["envelope"])
    other = dict(header) | {"id": new_message_id(now_ms())}
    sealed = seal_envelope(SecretKey(bytes(32)), home.mesh, other, {})
    packed, body = sealed["header"], sealed["body"]
    sig = home.key.sign(envelope_layout(home.mesh, packed, body))
    broken = sealed | {"sig": sig}
    digest = envelope_hash(home.mesh, broken)
    home.data["outbox"][other["id"]] = row | {"envelope": broken, "hash": digest, "state": "queued"}
    client.send_stored(other["id"])
    pump(client, lambda: client.state(other["id"]) == "failed", "a receipt that says refused")
    check("what the node cannot open is `failed`, by a receipt whose MAC holds", True)

    # The id of an envelope that was sent already, for another one.
    home.data["outbox"]["conflict"] = row | {
        "envelope": seal_envelope(home.key, home.mesh, header, {}), "state": "queued",
    }  # fmt: skip
    try:
        client.send_stored("conflict")
        code = "none"
    except ServerError as error:
        code = error.code
    del home.data["outbox"]["conflict"]
    check("another envelope with the same id is a conflict", code == "conflict")


def receives(client: Client, node: Path, name: str) -> None:
    sending = start(node, "send", name, "hello from Rust", "--wait", "delivered", "--timeout", "10s")
    pump(client, lambda: sending.poll() is not None, "the end of meshwire send")
    code, answer = finish(sending)
    check("verified, opened, in the inbox", texts(client) == ["hello from Rust"])
    check("the node says delivered", code == 0 and answer.get("state") == "delivered")


def comes_back(home: Home, encoding: str, node: Path, name: str) -> None:
    before = home.data["counter"]
    answer = meshwire(node, "send", name, "while you were away", "--wait", "accepted")
    check("the node's message waits at the broker", answer.get("state") == "relayed")
    with LostAcks(home, encoding) as client:
        check("the hello counter grew", home.data["counter"] > before)
        pump(client, lambda: client.lost > 0, "the message that waited")
        check("it came; its ack is lost", texts(client) == ["while you were away"])
    home = Home.load(home.path)
    with Client(home, encoding) as client:
        pump(client, lambda: client.drained, "drained")
        id = answer["id"]
        status: Any = {}
        deadline = time.monotonic() + WAIT
        while status.get("state") != "delivered" and time.monotonic() < deadline:
            client.step(0.2)
            status = meshwire(node, "message", "status", id)
        check("pushed again, it is acked again", status.get("state") == "delivered")
        check("… and shown once", texts(client) == [])


def command_line(home: Home, encoding: str, node: Path, name: str) -> None:
    """example.py, as README.md shows it."""

    def example(*arguments: str) -> str:
        script = str(Path(__file__).with_name("example.py"))
        command = [sys.executable, script, *arguments, "--home", str(home.path), "--encoding", encoding]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT).stdout

    check("example.py peers", "owner   online   ana" in example("peers"))
    check("example.py send --wait", "delivered" in example("send", "ana", "by hand", "--wait"))
    meshwire(node, "send", name, "to the command line", "--wait", "accepted")
    check("example.py listen", example("listen", "--count", "1") == "ana: to the command line\n")


def restored(home: Home, encoding: str) -> None:
    """A home from a backup: its hello counter is behind, and it sends again what was sent."""
    home.data["counter"] = 0
    row = next(row for row in home.data["outbox"].values() if row["state"] == "delivered")
    row["state"] = "queued"
    try:
        with Client(home, encoding):
            code = "none"
    except ServerError as error:
        code = error.code
    check("a restored home is noticed", code == "stale_instance")
    with Client(home, encoding):
        check("… and goes on with a new instance", home.data["counter"] == 1)
    check("what was queued is sent again", row["state"] != "queued")


def refuses(client: Client, ana: Member) -> None:
    """Frames that a broker could forge, given to the client as if they had come in."""
    home, sent = client.home, list[Map]()
    client._send = sent.append  # type: ignore
    before = len(home.data["inbox"])

    mallory = SecretKey(b"\7" * 32)
    now = now_ms()
    header = {
        "channel": "dm",
        "from": {"key": ana.key, "instance": bytes(16)},
        "target": {"kind": "member", "key": home.key.public},
        "id": new_message_id(now),
        "priority": "now",
        "durability": "queued",
        "sent_at": now,
        "expires_at": now + 60_000,
    }
    forged = seal_envelope(mallory, home.mesh, header, {"type": "text/plain"})
    client._on_message({"envelope": forged})
    check(
        "an envelope signed by another key than its author's is refused, without a receipt",
        sent[-1]["type"] == "client_nack" and "receipt" not in sent[-1] and sent[-1]["permanent"],
    )
    header["from"] = {"key": mallory.public, "instance": bytes(16)}
    stranger = seal_envelope(mallory, home.mesh, header, {"type": "text/plain"})
    client._on_message({"envelope": stranger | {"proof": {"chain": home.data["chain"]}}})
    check("an author with somebody else's chain is refused", sent[-1]["reason"] == "untrusted_sender")
    client._on_message({"envelope": stranger})
    check("an author without a chain has to wait", sent[-1]["permanent"] is False)
    check("neither is in the inbox", len(home.data["inbox"]) == before)

    id, row = next((i, r) for i, r in home.data["outbox"].items() if r["state"] == "failed")
    true = make_receipt(home.key, home.mesh, ana.key, row["hash"])
    forged = {"verdict": "delivered", "by": ana.key, "mac": true["mac"]}
    count = len(sent)
    client._on_receipt({"from": home.key.public, "id": id, "receipt": forged})
    held = row["state"] == "failed" and len(sent) == count + 1
    check("a forged receipt changes nothing, and is confirmed", held)


def run(encoding: str, link: str, node: Path, folder: Path) -> None:
    print(f"{encoding}:", flush=True)
    name = f"python-{encoding}"
    home = joins(link, name, folder / f"{encoding}.home")
    with Client(home, encoding) as client:
        check("hello; the ack is verified", home.data["counter"] == 1)
        members = {peer.member.name: peer.member for peer in client.peers()}
        check("peers; every chain is verified", {"ana", name} <= members.keys())
        ana = members["ana"]
        sends(client, ana, node)
        receives(client, node, name)
    comes_back(home, encoding, node, name)
    command_line(home, encoding, node, name)
    restored(Home.load(home.path), encoding)
    with Client(Home.load(home.path), encoding) as client:
        refuses(client, ana)


def main() -> None:
    if not Path(BINARY).exists():
        raise SystemExit(f"failed: there is no {BINARY}: set MESHWIRE_BIN")
    if os.environ.get("BREAK") == "receipt":
        meshwire_client.make_receipt = wrong_receipt  # type: ignore
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        node = folder / "ana"
        broker = Broker(folder)
        try:
            token, url = broker.listening["admin_token"], broker.listening["url"]
            meshwire(
                node, "mesh", "create", "lab", "--broker", url, "--admin-token", token, "--name", "ana"
            )
            link = meshwire(node, "invite", "--local", "--uses", "2")["link"]
            meshwire(node, "up")
            try:
                for encoding in ("json", "msgpack"):
                    run(encoding, link, node, folder)
            finally:
                meshwire(node, "down")
        finally:
            broker.stop()
    print("all of it holds, in both encodings")


if __name__ == "__main__":
    main()
