#!/usr/bin/env bash
# The number of threads changes no bit: eval, tune, sweep and audit with 1, 2, 3 and 8 threads, under every OpenBLAS core
# type and every instruction set that this processor can run. Prints a digest of each; fails when threads change one.
#   threads.sh PROGRAM TEST_KERNELS SOURCE_DIR         a tiny model: each core type, and each instruction set
#   threads.sh PROGRAM TEST_KERNELS SOURCE_DIR full    the bundled model: each core type with each instruction set
set -eu
program=$1 test_kernels=$2 source=$3 form=${4:-quick}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache
# Core types, and the instruction sets that their kernels use: asked of a processor without them, OpenBLAS would crash.
# here: what OpenBLAS chooses, or the environment asks for.
cores='
here
Prescott     pni
Nehalem      sse4_2
Sandybridge  avx
Haswell      avx2 fma
Zen          avx2 fma
SkylakeX     avx512f avx512bw avx512dq avx512vl
Cooperlake   avx512f avx512bw avx512dq avx512vl avx512_bf16
'
masks='
avx512       avx512f avx512bw avx512dq avx512vl
avx2         avx2 fma
base
'
flags=" $(sed -n '/^flags/{s/^[^:]*://p;q}' /proc/cpuinfo) "

lacking() { for flag; do [[ $flags == *" $flag "* ]] || { echo "this processor lacks $flag"; return; }; done; }

# Why CORE cannot be had here; nothing when it can.
core_refused() {
    local core=$1 why said
    shift
    why=$(lacking "$@")
    [ -n "$why" ] && { echo "$why"; return; }
    [ "$core" = here ] && return
    said=$(OPENBLAS_CORETYPE=$core OPENBLAS_VERBOSE=2 "$program" list suites 2>&1 >"$work/unused")
    case $said in
        *'Core not found'*) echo "this OpenBLAS has no kernels for it" ;;
        *"Core: $core"*) ;;
        *) echo "this OpenBLAS does not choose its kernels at run time" ;;
    esac
}

if [ $form = full ]; then
    model=$source/suites/demo/model samples='--suite chronicle --max-length 1024' layers='--layers 2-7'
else
    model=$work/tiny samples="--suite text:$source/CONTRIBUTING.md --max-length 320" layers=''
    "$program" synth --shape tiny --dtype f32 "$model" --quiet >"$work/unused"
fi

run() { # FOLDER COMMAND ARG...: its output, in FOLDER
    local folder=$1
    shift
    "$program" "$@" --quiet >"$folder/$1.out" 2>"$folder/$1.err" ||
        { echo "threads: $* failed with $?:" >&2; cat "$folder/$1.out" "$folder/$1.err" >&2; exit 1; }
}

stored() { "$program" sql --db "$1" --format csv --all-columns 'SELECT digest FROM run ORDER BY digest'; }

# What the four commands say with N threads, without times: eval tune sweep audit, eight digits each.
digests() {
    local mask=$1 n=$2 folder=$work/$1-$2 tuning='--num-tune-samples 1 --held-out 1' machine
    mkdir -p "$folder"
    machine="$samples --threads $n --cpu-mask $mask"
    run "$folder" eval "$model" $machine --cache none --num-samples 2 --topk .5 --db "$folder/eval.db"
    run "$folder" tune "$model" $machine --cache none $tuning $layers --db "$folder/tune.db" --output "$folder/tuned.json"
    run "$folder" sweep "$model" $machine --cache none --num-samples 1 $tuning $layers --l1 .1,.3 --db "$folder/sweep.db"
    run "$folder" audit "$model" $machine --num-samples 1 --format json
    stored "$folder/eval.db" >"$folder/eval.digest"
    stored "$folder/sweep.db" >"$folder/sweep.digest"
    for file in eval.digest tuned.json sweep.digest audit.out; do
        [ -s "$folder/$file" ] || { echo "threads: $file is empty" >&2; exit 1; }
        sha256sum <"$folder/$file" | cut -c1-8
    done | tr '\n' ' '
    rm -rf "$folder"
}

failed=0
row() { printf '| %-15s | %-6s | %-8s | %-8s | %-8s | %-8s | %s |\n' "$@"; }

compare() { # CORE MASK
    local core=$1 mask=$2 first='' found equal=1 n
    for n in 1 2 3 8; do
        found=$(digests "$mask" $n)
        [ -n "$first" ] || first=$found
        if [ "$found" != "$first" ]; then
            equal=0 failed=1
            row "$core" "$mask" $found "$n threads: OTHER THAN 1"
        fi
    done
    row "$core" "$mask" $first "$([ $equal = 1 ] && echo 'equal' || echo '1 thread')"
}

row 'core type' ISA eval tune sweep audit '1, 2, 3, 8 threads'
row --- --- --- --- --- --- ---
while read -r core needs; do
    [ -n "$core" ] || continue
    why=$(core_refused "$core" $needs)
    [ -z "$why" ] || { row "$core" - - - - - "skipped: $why"; continue; }
    [ $form = full ] || [ "$core" != "${chosen:-}" ] || continue # it was the first
    name=$core
    if [ "$core" != here ]; then export OPENBLAS_CORETYPE=$core
    else
        chosen=$(OPENBLAS_VERBOSE=2 "$program" list suites 2>&1 >"$work/unused" | sed -n 's/^Core: //p')
        name="here: $chosen"
    fi
    # Products large enough to be cut, which the tiny model's are not.
    "$test_kernels" --filter '*/threads_*' >"$work/kernels" 2>&1 ||
        { failed=1; cat "$work/kernels"; echo "threads: $test_kernels fails under core type $core"; }
    while read -r mask wants; do
        [ -n "$mask" ] || continue
        why=$(lacking $wants)
        if [ -n "$why" ]; then row "$name" "$mask" - - - - "skipped: $why"
        elif [ $form = full ] || [ "$core" = here ]; then compare "$name" "$mask"
        else compare "$name" auto; break
        fi
    done <<<"$masks"
done <<<"$cores"
exit $failed
