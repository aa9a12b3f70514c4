#!/bin/sh
# What one guest of the demo runs, in the folder of the demo's programs:
#
#     guest.sh SIDE VSHMEM REGION FILE PEER BUSY BLOCK
#
# SIDE is 0 or 1, PEER the address of the other guest, BUSY and BLOCK
# how many turns are taken. Both sides run the same steps; results are JSON
# lines, and a line names each step before it starts.
set -eu
side=$1 vshmem=$2 region=$3 file=$4 peer=$5 busy=$6 block=$7
path=/etc/passwd

step() { echo "{\"step\":\"$1\"}"; }
# A program under vshmem.
run() { "$vshmem" run --region "$region" -- "$@"; }

step handshake
if [ "$side" = 0 ]; then run ./handshake a $path; else run ./handshake b $path; fi

step transfer
if [ "$side" = 0 ]; then run ./transfer send "$file" $path; else run ./transfer receive $path; fi

for size in 8 64 1000; do
    step "sync, words, busy, $size bytes"
    run ./sync "$side" $path word --busy $size "$busy"
    step "sync, semop, busy, $size bytes"
    VSHMEM_SPIN_US=1000 run ./sync "$side" $path semop --busy $size "$busy"
    step "sync, semop, blocking, $size bytes"
    VSHMEM_SPIN_US=0 run ./sync "$side" $path semop --block $size "$block"
done

port=7000
for protocol in tcp udp; do
    for size in 8 64 1000; do
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
