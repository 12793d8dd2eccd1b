#!/usr/bin/env bash
# Makes calls fail and kills the program: it must not crash, must not say 0 without a whole result, and must leave nothing half.
#   check_faults.sh PROGRAM FAULT_LIBRARY GOLDEN [PART...]
# PARTs: systems, info, eval, tune, sweep, report, gate, compare, merge, kills; none: all.
# Quick: of each kind of call a few. SG_TORTURE=1: every call, of allocations the first from every place that they come from (8 return
# addresses deep), and 200 kills of each command; SG_TORTURE=all (./dev torture): every allocation, too. SG_JOBS=N: N at a time;
# each is this script with SG_SLICE=K/N.
set -uo pipefail
if [ "${SG_JOBS:-1}" -gt 1 ]; then
    slices=$(mktemp -d)
    trap 'rm -rf "$slices"' EXIT
    seq 0 $((SG_JOBS - 1)) | xargs -P "$SG_JOBS" -I{} sh -c 'SG_SLICE={}/$SG_JOBS SG_JOBS=1 "$@" >"$0/{}" 2>&1' "$slices" "$0" "$@"
    bad=$?
    cd "$slices"
    # The counts of all slices together, and what any of them has to say.
    cat ./* | awk '
        /^check_faults: [a-z]+: .* of / { # NAME: KIND n of m, ...
            name = $2
            if (!(name in seen)) order[++names] = name
            seen[name]
            n_parts = split(substr($0, index($0, name) + length(name)), part, ",")
            for (i = 1; i <= n_parts; i++) { split(part[i], w, " "); n[name, w[1]] += w[2]; of[name, w[1]] = w[4] }
            next
        }
        /^check_faults: [0-9]+ faults and kills$/ { total += $2; next }
        /^check_faults: [a-z]+: [0-9]+ kills/ { kills[$2] += $3; next }
        { print }
        END {
            n_kinds = split("malloc write fsync mmap open sqlite", kind, " ")
            for (i = 1; i <= names; i++) {
                printf "check_faults: %s", order[i]
                for (k = 1; k <= n_kinds; k++) printf " %s %d of %d%s", kind[k], n[order[i], kind[k]], of[order[i], kind[k]], k < n_kinds ? "," : "\n"
            }
            for (name in kills) printf "check_faults: %s %d kills\n", name, kills[name]
            printf "check_faults: %d faults and kills\n", total
        }'
    exit $bad
fi
shopt -s globstar nullglob dotglob
slice=${SG_SLICE:-0/1}
program=$(realpath "$1") library=$(realpath "$2") golden=$(realpath "$3")
shift 3
parts=${*:-systems info eval tune sweep report gate compare merge kills}
here=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) # faults are ours to make: no disk is waited for
trap 'rm -rf "$here"' EXIT
cd "$here"
# LC_ALL: without memory to ask for the locale rules are drawn in ASCII, which is no other result.
export OPENBLAS_NUM_THREADS=1 XDG_CACHE_HOME=$here/home SHELL=/bin/sh LC_ALL=C
torture=${SG_TORTURE:-}
bad=0 tried=0
complain() { echo "check_faults: $*"; bad=1; }
faulty() { LD_PRELOAD=$library "$@"; }
integrity() { # WHEN DB...: those that are there; one process asks all, as these are many
    local db attach='' when=$1 said=ok
    shift
    for db; do [ ! -e "$db" ] || attach+="ATTACH '$db' AS '$db';"; done
    [ -z "$attach" ] || said=$(sqlite3 :memory: "$attach PRAGMA integrity_check" 2>&1)
    [ "$said" = ok ] || complain "$when: a database is damaged: $said"
}

# The smallest model, and what the commands read. gnuplot's pictures take longer than all else: one that draws nothing stands in.
mkdir base bin
cat >bin/gnuplot <<'END'
#!/bin/sh
while IFS= read -r line; do
    case $line in
        'set output "'*'".kind'*) line=${line#*\"}; echo '<svg/>' >"${line%%\"*}svg" ;;
        print*) echo drawn ;;
    esac
done
END
chmod +x bin/gnuplot
export PATH=$here/bin:$PATH
"$program" synth --shape tiny --dtype f32 tiny -q >/dev/null || complain "no tiny model"
for i in $(seq 40); do echo "Line $i of a text that $((i * 7919 % 1000)) readers of $((i * 104729 % 977)) have seen."; done >text
common="../tiny --suite text:../text --max-length 300 --threads 1 -q"
evaluate="$program eval $common --num-samples 2 --cache cache"
cells="$program sweep $common --num-samples 1 --cache none --shard none --method"
four="$cells window:64,window:65,window:128,topk:.3"
cd base
for k in .5 .3; do $evaluate --topk $k --db a.db --output $k.json >/dev/null 2>&1 || complain "no evaluation"; done
$program sweep $common --num-samples 2 --cache none --shard none --method window:64,topk:.4 --db s.db >/dev/null 2>&1 || complain "no sweep"
sqlite3 old.db <"$golden/results_v2.sql"
rm -rf cache
cd ..

# For each part: what is run in a fresh copy of base/, and what its whole result is, times and places left out.
tables() { # DB: all that was measured, by key and not by number
    sqlite3 "$1" "SELECT key, digest, status FROM run ORDER BY key; SELECT count(*) FROM lease; SELECT count(*) FROM metric WHERE name NOT LIKE 'latency%';
        SELECT hash, layer, head, theta, tau, lambda FROM tuned_head ORDER BY 1, 2, 3; SELECT name FROM plan; SELECT key FROM cell ORDER BY key" 2>&1
}
spelled() { sed -e 's/"\(wall_s\|seconds\|started\|ended\|created\)": [^,}]*//g' "$@" 2>&1; }
run_info="$program info ../tiny --check"
result_info() { cat ../out; }
run_eval="$evaluate --topk .4 --db a.db --output new.json"
result_eval() { tables a.db; [ "$(tail -c 2 new.json)" = '}' ] && echo whole; }
run_tune="$program tune $common --num-tune-samples 1 --check 1 --held-out 1 --l1 .3 --pv-l1 .5 -o tuned.json --stats-out stats.json --db a.db"
result_tune() { tables a.db; spelled tuned.json; cat stats.json; }
run_sweep="$cells window:64,topk:.3 --db w.db"
result_sweep() { tables w.db; }
run_report="$program report last --baseline 1 --db a.db -o report --no-png"
result_report() { (cd report && find . -type f ! -name '*.gp' ! -name '*.tmp*' | sort; tail -c 8 index.html; cat ./*.csv) 2>&1; }
run_gate="$program gate .3.json --max-kl 10 --min-cosine -1 --baseline .5.json --junit junit.xml"
result_gate() { cat ../out && sed -E 's/ (timestamp|time)="[^"]*"//g' junit.xml; }
run_compare="$program compare 1 2 --db a.db"
result_compare() { cat ../out; }
run_merge="$program merge s.db --db a.db"
result_merge() { tables a.db; }

fresh() {
    rm -rf work
    cp -r base work
    cd work
}

# Of the calls of one kind: all, or a few spread over them; of those this slice's.
points() { all_points "$1" | awk -v k="${slice%/*}" -v n="${slice#*/}" 'NR % n == k % n'; }

all_points() { # KIND
    local n firsts
    read -r n firsts <<<"$(awk -v k="$1" '$1 == k { $1 = ""; print }' "$here/count")"
    if [ -n "$torture" ] && { [ "$1" != malloc ] || [ "$torture" = all ]; }; then seq 1 "${n:-0}"
    elif [ -n "$torture" ]; then echo "$firsts" | tr ' ' '\n' | awk 'NF' | sort -nu
    elif [ "${n:-0}" -gt 0 ]; then for k in 1 2 3; do echo $(((n * k * k + 8) / 9)); done | sort -nu
    fi
}

# Few processes: this is gone through some 200 000 times. What a fault left behind is looked at once: of most faults it is what
# another has left, byte for byte in every file.
part() { # NAME
    local name=$1 code kind i n whole got text file left state clean run=run_$1 calls=''
    local -A seen=()
    fresh
    clean=$(cksum -- ** 2>/dev/null)
    SG_FAULT_COUNT=$here/count faulty ${!run} >../out 2>../err || { cat ../err; complain "$name fails without a fault"; }
    for i in "$here"/count.*; do mv "$i" "$here/count"; done # the child's, which knows the parent's
    whole=$(result_$name)
    state=
    for kind in malloc write fsync mmap open sqlite; do
        n=0
        for i in $(points $kind); do
            [ "$state" = "$clean" ] || { cd ..; fresh; }
            SG_FAULT=$kind:$i faulty timeout 60 ${!run} >../out 2>../err
            code=$? n=$((n + 1))
            case $code in
                0)
                    got=$(result_$name)
                    [ "$got" = "$whole" ] || { diff <(echo "$whole") <(echo "$got") | head -5; complain "$name, $kind $i: exit 0 with another result"; }
                    ;;
                3)
                    read -r -d '' text <../err
                    [[ $'\n'$text == *$'\nsparsegauge: '* ]] || complain "$name, $kind $i: exit 3 without a word"
                    ;;
                *) tail -3 ../err; complain "$name, $kind $i: exit $code" ;;
            esac
            state=$(cksum -- ** 2>/dev/null)
            [ -z "${seen[$code $state]:-}" ] || continue
            seen[$code $state]=1
            integrity "$name, $kind $i" a.db s.db w.db
            for file in new.json tuned.json stats.json .5.json; do
                [ -e $file ] || continue
                read -r -d '' text <$file
                [[ $text == *[\]}] ]] || complain "$name, $kind $i: $file is half"
            done
            left=(**/*.tmp*)
            [ ${#left[@]} = 0 ] || complain "$name, $kind $i: ${left[*]} left behind"
            if [ $code = 3 ] && [[ $name == @(sweep|merge|eval) ]]; then
                text=
                [ "$name" != sweep ] || text=--retry-failed
                ${!run} $text >../out 2>../err || { tail -2 ../err; complain "$name, $kind $i: the same command again fails"; }
                got=$(result_$name)
                [ "$got" = "$whole" ] || { diff <(echo "$whole") <(echo "$got") | head -5; complain "$name, $kind $i: the same command again has another result"; }
                state=
            fi
        done
        calls="$calls $kind $n of $(awk -v k=$kind '$1 == k { print $2 }' ../count),"
        tried=$((tried + n))
    done
    cd ..
    echo "check_faults: $name:${calls%,}"
}

# A file system without shared memory, one without locks, a lease from a clock that is ahead.
systems() {
    fresh
    SG_NO_SHM=1 faulty $four --db shm.db >log 2>&1 || { cat log; complain "no shared memory: a rollback journal should do"; }
    [ "$(sqlite3 shm.db 'PRAGMA journal_mode')" = delete ] || complain "no shared memory: the journal is not a rollback journal"
    SG_NO_LOCKS=1 faulty timeout 60 $four --db locks.db >log 2>&1
    [ $? = 3 ] && grep -q 'file system' log && grep -q 'merge' log || { cat log; complain "no locks: exit 3 and a remedy expected"; }
    $four --db ahead.db >/dev/null 2>&1
    sqlite3 ahead.db "PRAGMA foreign_keys = ON; INSERT INTO lease SELECT key, 'tomorrow:1:1', 4102444800 FROM run WHERE id = 3; DELETE FROM run" >/dev/null
    SG_CLOCK=1000 faulty timeout 60 $four --db ahead.db >log 2>&1 && [ "$(sqlite3 ahead.db 'SELECT count(*) FROM run')" = 4 ] ||
        { cat log; complain "a lease from a clock that is ahead blocks its cell"; }
    cd ..
}

# Killed at any moment and asked again, a command ends with the very result of one that was left alone, and does nothing twice.
run_migrate="$program merge s.db --db old.db"
result_migrate() { tables old.db; sqlite3 old.db 'PRAGMA user_version'; }
killed() { # NAME
    local name=$1 run=run_$1 kills=6 whole i t
    [ -z "$torture" ] || kills=$(((200 + ${slice#*/} - 1) / ${slice#*/}))
    fresh
    t=$(date +%s%N)
    ${!run} >../out 2>../err || { cat ../err; complain "$name fails alone"; }
    t=$((($(date +%s%N) - t) / 1000))
    whole=$(result_$name)
    cd ..
    fresh
    for i in $(seq $kills); do
        [ $((i % 3)) != 1 ] || { cd ..; fresh; }
        # `timeout` kills itself with its group, and what it killed outlives it by a moment: a pipe ends when the last of them is gone,
        # and with a number that is closed behind those of their databases.
        { timeout -s KILL "$(printf '0.%06d' $(((RANDOM * 32768 + RANDOM) % t)))" ${!run} >../out 2>../err 99>&1; } 2>/dev/null | cat
        integrity "$name, killed" a.db s.db w.db old.db
        [ $((i % 3)) != 0 ] || { ${!run} >../out 2>../err && [ "$(result_$name)" = "$whole" ]; } ||
            { tail -2 ../err; diff <(echo "$whole") <(result_$name) | head -5; complain "$name: killed and asked again, it ends with another result"; }
    done
    cd ..
    tried=$((tried + kills))
    echo "check_faults: $name: $kills kills in $((t / 1000)) ms"
}

for part in $parts; do
    case $part in
        systems) [ "${slice%/*}" != 0 ] || systems ;;
        kills)
            run_sweep="$four --db w.db"
            for name in sweep tune merge migrate report; do killed $name; done
            ;;
        *) part "$part" ;;
    esac
done
echo "check_faults: $tried faults and kills"
exit $bad
