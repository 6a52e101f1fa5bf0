#!/bin/sh
# Build the stress programs in a temporary folder and run them: stress (torn reads), reuse (slots that are
# removed and used again).
#
#   run.sh plain|asan|tsan [SECONDS [READERS [POOLS]]]   threads; asan includes undefined behaviour
#   run.sh control [SECONDS [READERS [POOLS]]]           readers that skip the check: must see wrong reads
#   run.sh processes [READS [READERS [POOLS]]]           reader processes, READS each, on /dev/shm
#
# CC chooses the compiler (gcc), PROGRAMS which of the two. Exits 0 when the runs showed what they must.
set -eu

mode=${1:-plain}
first=${2:-}
readers=${3:-2}
pools=${4:-16}
programs=${PROGRAMS:-stress reuse}
here=$(cd "$(dirname "$0")" && pwd)
core=$here/../../arena/native
build=$(mktemp -d)
shared=
writer=
finish() {
    [ -z "$writer" ] || kill "$writer" 2>/dev/null || true
    [ -z "$shared" ] || rm -f "$shared" "$shared.building"
    rm -rf "$build"
}
trap finish EXIT
trap 'exit 1' INT TERM

case $mode in
plain | control | processes) flags="-O3" ;;
asan) flags="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
tsan) flags="-O1 -g -fsanitize=thread" ;;
*) sed -n '2,9p' "$0"; exit 2 ;;
esac

run_processes() { # program
    shared=$(mktemp -u /dev/shm/psa-stress-XXXXXX)
    "$build/$1" writer "$shared" 3600 "$pools" &
    writer=$!
    pids=
    i=0
    while [ $i -lt "$readers" ]; do
        "$build/$1" reader "$shared" "${first:-1000000}" &
        pids="$pids $!"
        i=$((i + 1))
    done
    for pid in $pids; do
        wait "$pid" || { echo "reader $pid of $1 failed" >&2; exit 1; }
    done
    kill -0 "$writer" || { echo "writer of $1 ended early" >&2; exit 1; }
    kill "$writer"
    wait "$writer" 2>/dev/null || true
    writer=
    rm -f "$shared"
    shared=
}

for program in $programs; do
    # shellcheck disable=SC2086
    "${CC:-gcc}" -std=gnu11 -fno-strict-aliasing -Wall -Wextra -Werror $flags -pthread \
        -o "$build/$program" "$here/$program.c" "$core"/[!_]*.c -lm
    echo "-- $program $mode"
    case $mode in
    plain | asan | tsan)
        TSAN_OPTIONS=halt_on_error=1 "$build/$program" threads "${first:-5}" "$readers" "$pools" ;;
    control) "$build/$program" unchecked "${first:-5}" "$readers" "$pools" ;;
    processes) run_processes "$program" ;;
    esac
done
