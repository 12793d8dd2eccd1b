#!/usr/bin/env bash
# Lines of the program that the whole suite reaches, programs that tests run included; tests do not count.
#   coverage.sh build SOURCE BUILD        an unoptimised build that counts
#   coverage.sh test SOURCE BUILD [ARGUMENT OF CTEST...]   adds to the counts
#   coverage.sh report SOURCE BUILD       by room, and BUILD/uncovered.txt: file:line of each line that was not reached
set -euo pipefail
step=$1 source=$(realpath "$2") build=$3
shift 3
rooms='base kernels engine suites results reports harness library'
mkdir -p "$build"
build=$(realpath "$build")

case $step in
    build)
        # A worker that leaves by _exit() would not write its counts.
        echo 'void __gcov_dump(void); void __real__exit(int); void __wrap__exit(int c); void __wrap__exit(int c) { __gcov_dump(); __real__exit(c); }' |
            cc -fPIC -x c -c - -o "$build/leave.o"
        cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=None -DSG_CUDA=OFF -DCMAKE_C_FLAGS="-O1 --coverage" \
            -DCMAKE_EXE_LINKER_FLAGS="-Wl,--wrap=_exit $build/leave.o --coverage" >/dev/null
        cmake --build "$build"
        ;;
    test) ctest --test-dir "$build" -j "$(nproc)" --timeout 900 "$@" ;;
    report)
        rm -rf "$build/gcov"
        mkdir "$build/gcov"
        cd "$build" # where relative names of sources, as ccache makes them, begin
        find "$build" -name '*.gcda' -not -path '*/tests/*' -print0 | xargs -0 gcov -l -p >gcov/log 2>&1 ||
            { grep -m 5 -E 'mismatch|cannot|error' gcov/log >&2; echo "coverage.sh: counts of another build: run its tests again" >&2; exit 1; }
        find . -maxdepth 1 -name '*.gcov' -exec mv -t gcov {} +
        cat gcov/*.gcov | awk -v rooms="$rooms" -v missed="$build/uncovered.txt" -v source="$source/" -F: '
            $2 ~ /^ *0$/ && $3 == "Source" { file = $4; sub(/^(\.\.\/)+/, "", file); sub(source, "", file); next }
            $1 ~ /^ *-$/ || $2 + 0 == 0 { next }
            { line = file ":" $2 + 0; reached = $1 !~ /#####|=====/
              if (!(line in best) || reached > best[line]) best[line] = reached }
            END {
                n_rooms = split(rooms, room, " ")
                for (l in best) {
                    split(l, part, "/")
                    n[part[1]]++
                    got[part[1]] += best[l]
                    if (!best[l]) print l | ("sort -t: -k1,1 -k2,2n >" missed)
                }
                print "| room | lines reached | of | |\n| --- | --- | --- | --- |"
                for (i = 1; i <= n_rooms; i++)
                    if (n[room[i]]) printf "| %s | %d | %d | %.1f %% |\n", room[i], got[room[i]], n[room[i]], 100 * got[room[i]] / n[room[i]]
            }'
        ;;
    *) echo "coverage.sh: build, test or report" >&2; exit 2 ;;
esac
