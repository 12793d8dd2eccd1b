#!/usr/bin/env bash
# The installed library as a stranger meets it: found by pkg-config and by CMake, its examples compiled and run, its exports
# those of the list in the tree, its header C99 and C++, the program beside it finding its data, and no allocation that fails
# ending the host.
#   check_library.sh SOURCE BUILD CC     MODEL is the bundled one
set -uo pipefail
source=$(realpath "$1") build=$(realpath "$2") cc=${3:-cc}
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
bad=0
complain() { echo "check_library: $*"; bad=1; }
export XDG_CACHE_HOME=$here/cache

cmake --install "$build" --prefix "$here/usr" >"$here/log" 2>&1 || { tail -5 "$here/log"; complain "cmake --install failed"; exit 1; }
mv "$here/usr" "$here/moved" # nothing may remember where it was put first
prefix=$here/moved
pc=$(find "$prefix" -name sparsegauge.pc -printf '%h\n')
export PKG_CONFIG_PATH=$pc LD_LIBRARY_PATH=$(dirname "$pc")

# Exports: those of the list, under its version, and nothing else.
nm -D --defined-only "$LD_LIBRARY_PATH/libsparsegauge.so" | awk '$2 != "A" { print $3 }' | sort >"$here/exports"
sed 's/$/@@SPARSEGAUGE_1/' "$source/library/symbols.txt" | LC_ALL=C sort >"$here/listed"
LC_ALL=C sort -o "$here/exports" "$here/exports"
diff "$here/listed" "$here/exports" || complain "exported symbols are not those of library/symbols.txt (< listed, > exported)"
grep -oE '^SG_API .*\bsg_[a-z_]+\(|\bsg_[a-z_]+\(' "$source/library/sparsegauge.h" | grep -oE 'sg_[a-z_]+' | LC_ALL=C sort -u >"$here/named"
sed '/^sg_[a-z_]*$/!d' "$source/library/symbols.txt" | LC_ALL=C sort | comm -23 - "$here/named" | sed 's/^/only in symbols.txt: /' >"$here/extra"
[ ! -s "$here/extra" ] || { cat "$here/extra"; complain "the header declares not all that is exported"; }
grep -qE 'soname.*libsparsegauge\.so\.1\]?' <(readelf -d "$LD_LIBRARY_PATH/libsparsegauge.so" 2>/dev/null) || complain "the soname is not libsparsegauge.so.1"

# Examples, through pkg-config.
cd "$here"
flags=$(pkg-config --cflags --libs sparsegauge) || complain "pkg-config does not find it"
for name in attention tune model; do
    "$cc" -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/library/examples/$name.c" $flags -lm -o $name || complain "$name.c does not compile"
done
./attention || complain "attention failed"
./tune tuned.json tuned.pt || complain "tune failed"
./model "$prefix/share/sparsegauge/model" <"$source/README.md" || complain "model failed"
./model /nowhere </dev/null 2>err && complain "a model that is not there was opened"
grep -q /nowhere err || { cat err; complain "what is wrong with the model is not said"; }
echo '#include <sparsegauge.h>
int main(void) { return sg_api_version() == SG_API_VERSION ? 0 : 1; }' >plain.c
"$cc" -std=c99 -Wall -Wextra -Wpedantic -Werror plain.c $flags -o plain && ./plain || complain "the header is no C99"
if command -v c++ >/dev/null; then
    c++ -x c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror plain.c $flags -o plainer && ./plainer || complain "the header is no C++11"
fi

# Structs: every member where library/abi.txt says it was promised, and none that it does not name.
awk 'BEGIN { print "#include <sparsegauge.h>\n#include <stdio.h>\nint main(void)\n{" }
     $2 == "sizeof" { printf "    printf(\"%s sizeof %%zu\\n\", sizeof(struct %s));\n", $1, $1; next }
     { printf "    printf(\"%s %s %%zu %%zu\\n\", offsetof(struct %s, %s), sizeof(((struct %s *)0)->%s));\n", $1, $2, $1, $2, $1, $2 }
     END { print "}" }' "$source/library/abi.txt" >abi.c
"$cc" -std=c11 abi.c $flags -o abi && ./abi | diff "$source/library/abi.txt" - ||
    complain "structs are not as library/abi.txt has them (< promised, > now): members are only added at an end, and then named there"
members=$(sed -e 's|/\*.*\*/||' "$source/library/sparsegauge.h" | awk '/^struct sg_[a-z]* \{/ { n++ } END { print n }')
[ "$(awk '$2 == "sizeof"' "$source/library/abi.txt" | wc -l)" = "$members" ] || complain "library/abi.txt names not all of the header's $members structs"

# Threads: what they share, what they do not.
"$cc" -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/tests/library/threads.c" $flags -lpthread -o threads && ./threads "$prefix/share/sparsegauge/model" ||
    complain "threads disturb each other"

# find_package, from the moved tree.
mkdir -p project && cd project && cp ../plain.c .
echo 'cmake_minimum_required(VERSION 3.22)
project(p C)
find_package(sparsegauge REQUIRED)
add_executable(p plain.c)
target_link_libraries(p sparsegauge::sparsegauge)' >CMakeLists.txt
{ cmake -S . -B b -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" && cmake --build b && b/p; } >log 2>&1 || { tail -5 log; complain "find_package failed"; }
cd ..

# The program finds its data beside itself.
mkdir -p elsewhere && cd elsewhere
env -u LD_LIBRARY_PATH "$prefix/bin/sparsegauge" gate --self-test --max-length 256 --num-samples 2 >log 2>&1
grep -q "self-test on" log || { tail -3 log; complain "the installed program does not find the bundled model"; }
for file in share/man/man1/sparsegauge.1 share/bash-completion/completions/sparsegauge share/zsh/site-functions/_sparsegauge \
            share/fish/vendor_completions.d/sparsegauge.fish; do
    [ -s "$prefix/$file" ] || complain "$file was not installed"
done
cd ..

# No allocation that fails ends the host, or spoils its memory: every one of the examples' fails once.
fault=$build/tests/libfault.so
if [ -f "$fault" ]; then
    # the shim leaves programs of other names alone
    for name in attention tune model; do mkdir -p as/$name && cp $name as/$name/sparsegauge; done
    for program in as/attention/sparsegauge "as/tune/sparsegauge t.json t.pt" "as/model/sparsegauge $prefix/share/sparsegauge/model"; do
        head -c 1500 "$source/README.md" >text
        SG_FAULT_PROGRAM=$(basename "${program%% *}")
        export SG_FAULT_PROGRAM
        SG_FAULT_COUNT=$here/count LD_PRELOAD=$fault $program <text >/dev/null 2>&1
        n=$(awk '$1 == "malloc" { print $2 }' "$here/count")
        [ "${n:-0}" -gt 0 ] || complain "$program: no allocation was seen"
        # the first from each place; 24 of them, with SG_TORTURE=1 all
        for i in $(awk -v all="${SG_TORTURE:-}" '$1 == "malloc" { step = all || NF < 26 ? 1 : (NF - 2) / 24
                       for (at = 3; at <= NF; at += step) print $int(at) }' "$here/count"); do
            SG_FAULT=malloc:$i LD_PRELOAD=$fault timeout 60 $program <text >out 2>err
            code=$?
            [ $code -le 1 ] || { cat err; complain "$program: allocation $i of $n fails: exit $code"; }
            [ $code = 0 ] || grep -qE 'memory|room for|not valid JSON' err || { cat err; complain "$program: allocation $i of $n fails, which is not said"; }
        done
    done
fi
exit $bad
