#!/usr/bin/env bash
# 10,000 allocations of 10,000 clients on one server, over real sockets on loopback: how long they take to
# make, what passes through them, and the server's memory. Usage: turn/bench/many.sh [COUNT]
# Needs a limit of open files above COUNT.
set -euo pipefail
cd "$(dirname "$0")/../.."
count=${1:-10000} secret=benchmark
ulimit -n $((count + 1000))
cargo build --quiet --release -p meshwire-turn --examples
target=${CARGO_TARGET_DIR:-target}/release/examples
work=$(mktemp -d)
server=
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
mkfifo "$work/stdin"
"$target/serve" "$secret" 127.0.0.1:0 <"$work/stdin" >"$work/serve" 2>&1 &
server=$!
exec 9>"$work/stdin"
until [ -s "$work/serve" ]; do sleep 0.1; done
memory() { awk '/^VmRSS/ { print $2 }' "/proc/$server/status"; }
before=$(memory)
"$target/many" "$(head -n 1 "$work/serve")" "$secret" "$count"
after=$(memory)
echo "server: $before KiB before, $after KiB with them ($(((after - before) * 1024 / count)) B each)"
