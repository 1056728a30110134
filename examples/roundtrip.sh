#!/usr/bin/env bash
# Appends the lines of a file to a new log, reads them back and compares: examples/roundtrip.sh FILE
set -euo pipefail
file=$(realpath "${1:?usage: $0 FILE}")
cd "$(dirname "$0")/.."

cargo build --quiet --release --features cli
prkdb=target/release/prkdb
# Beside the build, so that the log is on a disk even where /tmp is memory.
dir=$(mktemp -d target/roundtrip.XXXXXX)
trap 'rm -rf "$dir"' EXIT

"$prkdb" append "$dir/log" --json <"$file"
"$prkdb" verify "$dir/log"
"$prkdb" cat "$dir/log" | cmp - "$file"
"$prkdb" stat "$dir/log"
echo "same: every line of $file came back"
