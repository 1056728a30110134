#!/usr/bin/env bash
# Appends the lines of a file to a new log, reads them back and compares: examples/roundtrip.sh FILE
set -euo pipefail
[ -f "${1-}" ] || { echo "usage: $0 FILE (a file of lines)" >&2; exit 2; }
file=$(realpath "$1")
cd "$(dirname "$0")/.."

cargo build --quiet --release --features cli
prkdb=target/release/prkdb
# Beside the build, so that the log is on a disk even where /tmp is memory.
dir=$(mktemp -d target/roundtrip.XXXXXX)
trap 'rm -rf "$dir"' EXIT

"$prkdb" append "$dir/log" --json <"$file"
"$prkdb" verify "$dir/log"
# A record is a line without its newline; cat puts one after each, also after the last.
"$prkdb" cat "$dir/log" | cmp - <(cat "$file"; [ -z "$(tail -c 1 "$file" | tr -d '\n')" ] || echo)
"$prkdb" stat "$dir/log"
echo "same: every line of $file came back"
