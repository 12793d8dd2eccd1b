#!/usr/bin/env bash
# Who may include whom, headers that compile alone, and silence below harness/.
# usage: tests/check_layout.sh [COMPILER [FOLDER-OF-GENERATED-HEADERS]]; without a compiler headers are not compiled.
set -u
cd "$(dirname "$0")/.." || exit 1
shopt -s nullglob
folders=(base kernels engine suites results reports harness)
failed=0

broken=$(awk '
    BEGIN {
        may["base"] = " base "
        may["kernels"] = " kernels base "
        may["engine"] = " engine kernels base "
        may["suites"] = " suites engine kernels base "
        may["results"] = " results base "
        may["reports"] = " reports results base "
        may["harness"] = " harness suites reports results engine kernels base "
        # A library is known in one folder.
        only["sqlite3.h"] = "results"
        only["pcre2.h"] = "engine"; only["utf8proc.h"] = "engine"
        only["cuda.h"] = only["cuda_runtime.h"] = only["cuda_bf16.h"] = only["cublas_v2.h"] = "kernels"
    }
    !/^[ \t]*#[ \t]*include/ { next }
    {
        folder = FILENAME; sub(/\/.*/, "", folder)
        name = $0; sub(/^[^"<]*["<]/, "", name); sub(/[">].*/, "", name)
        where = FILENAME ":" FNR ": "
        if ($0 ~ /</) {
            if ((name in only) && only[name] != folder) print where "<" name "> belongs to " only[name] "/ alone"
            next
        }
        if (name == "version.h" && folder == "harness") next
        to = name
        if (!sub(/\/.*/, "", to)) print where "\"" name "\": write the path from the project root"
        else if (!index(may[folder], " " to " ")) print where folder "/ may include" may[folder] "and not " to "/"
    }
' $(for d in "${folders[@]}"; do echo $d/*.[ch] $d/*.cu $d/*.cuh; done))
[ -z "$broken" ] || { echo "$broken"; failed=1; }

loud=$(grep -nE '(^|[^a-z_])(printf|puts|putchar|perror|exit)[[:space:]]*\(|f(printf|puts)\((stdout|.*, *stdout\))' \
       {base,kernels,engine,suites,results,reports}/*.{c,h,cu,cuh})
[ -z "$loud" ] || { echo "$loud" | sed 's/$/   <- only harness prints or exits/'; failed=1; }

if [ $# -gt 0 ]; then
    for header in */*.h; do
        case $header in build/*|out/*) continue ;; esac
        "$1" -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-function -I. ${2:+"-I$2"} -fsyntax-only \
            -include "$header" -x c /dev/null || { echo "$header does not compile alone"; failed=1; }
    done
fi
exit $failed
