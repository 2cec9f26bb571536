"""A command line around meshwire_client: see README.md.

    python example.py join LINK --name NAME --home FILE
    python example.py peers --home FILE
    python example.py send PEER TEXT --wait --home FILE
    python example.py listen --count 1 --home FILE
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from meshwire_client import Client, ConnectionClosed, Home, Member, Refused, ServerError, join

NO_RETURN = {4001, 4002, 4004, 4010}
"""Close codes after which a client does not come back by itself (section 18)."""


def find(client: Client, wanted: str) -> Member:
    """A member by its name, or by the start of its key in hex."""
    members = [peer.member for peer in client.peers()]
    named = [m for m in members if m.name == wanted]
    found = named or [m for m in members if m.key.hex().startswith(wanted)]
    if len(found) != 1:
        names = ", ".join(m.name for m in members)
        raise Refused(f"{wanted} is {len(found)} members; there are: {names}")
    return found[0]


def listen(home: Home, encoding: str, count: int | None) -> None:
    """Prints what comes in, and comes back after every lost connection (section 1)."""
    cap, shown = 1.0, 0
    while count is None or shown < count:
        wait_at_least = 0.0
        try:
            with Client(home, encoding) as client:
                cap = 1.0
                while count is None or shown < count:
                    client.step(timeout=60)
                    wait_at_least = client.come_back_after
                    for message in client.unread():
                        text = message.content.decode(errors="replace")
                        print(f"{client.name_of(message.author)}: {text}", flush=True)
                        shown += 1
        except ConnectionClosed as closed:
            if closed.rcvd and closed.rcvd.code in NO_RETURN:
                raise
        except ServerError as error:
            # After `stale_instance` the home has a new instance: the next hello is good.
            if error.permanent and error.code != "stale_instance":
                raise
            wait_at_least = error.retry_after
        except OSError as error:
            print(f"no connection: {error}", file=sys.stderr)
        if count is None or shown < count:
            time.sleep(max(wait_at_least, random.uniform(0, cap)))
            cap = min(2 * cap, 30.0)


def main() -> int:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", type=Path, required=True, metavar="FILE")
    common.add_argument("--encoding", choices=["msgpack", "json"], default="msgpack")
    parser = argparse.ArgumentParser(description="a meshwire client in Python")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("join", parents=[common])
    verb.add_argument("link")
    verb.add_argument("--name", required=True)
    verbs.add_parser("peers", parents=[common])
    verb = verbs.add_parser("send", parents=[common])
    verb.add_argument("peer")
    verb.add_argument("text")
    verb.add_argument("--wait", action="store_true", help="for the recipient's receipt, 30 s at most")
    verb = verbs.add_parser("listen", parents=[common])
    verb.add_argument("--count", type=int, help="end after so many messages")
    args = parser.parse_args()

    if args.verb == "join":
        home = join(args.link, args.name, args.home)
        print(f"joined as {args.name}, key {home.key.public.hex()[:16]}")
        return 0
    home = Home.load(args.home)
    if args.verb == "listen":
        listen(home, args.encoding, args.count)
        return 0
    with Client(home, args.encoding) as client:
        if args.verb == "peers":
            for peer in client.peers():
                member, state = peer.member, "online" if peer.online else "offline"
                print(f"{member.key.hex()[:16]}  {member.role:6}  {state:7}  {member.name}")
            return 0
        id = client.send(find(client, args.peer), args.text)
        delivered = args.wait and client.wait_delivered(id, 30)
        print(f"{id} {client.state(id)}")
        return 0 if delivered or not args.wait else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Refused, ServerError, ConnectionClosed, TimeoutError, OSError) as error:
        sys.exit(f"error: {error}")
