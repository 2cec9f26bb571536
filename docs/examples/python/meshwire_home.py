"""What a client keeps on disk: its key, its place in the mesh, its outbox and its inbox.

One MessagePack file, written anew at every change. That is simple, not fast: a real client uses a
database. What matters is *when* it is written, which the callers say.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from meshwire_encoding import Map, Refused, decode_msgpack, encode_msgpack
from meshwire_protocol import CLOCK_MS, Invite, SecretKey


class Home:
    """`data` has these fields:

    - `seed`, `base`, `mesh`, `broker`: the secret key, and the invite link's facts;
    - `chain`: what the broker answered to the claim; absent until then;
    - `instance`, `counter`: the outbox's random name, and the number of the last hello;
    - `seqs`: the last `seq` of each counter, named `instance/target/priority`;
    - `outbox`: id to `{envelope, to, hash, state, seq, counter, expires_at}`;
    - `inbox`: `author/id` to `{hash, author, id, type, content, expires_at, read}`;
    - `names`: name to the key that it was first seen with.
    """

    def __init__(self, path: Path, data: Map) -> None:
        self.path, self.data = path, data
        self.key = SecretKey(data["seed"])
        self.mesh: bytes = data["mesh"]

    @classmethod
    def load(cls, path: Path) -> Home:
        return cls(path, decode_msgpack(path.read_bytes()))

    @classmethod
    def create(cls, path: Path, invite: Invite) -> Home:
        data: Map = {
            "seed": secrets.token_bytes(32),
            "base": invite.base,
            "mesh": invite.mesh,
            "broker": invite.broker,
            "instance": secrets.token_bytes(16),
            "counter": 0,
            "seqs": {},
            "outbox": {},
            "inbox": {},
            "names": {},
        }
        home = cls(path, data)
        home.save()
        return home

    def save(self) -> None:
        """On disk when this returns: acks and sends rely on it."""
        temporary = self.path.with_name(self.path.name + ".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(encode_msgpack(self.data))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def next_hello(self) -> int:
        self.data["counter"] += 1
        self.save()
        return int(self.data["counter"])

    def new_instance(self) -> None:
        """After `stale_instance`: this home is a copy. `seq` begins anew, signed envelopes stay."""
        self.data["instance"] = secrets.token_bytes(16)
        self.data["counter"] = 0
        self.save()

    def next_seq(self, counter: str) -> tuple[int, int]:
        """The next `seq` of a counter, and its `floor` (section 14)."""
        seq = self.data["seqs"].get(counter, 0) + 1
        self.data["seqs"][counter] = seq
        waiting = [
            row["seq"]
            for row in self.data["outbox"].values()
            if row["counter"] == counter and row["state"] in ("queued", "relayed")
        ]
        return seq, min([*waiting, seq])

    def forget(self, now: int) -> None:
        """Says `expired` where no receipt came in time, and drops the names that nothing can repeat."""
        for row in self.data["outbox"].values():
            if row["state"] in ("queued", "relayed") and row["expires_at"] <= now:
                row["state"] = "expired"
        inbox = self.data["inbox"]
        self.data["inbox"] = {n: r for n, r in inbox.items() if r["expires_at"] + CLOCK_MS > now}

    def pin_name(self, name: str, key: bytes) -> None:
        if self.data["names"].setdefault(name, key) != key:
            raise Refused(f"{name} was another key when it was first seen: ask them by voice")
