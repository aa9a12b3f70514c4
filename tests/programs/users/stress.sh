#!/bin/sh
# stress-ng, which checks what it reads back.

. "${0%/*}/users.sh"

workers=${SMALL:+1}
workers=${workers:-3}
seconds=${SMALL:+20}
seconds=${seconds:-8}

say "stress-ng"
run stress-ng --shm-sysv "$workers" --sem-sysv "$workers" --msg "$workers" --verify \
    --shm-sysv-bytes 1M --timeout "$seconds" --metrics-brief --temp-path "$work" \
    >"$work/stress.log" 2>&1 &
stressing=$!
cleanup() {
    kill "$stressing" 2>/dev/null || true
}
# A segment lives for too short a time to be seen.
seen() {
    ipcs >"$work/listing" && for kind in Queues Semaphore; do
        sed -n "/$kind/,/^\$/p" "$work/listing" | grep -q '^0x' || return 1
    done
}
await seen
nothing_in_the_kernel
wait "$stressing" || fail "stress-ng found errors, or ended with one"
cleanup() {
    :
}
for stressor in shm-sysv sem-sysv msg; do
    awk -v name="$stressor" '$4 == name && $5 > 0 { n++ } END { exit n < 1 }' "$work/stress.log" ||
        fail "$stressor did nothing"
done
# Ids are given out in turn: a new one tells that there were others.
made=$(run ipcmk -M 100 | awk '{ print $NF }')
run ipcrm -m "$made"
[ $((made & 0x7ffffff)) -gt 8 ] || fail "no segment was made: the next is $made"
nothing_left
grep metrc "$work/stress.log" | grep -v nanosecs
nothing_ever_in_the_kernel
say "done"
