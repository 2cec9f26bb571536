#!/usr/bin/env python3
"""Records what coturn's clients and the TURN server say to each other over UDP, for the corpora.

    cargo build -p meshwire-turn --example serve
    python3 fuzz/record.py target/debug/examples/serve

Writes `recorded-…` files into fuzz/corpora/stun and fuzz/corpora/demux: of each kind of message and
direction the first two. Wants Debian's package coturn; loopback only.
"""

import pathlib
import select
import socket
import subprocess
import sys

HERE = pathlib.Path(__file__).parent / "corpora"
KEPT = 2


def main(serve):
    server = subprocess.Popen([serve, "secret"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    host, port = server.stdout.readline().strip().rsplit(":", 1)
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.bind(("127.0.0.1", 0))
    near = str(front.getsockname()[1])
    clients = [
        ["turnutils_stunclient", "-p", near, "127.0.0.1"],
        ["turnutils_uclient", "-c", "-y", "-n", "3", "-m", "2", "-l", "40", "-p", near,
         "-u", "alice", "-W", "secret", "127.0.0.1"],
        ["turnutils_uclient", "-c", "-y", "-s", "-n", "3", "-m", "2", "-l", "40", "-p", near,
         "-u", "alice", "-W", "secret", "127.0.0.1"],
    ]
    kept = {}
    for client in clients:
        run = subprocess.Popen(client, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        backs = {}
        while run.poll() is None:
            for ready in select.select([front, *backs.values()], [], [], 0.1)[0]:
                data, addr = ready.recvfrom(2048)
                keep(kept, "to" if ready is front else "from", data)
                if ready is front:
                    if addr not in backs:
                        backs[addr] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                        backs[addr].connect((host, int(port)))
                    backs[addr].send(data)
                else:
                    there = next(a for a, s in backs.items() if s is ready)
                    front.sendto(data, there)
    server.stdin.close()
    server.wait()
    for name, data in kept.items():
        for corpus in ("stun", "demux"):
            (HERE / corpus / f"recorded-{name}").write_bytes(data)
    print(f"{len(kept)} messages")


def keep(kept, way, data):
    kind = "channel" if data[0] >= 0x40 else data[:2].hex()
    for n in range(KEPT):
        if data == kept.setdefault(f"{way}-{kind}-{n}", data):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
