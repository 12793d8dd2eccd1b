#!/usr/bin/env bash
# Plants each fault of list.txt into a copy of the tree, builds the tests that it names, and tells whether one of them fails.
#   run.sh SOURCE_DIR FOLDER [PART OF A TITLE]
# Exit code 1 when a fault goes unnoticed. FOLDER holds the copy, and is kept: a second run builds little.
set -uo pipefail
source=$(realpath "$1") folder=$2 wanted=${3:-}
mkdir -p "$folder/tree"
folder=$(realpath "$folder")
tree=$folder/tree
log=$folder/log
n=0 missed=0
die() { echo "mutations: $*" >&2; exit 2; }

(cd "$source" && git ls-files -z | xargs -0 ls -d 2>/dev/null | tar -cf - -T -) | (cd "$tree" && tar -xf - --skip-old-files)
for file in $(cd "$source" && git ls-files); do # what was planted last time, or has changed since
    [ ! -f "$source/$file" ] || cmp -s "$source/$file" "$tree/$file" || cp "$source/$file" "$tree/$file"
done
cmake -S "$tree" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSG_CUDA=OFF >"$log" 2>&1 || die "$(tail -20 "$log")"

mutate() { # TITLE FILE TESTS OLD NEW
    local title=$1 file=$2 tests=$3 old=$4 new=$5 text rest noticed='' t begin=$SECONDS known=''
    text=$(cat "$source/$file"; echo x)
    text=${text%x}
    rest=${text#*"$old"}
    [ "$rest" != "$text" ] && [ "${rest#*"$old"}" = "$rest" ] || die "$title: $file does not hold this once: $old"
    for t in $tests; do [ -z "$(ls "$source"/tests/{unit,cli,kernels}/"$t.c" 2>/dev/null)" ] || known="$known $t"; done
    [ -n "$known" ] || die "$title: none of $tests is a test"
    printf '%s' "${text/"$old"/"$new"}" >"$tree/$file"
    if ninja -C "$folder/build" sparsegauge $known >"$log" 2>&1; then
        for t in $known; do
            (cd "$tree" && "$folder/build/tests/$t" >"$log" 2>&1) || { noticed=$t; break; }
        done
    else
        noticed='the compiler'
    fi
    cp "$source/$file" "$tree/$file"
    n=$((n + 1))
    if [ -n "$noticed" ]; then
        printf '| %s | `%s` | %s, %d s |\n' "$title" "$file" "$noticed" $((SECONDS - begin))
    else
        missed=$((missed + 1))
        printf '| %s | `%s` | NOT NOTICED |\n' "$title" "$file"
    fi
}

title='' file='' tests='' old=''
while IFS= read -r line || [ -n "$line" ]; do
    case $line in
        '#'*) ;;
        '') title='' file='' tests='' ;;
        '- '*) old=${line#- } ;;
        '+ '*) [[ $title != *"$wanted"* ]] || mutate "$title" "$file" "$tests" "$old" "${line#+ }" ;;
        *) if [ -z "$title" ]; then title=$line; elif [ -z "$file" ]; then file=$line; else tests=$line; fi ;;
    esac
done <"$source/tests/mutations/list.txt"
echo "mutations: $((n - missed)) of $n faults were noticed"
[ $missed = 0 ]
