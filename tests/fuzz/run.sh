#!/bin/sh
# Build a fuzz target in a temporary folder and run it, from inputs made of tests/data and those kept here.
#
#   run.sh NAME SECONDS    decode, apply, takeover, readers, checkpoint
#
# CC chooses the compiler (clang, for libFuzzer with address and undefined-behaviour sanitizers), PYTHON the
# interpreter with the package installed, CORPUS a folder whose inputs are used and added to. Exits 0 when nothing was
# found; else the input is in tests/fuzz, to be kept under kept/NAME once it is mended.
set -eu

name=${1:?NAME}
seconds=${2:?SECONDS}
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$here/$name.c" ] || [ "$name" = checkpoint ] || { sed -n '2,8p' "$0"; exit 2; }
[ "$name" != checkpoint ] || exec "${PYTHON:-python3}" "$here/checkpoint.py" "$seconds"

core=$here/../../arena/native
data=$here/../data
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
trap 'exit 1' INT TERM
corpus=${CORPUS:-$build/corpus}
mkdir -p "$corpus"
length=400
if [ "$name" = decode ]; then
    length=4096
    for file in "$data"/wire/golden/*.bin "$data"/wire/malformed/*.bin; do
        for dialect in 0 1 2 3 4; do
            seed=$corpus/$(basename "$file" .bin)-$dialect
            { printf "\\00$dialect\\021\\007"; head -c 4000 "$file"; } >"$seed"
        done
    done
fi
# Comparisons are worth following where an input must guess words of a format.
tracing=-fno-sanitize-coverage=trace-cmp
[ "$name" != decode ] || tracing=
# shellcheck disable=SC2086
"${CC:-clang}" -std=gnu11 -fno-strict-aliasing -Wall -Wextra -Werror -Wno-unused-function -O2 -gline-tables-only $tracing \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o "$build/$name" "$here/$name.c" "$core"/[!_]*.c -lm
kept=$here/kept/$name
[ ! -d "$kept" ] || "$build/$name" "$kept"/* 2>"$build/kept.txt" || { cat "$build/kept.txt"; exit 1; }
"$build/$name" -max_len=$length -timeout=10 -entropic=0 -max_total_time="$seconds" -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$here/$name-" "$corpus" >"$build/log.txt" 2>&1 || { tail -n 60 "$build/log.txt"; exit 1; }
grep -E "number_of_executed_units|average_exec_per_sec|peak_rss" "$build/log.txt" | sed "s/^/$name /"
