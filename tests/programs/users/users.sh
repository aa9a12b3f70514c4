# What the scripts of this folder share. Each runs one unmodified program of the distribution
# under vshmem, on the host or in a guest, and fails aloud. From outside come
#   VSHMEM  the command
#   REGION  the region's name; empty for the user's own endpoint
#   ORACLE  not empty where VSHMEM stands for the kernel itself, to try a script out
#   FRESH   not empty in a name space of the script's own
#   SMALL   not empty where instructions are emulated: less of everything

set -eu

work=$(mktemp -d)
chmod 755 "$work"
trap 'ended $?' EXIT
trap 'exit 1' INT TERM HUP

say() {
    echo "$*"
}

fail() {
    echo "$0: $*" >&2
    exit 1
}

# Replaced by a script that has something to end.
cleanup() {
    :
}

ended() {
    cleanup
    if [ "$1" != 0 ]; then
        tail -n 40 "$work"/*.log >&2 || true
    fi
    rm -rf "$work"
    exit "$1"
}

run() {
    if [ -n "${REGION:-}" ]; then
        "$VSHMEM" run --region "$REGION" -- "$@"
    else
        "$VSHMEM" run -- "$@"
    fi
}

# Under `run`, which starts an own endpoint that has left because nobody wanted it.
ipcs() {
    run "$VSHMEM" ipcs "$@"
}

# The lines of a listing that are objects, of the kinds that the arguments name: all without any.
objects() {
    listing=$(ipcs "$@") || return
    echo "$listing" | grep '^0x' || true
}

count() {
    listed=$(objects "$@") || return
    echo "$listed" | grep -c . || true
}

# Waits until the command succeeds; what is waited for gives no event.
await() {
    late=$(($(date +%s) + 60))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$late" ] || fail "in vain: $*"
        sleep 0.1
    done
}

# Fails when the kernel's own System V IPC has more objects than at the start: something went
# past vshmem. In a name space of the script's own also when it ever had one: ids are given out in
# turn, from 0.
kernel_objects() {
    cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | grep -cv key || true
}

kernel_before=$(kernel_objects)

nothing_in_the_kernel() {
    [ -z "${ORACLE:-}" ] || return 0
    [ "$(kernel_objects)" = "$kernel_before" ] || fail "the kernel has objects of its own"
}

nothing_ever_in_the_kernel() {
    nothing_in_the_kernel
    [ -n "${FRESH:-}" ] || return 0
    for kind in '-M 1' '-S 1' -Q; do
        # shellcheck disable=SC2086
        id=$(ipcmk $kind | awk '{ print $NF }')
        [ "$id" = 0 ] || fail "the kernel has had $id objects: ipcmk $kind"
    done
    ipcrm -m 0 -s 0 -q 0
}

nothing_left() {
    await nothing
    nothing_in_the_kernel
}

nothing() {
    [ "$(count)" = 0 ]
}

[ "$(count)" = 0 ] || fail "the region is not empty at the start"
