#!/usr/bin/env bash
# TURN throughput beside coturn's in the same run: 1,200 B datagrams through one allocation, loopback.
# Wants Debian's package coturn. Usage: turn/bench/compare.sh [ROUNDS] [SECONDS]
# Prints datagrams per second of each round and the ratio of the medians; exits non-zero below 0.9.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5} seconds=${2:-2}
secret=benchmark
command -v turnserver >/dev/null || { echo "turnserver is not here: install Debian's package coturn"; exit 2; }
cargo build --quiet --release -p meshwire-turn --examples
target=${CARGO_TARGET_DIR:-target}/release/examples
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

turnserver -n --no-cli --no-tls --no-dtls --listening-ip 127.0.0.1 --listening-port 23478 \
  --relay-ip 127.0.0.1 --allow-loopback-peers --use-auth-secret --static-auth-secret "$secret" \
  --realm meshwire --min-port 40000 --max-port 40999 --pidfile "$work/pid" --log-file "$work/log" \
  --userdb "$work/db" >"$work/out" 2>&1 &
pids+=($!)
mkfifo "$work/stdin"
"$target/serve" "$secret" 127.0.0.1:23479 <"$work/stdin" >"$work/serve" 2>&1 &
pids+=($!)
exec 9>"$work/stdin"
sleep 1 # coturn says nowhere that it listens

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
status=0
for mode in plain joined; do
  : >"$work/coturn"; : >"$work/ours"
  for _ in $(seq "$rounds"); do
    "$target/load" 127.0.0.1:23478 "$secret" "$mode" "$seconds" >>"$work/coturn"
    "$target/load" 127.0.0.1:23479 "$secret" "$mode" "$seconds" >>"$work/ours"
  done
  theirs=$(median <"$work/coturn") ours=$(median <"$work/ours")
  ratio=$(awk "BEGIN { printf \"%.2f\", $ours / $theirs }")
  echo "$mode: meshwire $ours/s, coturn $theirs/s, ratio $ratio (rounds:" \
    "meshwire $(cut -d' ' -f1 "$work/ours" | xargs), coturn $(cut -d' ' -f1 "$work/coturn" | xargs);" \
    "lost: meshwire $(awk '{ l += $2 } END { print l }' "$work/ours")," \
    "coturn $(awk '{ l += $2 } END { print l }' "$work/coturn"))"
  awk "BEGIN { exit !($ratio >= 0.9) }" || status=1
done
exit $status
