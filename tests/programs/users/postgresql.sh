#!/bin/sh
# PostgreSQL with all its shared memory from System V: it counts on nattch to keep two servers
# from one set of files, and on what is left after the death of a process being right.

. "${0%/*}/users.sh"

bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
data=$work/data
if [ -n "${SMALL:-}" ]; then
    rows=20000 load='-t 10'
else
    rows=100000 load='-T 3'
fi

# It refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    chown postgres "$work"
    as() {
        setpriv --reuid postgres --regid postgres --init-groups \
            env HOME="$work" LC_ALL=C.UTF-8 TZ=UTC PGHOST="$work" PGUSER=postgres "$@"
    }
else
    as() {
        env LC_ALL=C.UTF-8 TZ=UTC PGHOST="$work" PGUSER=postgres "$@"
    }
fi
cd "$work"

under() {
    if [ -n "${REGION:-}" ]; then
        as "$VSHMEM" run --region "$REGION" -- "$@"
    else
        as "$VSHMEM" run -- "$@"
    fi
}

sql() {
    as psql -X -q -A -t -v ON_ERROR_STOP=1 -d postgres -c "$1"
}

start() {
    under "$bin/pg_ctl" -D "$data" -l "$work/server.log" -w -t 120 start >"$work/start.log" 2>&1
}

cleanup() {
    # Whatever runs here is ours: nobody else knows the folder.
    as "$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1 || true
    [ -z "${held:-}" ] || kill -9 "$held" 2>/dev/null || true
}

postmaster() {
    head -n 1 "$data/postmaster.pid"
}

# Every process of the server has the main segment attached, by fork. The file names its id.
attachments_are_right() {
    main=$(awk 'NR == 7 { print $2 }' "$data/postmaster.pid")
    processes=$(($(ps -o pid= --ppid "$(postmaster)" | wc -l) + 1))
    [ "$(objects -m | awk -v id="$main" '$2 == id { print $6 }')" = "$processes" ]
}

backend_of() {
    sql "select pid from pg_stat_activity where query like '%$1%'
        and backend_type = 'client backend' and pid <> pg_backend_pid()" | grep .
}

say "initdb"
under "$bin/initdb" -D "$data" -U postgres -A trust -N --no-locale -E UTF8 >"$work/initdb.log" 2>&1
nothing_left
cat >>"$data/postgresql.conf" <<CONF
shared_memory_type = sysv
dynamic_shared_memory_type = sysv
listen_addresses = ''
unix_socket_directories = '$work'
shared_buffers = 16MB
max_connections = 20
fsync = off
autovacuum = off
force_parallel_mode = on
parallel_setup_cost = 0
parallel_tuple_cost = 0
min_parallel_table_scan_size = 0
max_parallel_workers_per_gather = 2
CONF

say "start"
start
idle=$(count -m)
[ "$idle" -ge 2 ] || fail "the server has $idle segments: not its main and its dynamic one"
await attachments_are_right
nothing_in_the_kernel

say "pgbench"
as "$bin/pgbench" -i -q -s 1 postgres >"$work/pgbench.log" 2>&1
# shellcheck disable=SC2086
as "$bin/pgbench" -n -c 4 -j 2 $load postgres >>"$work/pgbench.log" 2>&1
grep -q 'number of failed transactions: 0 ' "$work/pgbench.log" || fail "pgbench failed"
[ "$(sql 'select sum(abalance) from pgbench_accounts')" = \
    "$(sql 'select sum(delta) from pgbench_history')" ] || fail "the sums differ"

say "a parallel query"
# While it runs: what it writes has not been read to its end when the objects are listed.
sql "copy (select aid, filler from pgbench_accounts where aid <= $rows)
    to program 'head -c 1 >/dev/null; \"$VSHMEM\" ipcs -m >$work/parallel; cat >/dev/null'"
during=$(grep -c '^0x' "$work/parallel")
[ "$during" -gt "$idle" ] || fail "a parallel query has no segment of its own: $during"
joined='select count(*), sum(a.aid) from pgbench_accounts a join pgbench_accounts b using (aid)'
parallel=$(sql "set enable_mergejoin = off; set enable_nestloop = off; $joined")
alone=$(sql "set max_parallel_workers_per_gather = 0; set force_parallel_mode = off; $joined")
[ "$parallel" = "$alone" ] || fail "a parallel join gives $parallel, a serial one $alone"
[ "$(count -m)" = "$idle" ] || fail "parallel queries leave segments"

say "kill -9 of a backend"
# A worker sleeps for it: it has a dynamic segment, too.
sql "select pg_sleep(600), 'victim'" >/dev/null 2>&1 &
client=$!
await backend_of victim
kill -9 "$(backend_of victim)"
if wait "$client"; then fail "the query of a killed backend has succeeded"; fi
await sql 'select 1'
[ "$(count -m)" = "$idle" ] || fail "$(count -m) segments after the recovery, $idle before"
await attachments_are_right
[ "$(sql 'select count(*) from pgbench_accounts')" = 100000 ] || fail "rows are lost"

say "kill -9 of the postmaster"
sql "select pg_sleep(600), 'holder'" >/dev/null 2>&1 &
await backend_of holder
held=$(backend_of holder)
server=$(postmaster)
# Stopped, it cannot notice that the postmaster is gone: it stays attached.
kill -STOP "$held"
kill -9 "$server"
gone() {
    ! kill -0 "$server" 2>/dev/null
}
await gone
if start; then fail "a second server started over the same files"; fi
grep -q 'pre-existing shared memory block' "$work/server.log" ||
    fail "the refusal does not name what is still attached"
kill -9 "$held"
held=
await start
[ "$(count -m)" = "$idle" ] || fail "$(count -m) segments after the restart, $idle before"
await attachments_are_right

say "stop"
as "$bin/pg_ctl" -D "$data" -m fast -w stop >/dev/null
nothing_left
nothing_ever_in_the_kernel
say "done"
