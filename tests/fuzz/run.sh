#!/usr/bin/env bash
# Every fuzz target for SEC seconds.
#   run.sh TARGETS CORPUS OUT SEC [JOBS [NAME...]]
# TARGETS: where fuzz_* are; CORPUS/NAME, CORPUS/grown.txt: first inputs; JOBS at a time, 0: all. NAMEs: only these.
# OUT/NAME grows from call to call, OUT/NAME.log is the last log, OUT/NAME-crash-… what a target failed on: it then goes on with the
# rest of its time. OUT/new/NAME: what reaches code that CORPUS does not; OUT/grown.txt: the small ones of it, to be added to
# CORPUS/grown.txt. Ends with 1 when anything failed.
set -uo pipefail
targets=$1 corpus=$2 out=$3 seconds=$4 jobs=${5:-1}
names=${*:6}
[ -n "$names" ] || names=$(cd "$targets" && find . -maxdepth 1 -name 'fuzz_*' -type f -executable -printf '%f\n' | grep -v replay | sort)
export ASAN_OPTIONS=malloc_context_size=8:quarantine_size_mb=8:${ASAN_OPTIONS:-}

# Small inputs are many inputs.
length() {
    case $1 in
        fuzz_options) echo 96 ;;
        fuzz_database) echo 160 ;;
        fuzz_gguf | fuzz_tokenizer | fuzz_torch_file | fuzz_config) echo 2048 ;;
        *) echo 640 ;;
    esac
}

one() { # NAME
    local name=$1 end=$((SECONDS + seconds)) left n=0 edges
    local log=$out/$name.log
    mkdir -p "$out/$name" "$out/known/$name"
    cp "$corpus/$name"/* "$out/known/$name/"
    awk -v name="$name" '$1 == name { print $2 }' "$corpus/grown.txt" | while read -r text; do
        base64 -d <<<"$text" >"$out/known/$name/$(md5sum <<<"$text" | cut -c1-16)"
    done
    : >"$log"
    while left=$((end - SECONDS)) && [ "$left" -gt 0 ]; do
        "$targets/$name" -max_total_time="$left" -max_len="$(length "$name")" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
            -artifact_prefix="$out/$name-" "$out/$name" "$out/known/$name" >>"$log" 2>&1 && break
        [ $((++n)) -lt 20 ] || break # one fault, found again and again
    done
    rm -rf "$out/new/$name"
    mkdir -p "$out/new/$name"
    cp "$out/known/$name"/* "$out/new/$name/"
    "$targets/$name" -merge=1 -set_cover_merge=1 -use_counters=0 -rss_limit_mb=4096 -timeout=20 -artifact_prefix="$out/$name-" "$out/new/$name" \
        "$out/$name" >"$out/$name.merge.log" 2>&1
    for known in "$out/known/$name"/*; do rm -f "$out/new/$name/$(basename "$known")"; done
    find "$out/new/$name" -type f -size -300c | while read -r file; do echo "$name $(base64 -w 0 "$file")"; done >>"$out/grown.txt"
    edges=$(awk '{ for (i = 1; i < NF; i++) if ($i == "cov:") n = $(i + 1) } END { print n + 0 }' "$log")
    awk -v name="$name" -v edges="$edges" -v new="$(find "$out/new/$name" -type f | wc -l)" -v faults="$(find "$out" -maxdepth 1 -name "$name-*" | wc -l)" \
        '/number_of_executed_units/ { n += $2 } /average_exec_per_sec/ { rate = $2 }
         END { printf "%-16s %9d inputs %7d/s %5d edges %4d new %s\n", name, n, rate, edges, new, faults ? faults " FAILED" : "nothing found" }' "$log"
}
export -f one length
export targets corpus out seconds

mkdir -p "$out"
rm -rf "$out/known" "$out/grown.txt"
tr ' ' '\n' <<<"$names" | xargs -P "$jobs" -I{} bash -c 'one {}' | tee "$out/table.txt"
[ "$(wc -l <"$out/table.txt")" = "$(wc -w <<<"$names")" ] || { echo "run.sh: a target is missing from the table"; exit 1; }
! grep FAILED "$out/table.txt" >/dev/null || {
    echo "run.sh: what failed is in $out/NAME-*: once corrected, keep it in tests/fuzz/corpus/NAME"
    exit 1
}
