"""A meshwire client's connection: lists members, sends and receives, with receipts.

It follows docs/protocol.md; the section numbers below are that page's. One thread, one socket: every
call that waits also answers what comes in meanwhile.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

from meshwire_encoding import (
    Map,
    Refused,
    decode_json,
    decode_msgpack,
    encode_json,
    encode_msgpack,
    fixed,
    mapping,
    maps,
    number,
    text,
)
from meshwire_home import Home
from meshwire_join import ServerError, join, now_ms
from meshwire_protocol import (
    CLOCK_MS,
    DAY_MS,
    MAX_FRAME,
    Member,
    check_receipt,
    envelope_hash,
    make_receipt,
    message_id,
    new_message_id,
    open_content,
    open_signed,
    read_header,
    seal_envelope,
    signed_hash,
    verify_chain,
    verify_envelope,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

AGENT = "meshwire-python-example/1"
NEEDED = ["dedupe", "receipts"]
"""What this client cannot do without (section 11)."""


@dataclass(frozen=True)
class Peer:
    member: Member
    online: bool


@dataclass(frozen=True)
class Message:
    author: bytes
    id: str
    type: str
    content: bytes


class Refusal(Exception):
    """Why an envelope is not taken: for good, with a reason of section 9, or only now. A receipt is
    made only once the signature holds: before, it would answer bytes that anybody may have made."""

    def __init__(self, reason: str, receipt: bool = True, permanent: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.receipt, self.permanent = reason, receipt, permanent


class Client:
    """A connection, as a context manager. `unread` has the messages that came in."""

    def __init__(self, home: Home, encoding: str = "msgpack") -> None:
        self.home, self.json = home, encoding == "json"
        self.drained = False
        self.come_back_after = 0.0
        self._authors: dict[bytes, Member] = {}
        self._answers: dict[int, Map] = {}
        self._requests = 0
        self._ws: ClientConnection

    def __enter__(self) -> Client:
        home = self.home
        base = home.data["base"]
        if "chain" not in home.data:
            raise Refused("join first")
        if not base.startswith(("http://", "https://")):
            raise Refused("a broker's address begins with http:// or https://")
        tls = ssl.create_default_context() if base.startswith("https") else None
        if tls:
            tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._ws = connect(
            "ws" + base.removeprefix("http") + "/v2/ws",
            ssl=tls,
            subprotocols=[Subprotocol("meshwire.v2.json" if self.json else "meshwire.v2.msgpack")],
            compression=None,
            max_size=MAX_FRAME,
            ping_interval=30,
            ping_timeout=45,
        )
        try:
            self._hello()
            self._resend()
        except BaseException as error:
            self._ws.close()
            if isinstance(error, ServerError) and error.code == "stale_instance":
                home.new_instance()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ws.close()

    # Section 11: hello.

    def _hello(self) -> None:
        home = self.home
        broker: bytes = home.data["broker"]
        challenge = self._expect("challenge")
        if fixed(challenge, "broker") != broker:
            raise Refused("this is another broker than the invite's")
        if challenge.get("binding") is True:
            raise Refused("the broker asks for the TLS exporter, which Python's ssl does not have")
        hello = home.key.sign_object(
            "meshwire/v2/hello",
            {
                "mesh": home.mesh,
                "key": home.key.public,
                "kind": "member",
                "member": home.key.public,
                "instance": home.data["instance"],
                "counter": home.next_hello(),
                "requires": NEEDED,
                "client_nonce": secrets.token_bytes(32),
                "challenge": fixed(challenge, "nonce"),
                "at": now_ms(),
                "broker": broker,
                "agent": AGENT,
            },
        )
        self._send({"type": "hello", "hello": hello})

        signed = mapping(self._expect("hello_ack"), "ack")
        ack = open_signed("meshwire/v2/hello-ack", signed, broker)
        if fixed(ack, "broker") != broker:
            raise Refused("the ack names another broker")
        if fixed(ack, "hello") != signed_hash("meshwire/v2/hello", hello):
            raise Refused("the ack is for another hello")
        missing = set(NEEDED) - set(ack.get("features", {}))
        if missing or ack.get("requires"):
            raise Refused(f"features are missing: {missing}, {ack.get('requires')}")
        self.limits = mapping(ack, "limits")

    def _expect(self, kind: str) -> Map:
        frame = self._receive(5)
        if frame.get("type") == "error":
            raise ServerError(frame)
        if frame.get("type") != kind:
            raise Refused(f"{frame.get('type')} instead of {kind}")
        return frame

    # Section 12: frames.

    def _send(self, frame: Map) -> None:
        self._ws.send(encode_json(frame) if self.json else encode_msgpack(frame))

    def _receive(self, timeout: float) -> Map:
        message = self._ws.recv(timeout)
        if isinstance(message, str) != self.json:
            raise Refused("a message in the other encoding")
        frame = decode_json(message) if isinstance(message, str) else decode_msgpack(message)
        text(frame, "type")
        return frame

    def step(self, timeout: float) -> bool:
        """Answers one frame; false if none came in time. Raises when the connection ends."""
        try:
            frame = self._receive(timeout)
        except TimeoutError:
            return False
        except Refused as error:
            self._send({"type": "error", "code": "malformed", "message": str(error)})
            return True
        match frame["type"]:
            case "message":
                self._on_message(frame)
            case "receipt":
                self._on_receipt(frame)
            case "drained":
                self.drained = True
            case "goaway":
                self.come_back_after = number(frame, "retry_after_ms") / 1000
            case "accepted" | "peers" | "error":
                if "req" in frame:
                    self._answers[number(frame, "req")] = frame
            case "presence" | "hello_ack" | "challenge" | "bound" | "ok" | "invites":
                pass
            case unknown:
                self._send({"type": "error", "code": "unknown_type", "message": f"no {unknown} here"})
        return True

    def request(self, frame: Map, timeout: float = 10) -> Map:
        """Sends a request and waits for the answer with its number."""
        self._requests += 1
        req, deadline = self._requests, time.monotonic() + timeout
        self._send(frame | {"req": req})
        while req not in self._answers:
            if not self.step(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"no answer to {frame['type']}")
        answer = self._answers.pop(req)
        if answer["type"] == "error":
            raise ServerError(answer)
        return answer

    def peers(self) -> list[Peer]:
        """All members, each proven by its chain; what the broker adds is only who is online."""
        found: list[Peer] = []
        page: Map = {}
        while True:
            answer = self.request({"type": "list_peers"} | page)
            for entry in maps(answer, "peers"):
                member = verify_chain(mapping(entry, "chain"), self.home.mesh)
                self.home.pin_name(member.name, member.key)
                self._authors[member.key] = member
                found.append(Peer(member, entry.get("online") is True))
            if "next" not in answer:
                self.home.save()
                return found
            page = {"after": fixed(answer, "next")}

    # Section 13: sending.

    def send(self, to: Member, message: str, priority: str = "next") -> str:
        """Stores a message, then hands it to the broker; its id. After an error that is not permanent
        it stays `queued`, and the next connection sends it again."""
        home, now = self.home, now_ms()
        counter = f"{home.data['instance'].hex()}/{to.key.hex()}/{priority}"
        seq, floor = home.next_seq(counter)
        header = {
            "channel": "dm",
            "from": {"key": home.key.public, "instance": home.data["instance"]},
            "target": {"kind": "member", "key": to.key},
            "id": new_message_id(now),
            "priority": priority,
            "durability": "queued",
            "sent_at": now,
            "expires_at": now + 7 * DAY_MS,
        }
        content = {
            "type": "text/plain",
            "seq": seq,
            "floor": floor,
            "head": {"version": 0, "hash": home.mesh},
            "content": message.encode(),
        }
        envelope = seal_envelope(home.key, home.mesh, header, content)
        if len(envelope["body"]) > number(self.limits, "body"):
            raise Refused("the message is too long for this broker")
        home.data["outbox"][header["id"]] = {
            "envelope": envelope,
            "to": to.key,
            "hash": envelope_hash(home.mesh, envelope),
            "state": "queued",
            "seq": seq,
            "counter": counter,
            "expires_at": header["expires_at"],
        }
        home.save()
        self.send_stored(str(header["id"]))
        return str(header["id"])

    def send_stored(self, id: str) -> bool:
        """Sends an envelope of the outbox, as often as wanted; whether the broker had it already."""
        row = self.home.data["outbox"][id]
        try:
            accepted = self.request({"type": "send", "envelope": row["envelope"]})
        except ServerError as error:
            if error.permanent and row["state"] == "queued":
                row["state"] = "failed"
                self.home.save()
            raise
        if row["state"] == "queued":
            row["state"] = "relayed"
            self.home.save()
        return accepted.get("duplicate") is True

    def _resend(self) -> None:
        self.home.forget(now_ms())
        for id, row in list(self.home.data["outbox"].items()):
            if row["state"] == "queued":
                try:
                    self.send_stored(id)
                except ServerError:
                    continue  # noted in its row, or tried again at the next connection

    def state(self, id: str) -> str:
        return str(self.home.data["outbox"][id]["state"])

    def wait_delivered(self, id: str, timeout: float) -> bool:
        """Waits for a receipt. Only a receipt whose MAC holds makes `delivered`."""
        deadline = time.monotonic() + timeout
        while self.state(id) in ("queued", "relayed"):
            if not self.step(max(0.0, deadline - time.monotonic())):
                break
        return self.state(id) == "delivered"

    def _on_receipt(self, frame: Map) -> None:
        home, id, receipt = self.home, message_id(frame, "id"), mapping(frame, "receipt")
        row = home.data["outbox"].get(id)
        if row is not None and row["state"] != "delivered":
            try:
                verdict = check_receipt(home.key, home.mesh, row["to"], row["hash"], receipt)
                row["state"] = "delivered" if verdict == "delivered" else "failed"
                if verdict == "refused" and receipt.get("reason") == "expired":
                    row["state"] = "expired"
                home.save()
            except Refused:
                pass  # it changes nothing, and is confirmed all the same: else it came again for ever
        by, author = fixed(receipt, "by"), fixed(frame, "from")
        self._send({"type": "receipt_ack", "from": author, "id": id, "by": by})

    # Sections 8, 9 and 13: receiving.

    def _on_message(self, frame: Map) -> None:
        home, envelope = self.home, mapping(frame, "envelope")
        try:
            header = read_header(envelope)
        except Refused:
            return  # there is no author and id to answer with; the broker's lease ends
        author, id = header["from"]["key"], header["id"]
        digest = envelope_hash(home.mesh, envelope)
        answer: Map = {"from": author, "id": id}
        try:
            self._take(envelope, header, digest)
        except Refusal as refusal:
            answer |= {"type": "client_nack", "by": home.key.public}
            answer |= {"reason": refusal.reason, "permanent": refusal.permanent}
            if refusal.permanent and refusal.receipt:
                receipt = make_receipt(home.key, home.mesh, author, digest, refusal.reason)
                answer |= {"receipt": receipt}
        else:
            receipt = make_receipt(home.key, home.mesh, author, digest)
            answer |= {"type": "client_ack", "receipt": receipt}
        self._send(answer)

    def _take(self, envelope: Map, header: Map, digest: bytes) -> None:
        """Returns when the message is in the inbox, on disk: now, or since an earlier push."""
        home, now = self.home, now_ms()
        author, sent_at, expires_at = header["from"]["key"], header["sent_at"], header["expires_at"]
        row_name = f"{author.hex()}/{header['id']}"
        known = home.data["inbox"].get(row_name)

        if header["target"] != {"kind": "member", "key": home.key.public}:
            raise Refusal("unsupported", receipt=False)
        try:
            verify_envelope(home.mesh, envelope, author)
        except Refused as error:
            raise Refusal("untrusted_sender", receipt=False) from error
        if sent_at > now + CLOCK_MS:
            raise Refusal("its time lies ahead of my clock", permanent=False)
        if not sent_at < expires_at <= sent_at + 30 * DAY_MS:
            raise Refusal("unsupported")
        if expires_at <= now:
            if known is not None and known["hash"] == digest:
                return  # it came in time, and the ack was lost
            raise Refusal("expired")
        if header["suite"] != "box" or header["channel"] != "dm":
            raise Refusal("unsupported")
        self._prove(author, envelope)
        try:
            content = open_content(home.key, envelope, author)
        except Refused as error:
            raise Refusal("undecryptable") from error

        if known is not None:
            if known["hash"] == digest:
                return
            raise Refusal("conflict")
        home.data["inbox"][row_name] = {
            "hash": digest,
            "author": author,
            "id": header["id"],
            "type": content["type"],
            "content": content["content"],
            "expires_at": expires_at,
            "read": False,
        }
        home.save()

    def unread(self) -> Iterator[Message]:
        """The inbox's unread messages. Each is marked as read once the caller comes back for more."""
        for row in list(self.home.data["inbox"].values()):
            if not row["read"]:
                yield Message(row["author"], row["id"], row["type"], row["content"])
                row["read"] = True
                self.home.save()

    def _prove(self, author: bytes, envelope: Map) -> None:
        """The author is a member: known from an earlier chain, or by the chain that came along."""
        if author in self._authors:
            return
        if "proof" not in envelope:
            raise Refusal("unknown author", permanent=False)
        try:
            chain = mapping(mapping(envelope, "proof"), "chain")
            member = verify_chain(chain, self.home.mesh)
        except Refused as error:
            raise Refusal("untrusted_sender") from error
        if member.key != author:
            raise Refusal("untrusted_sender")
        self._authors[author] = member

    def name_of(self, key: bytes) -> str:
        return self._authors[key].name if key in self._authors else key.hex()[:16]


__all__ = [
    "Client",
    "ConnectionClosed",
    "Home",
    "Member",
    "Message",
    "Peer",
    "Refused",
    "ServerError",
    "join",
    "now_ms",
]
