#!/usr/bin/env bash
# Makes calls fail and kills the program: it must not crash, must not say 0 without a whole result, and must leave nothing half.
#   check_faults.sh PROGRAM FAULT_LIBRARY MODEL      quick; with SG_TORTURE=1 every call and 200 kills (./dev torture)
set -uo pipefail
program=$(realpath "$1") library=$(realpath "$2") model=$(realpath "$3")
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
export OPENBLAS_NUM_THREADS=1 XDG_CACHE_HOME=$here/home
bad=0 tried=0
complain() { echo "check_faults: $*"; bad=1; }
faulty() { LD_PRELOAD=$library "$@"; }
common="--max-length 256 --num-samples 1 --threads 1 -q"
evaluation="$program eval $model $common --topk .5 --cache cache --db f.db"
cells="$program sweep $model $common --cache none --shard none --method window:64,window:65,window:66,topk:.3"
points() { # COUNT: all of them, or five
    if [ -n "${SG_TORTURE:-}" ]; then seq 1 "$1"; else for k in 1 2 3 4 5; do echo $(((${1} * k + 4) / 5)); done | sort -nu; fi
}

# A file system without shared memory, one without locks, a lease from a clock that is ahead.
SG_NO_SHM=1 faulty $cells --db shm.db >log 2>&1 || { cat log; complain "no shared memory: a rollback journal should do"; }
[ "$(sqlite3 shm.db 'PRAGMA journal_mode')" = delete ] || complain "no shared memory: the journal is not a rollback journal"
SG_NO_LOCKS=1 faulty $cells --db locks.db >log 2>&1
[ $? = 3 ] && grep -q 'file system' log && grep -q 'merge' log || { cat log; complain "no locks: exit 3 and a remedy expected"; }
$cells --db ahead.db >/dev/null 2>&1
sqlite3 ahead.db "PRAGMA foreign_keys = ON; INSERT INTO lease SELECT key, 'tomorrow:1:1', 4102444800 FROM run WHERE id = 3; DELETE FROM run" >/dev/null
SG_CLOCK=1000 faulty timeout 60 $cells --db ahead.db >log 2>&1 && [ "$(sqlite3 ahead.db 'SELECT count(*) FROM run')" = 4 ] ||
    { cat log; complain "a lease from a clock that is ahead blocks its cell"; }

# The N-th call fails.
SG_FAULT_COUNT=$here/count faulty $evaluation >/dev/null 2>&1 || complain "an evaluation without faults failed"
for kind in malloc write fsync mmap open sqlite; do
    n=$(awk -v k=$kind '$1 == k { print $2 }' count)
    [ "${n:-0}" -gt 0 ] || complain "no call of kind $kind was seen"
    for i in $(points "${n:-0}"); do
        rm -rf f.db* cache
        SG_FAULT=$kind:$i faulty timeout 120 $evaluation >log 2>&1
        code=$? tried=$((tried + 1))
        rows=$(sqlite3 f.db "SELECT count(*) FROM run WHERE status = 'done'" 2>/dev/null || echo none)
        case $code in
            0) [ "$rows" = 1 ] || complain "$kind $i: exit 0 and $rows runs are stored" ;;
            3) grep -q '^sparsegauge: ' log || complain "$kind $i: exit 3 without a word" ;;
            134) [ $kind = malloc ] || complain "$kind $i: aborted" ;; # small allocations end the program
            *) tail -3 log; complain "$kind $i: exit $code" ;;
        esac
        [ ! -e f.db ] || [ "$(sqlite3 f.db 'PRAGMA integrity_check')" = ok ] || complain "$kind $i: the database is damaged"
        [ -z "$(find . -name '*.tmp*')" ] || complain "$kind $i: $(find . -name '*.tmp*') was left behind"
    done
done

# Killed at any moment, a sweep goes on to the very tables of one that was left alone, and does nothing twice.
$cells --db whole.db >/dev/null 2>&1
tables() { sqlite3 "$1" "SELECT key, digest, status FROM run ORDER BY key; SELECT count(*) FROM lease; PRAGMA integrity_check"; }
kills=6
[ -z "${SG_TORTURE:-}" ] || kills=200
for i in $(seq $kills); do
    [ $((i % 6)) != 1 ] || rm -f killed.db*
    $cells --db killed.db >>killed.log 2>&1 &
    pid=$!
    sleep 0.$((RANDOM % 90 + 10))
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    tried=$((tried + 1))
done
$cells --db killed.db >/dev/null 2>&1 || complain "a sweep that was killed does not go on"
[ "$(tables killed.db)" = "$(tables whole.db)" ] || complain "a sweep that was killed ends with other tables"
echo "check_faults: $tried faults and kills"
exit $bad
