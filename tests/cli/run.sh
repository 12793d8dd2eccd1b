#!/usr/bin/env bash
# What people and programs get to see: every NAME.sh here runs in an empty folder, and what it prints (both streams) must be
# NAME.expected. Usage: run.sh PROGRAM SOURCE_DIR [NAME…]; UPDATE=1 writes the expected files, to be read before they are kept.
#
# A script finds `sparsegauge` in its PATH, the bundled model as $MODEL, and these helpers:
#   code CMD…     runs it, prints its exit code only        show CMD…  prints the command, its output and its exit code
#   widest        of standard input: columns of its widest line
# Numbers that differ by machine and day are filtered: seconds, hashes, versions, compilers, places. Others a script leaves out itself:
# what a model computes differs by processor in its last digits, so expected files hold words, names and shapes.
set -u
program=$(realpath "$1") source=$(realpath "$2")
shift 2
here=$source/tests/cli
[ $# != 0 ] || set -- $(cd "$here" && ls *.expected | sed 's/\.expected$//')

filter() {
    sed -E -e "s#$work#WORK#g" -e "s#$source#SOURCE#g" \
        -e 's/[0-9]+(\.[0-9]+)? (us|ms|s|min)\b/T/g' -e 's/\b[0-9a-f]{12,}\b/HASH/g' \
        -e 's/\b[0-9]+\.[0-9]+\.[0-9]+\b/VERSION/g' -e 's/\b(GNU|Clang) VERSION [A-Za-z]+\)/COMPILER)/' -e 's/, modified//' -e '/built from uncommitted changes/d' -e '/^  *build and run again before publishing/d'
}

helpers='
code() { local rc=0; "$@" >/dev/null 2>&1 || rc=$?; echo "$rc"; }
show() { local rc=0; echo "\$ $*"; "$@" 2>&1 || rc=$?; [ $rc = 0 ] || echo "exit code $rc"; }
widest() { wc -L; }
small="--threads 1 --cache none -q --max-length 300 --num-samples 2"
'

failed=0
for name; do
    work=$(mktemp -d)
    mkdir "$work/bin" "$work/place"
    ln -s "$program" "$work/bin/sparsegauge"
    (
        cd "$work/place" || exit 1
        env -i PATH="$work/bin:$PATH" HOME="$work" TMPDIR="$work" LC_ALL=C.UTF-8 MODEL="$source/suites/demo/model" \
            bash -euo pipefail -c "$helpers"'. "$1"' "$name" "$here/$name.sh"
        rc=$?
        [ $rc = 0 ] || echo "the script ended with exit code $rc"
    ) </dev/null 2>&1 | filter >"$work/found"
    if [ "${UPDATE:-}" = 1 ]; then
        cp "$work/found" "$here/$name.expected"
    elif ! diff -u --label "$name.expected" --label found "$here/$name.expected" "$work/found"; then
        failed=1
    fi
    rm -rf "$work"
done
exit $failed
