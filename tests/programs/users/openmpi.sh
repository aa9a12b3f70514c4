#!/bin/sh
# Open MPI with its ranks' common memory from System V: its component removes each segment at once
# and lets the other ranks attach by id.

. "${0%/*}/users.sh"

# RING is the program, compiled by whoever starts this.
ranks=3
rounds=${SMALL:+50}
rounds=${rounds:-2000}
export HOME="$work" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Nothing but the machine itself: no launcher over the network, no look for adapters.
export OMPI_MCA_plm=isolated OMPI_MCA_btl_base_warn_component_unused=0 OMPI_MCA_shmem=sysv
export UCX_TLS=self,sysv
cd "$work"

# Runs the ring with the given options, and lists the segments meanwhile.
ring() {
    rm -f during
    run mpirun --oversubscribe --bind-to none -np "$ranks" "$@" \
        "$RING" "$rounds" "'$VSHMEM' ipcs -m >'$work/during'" >mpirun.log 2>&1 ||
        fail "mpirun $* failed"
    grep -q "$ranks ranks agree" mpirun.log || fail "the ranks do not agree"
    # Removed at once, and attached by several ranks.
    awk '$1 ~ /^0x/ && $6 >= 2 { n++ } END { exit n < 1 }' during ||
        fail "no segment was shared: $(cat during)"
    nothing_left
}

say "btl vader"
ring --mca pml ob1 --mca btl self,vader

# These overwrite the code of shmat, shmdt, munmap and others with jumps to their own, which issue
# the system calls themselves.
any="--mca pml ucx --mca osc ^ucx --mca opal_common_ucx_tls any --mca opal_common_ucx_devices any"
say "pml ucx, its own patches"
# shellcheck disable=SC2086
ring $any --mca opal_common_ucx_opal_mem_hooks 0
say "pml ucx, memory patcher"
# shellcheck disable=SC2086
ring $any --mca opal_common_ucx_opal_mem_hooks 1
nothing_ever_in_the_kernel
say "done"
