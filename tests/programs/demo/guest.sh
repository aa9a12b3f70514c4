#!/bin/sh
# What one guest of the demo runs, in the folder of the demo's programs:
#
#     guest.sh SIDE VSHMEM REGION FILE BUSY BLOCK
#
# SIDE is 0 or 1, BUSY and BLOCK are how many turns are taken. Both sides run
# the same steps; results are JSON lines, and one names each step before it
# starts.
set -eu
side=$1 vshmem=$2 region=$3 file=$4 busy=$5 block=$6
path=/etc/passwd

step() { echo "{\"step\":\"$1\"}"; }
# A program under vshmem.
run() { "$vshmem" run --region "$region" -- "$@"; }
# The same, and it sleeps whenever it must wait: what a wake-up costs.
run_asleep() { VSHMEM_SPIN=0 "$vshmem" run --region "$region" -- "$@"; }

echo "{\"guest\":\"Linux $(uname -r)\"}"

step handshake
if [ "$side" = 0 ]; then run ./handshake a $path; else run ./handshake b $path; fi

step transfer
if [ "$side" = 0 ]; then run ./transfer send "$file" $path; else run ./transfer receive $path; fi

# The guests of a network are 10.77.0.1 and up, as they come.
own=$(grep -ow '10\.77\.0\.[12]' /proc/net/fib_trie | head -n 1)
if [ "$own" = 10.77.0.1 ]; then peer=10.77.0.2; else peer=10.77.0.1; fi
port=7000

# What is compared runs close together: a disturbance of the machine meets both.
for size in 8 64 1000; do
    step "sync, words, busy, $size bytes"
    run ./sync "$side" $path word --busy $size "$busy"
    step "sync, semop, busy, $size bytes"
    run ./sync "$side" $path semop --busy $size "$busy"
    step "sync, semop, asleep, $size bytes"
    run_asleep ./sync "$side" $path semop --block $size "$block"
    for protocol in tcp udp; do
        step "$protocol, $size bytes"
        port=$((port + 1))
        if [ "$side" = 0 ]; then
            ./socket client $protocol "$peer" $port $size "$block"
        else
            ./socket server $protocol $port
        fi
    done
done

step death
if [ "$side" = 0 ]; then run ./death watcher $path; else run ./death holder $path; fi
