#!/usr/bin/env bash
# Appends the lines of a file to a new log, reads them back and compares.
# Run with: examples/roundtrip.sh FILE [COMMAND]   (a built prkdb; without it one is built)
set -euo pipefail
[ -f "${1-}" ] || { echo "usage: $0 FILE [COMMAND] (a file of lines; a built prkdb)" >&2; exit 2; }
file=$(realpath "$1")
prkdb=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
if [ -z "$prkdb" ]; then
    cargo build --quiet --release --features cli
    prkdb=$target/release/prkdb
fi
# Beside the build, so that the log is on a disk even where /tmp is memory.
mkdir -p "$target"
dir=$(mktemp -d "$target/roundtrip.XXXXXX")
trap 'rm -rf "$dir"' EXIT

"$prkdb" append "$dir/log" --json <"$file"
"$prkdb" verify "$dir/log"
# A record is a line without its newline; cat puts one after each, also after the last.
"$prkdb" cat "$dir/log" | cmp - <(cat "$file"; [ -z "$(tail -c 1 "$file" | tr -d '\n')" ] || echo)
"$prkdb" stat "$dir/log"
echo "same: every line of $file came back"
