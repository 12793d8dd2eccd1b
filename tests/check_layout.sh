#!/usr/bin/env bash
# Who may include whom, headers that compile alone, and silence below harness/cli.
# usage: tests/check_layout.sh [COMPILER [FOLDER-OF-GENERATED-HEADERS]]; without a compiler headers are not compiled.
set -u
cd "$(dirname "$0")/.." || exit 1
shopt -s nullglob
folders=(base kernels engine suites results reports harness library)
sources=$(find "${folders[@]}" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort)
failed=0

# A room is a folder, or a folder of a folder: engine/ is engine alone, engine/tuner is a room of its own. suites/demo and
# the bodies of kernels/ for one target belong to the folder around them.
broken=$(awk '
    function room(path,   part) {
        split(path, part, "/")
        return part[1] ~ /^(engine|harness)$/ && path ~ /^[^\/]*\/[^\/]*\// ? part[1] "/" part[2] : part[1]
    }
    BEGIN {
        base = " base "; kernels = " kernels" base
        may["base"] = base
        may["kernels"] = kernels
        may["engine/checkpoint"] = " engine/checkpoint" kernels
        may["engine/tokenizer"] = " engine/tokenizer" base
        may["engine"] = " engine engine/checkpoint engine/tokenizer" kernels
        may["engine/tuner"] = " engine/tuner" may["engine"]
        may["engine/cuda"] = " engine/cuda" may["engine/tuner"]
        may["library"] = " library" may["engine/cuda"]
        may["suites"] = " suites" may["engine/cuda"]
        may["results"] = " results" base
        may["reports"] = " reports" may["results"]
        may["harness/measure"] = " harness/measure reports results" may["suites"]
        may["harness/sweep"] = " harness/sweep" may["harness/measure"]
        may["harness/cli"] = " harness/cli" may["harness/sweep"]
        # A library is known in one room.
        only["sqlite3.h"] = "results"
        only["pcre2.h"] = only["utf8proc.h"] = "engine/tokenizer"
        only["cuda.h"] = only["cuda_runtime.h"] = only["cuda_bf16.h"] = only["cublas_v2.h"] = "kernels"
    }
    !/^[ \t]*#[ \t]*include/ { next }
    {
        from = room(FILENAME)
        name = $0; sub(/^[^"<]*["<]/, "", name); sub(/[">].*/, "", name)
        where = FILENAME ":" FNR ": "
        if ($0 ~ /</) {
            if ((name in only) && only[name] != from) print where "<" name "> belongs to " only[name] "/ alone"
            next
        }
        if (name == "version.h" && from ~ /^(harness|library)/) next
        if (name !~ /\//) print where "\"" name "\": write the path from the project root"
        else if (!index(may[from], " " room(name) " ")) print where from "/ may include" may[from] "and not " room(name) "/"
    }
' $sources)
[ -z "$broken" ] || { echo "$broken"; failed=1; }

quiet=$(echo "$sources" | grep -vE '^(harness/cli|suites/demo/train|library/examples)/') # the latter two hold programs of their own
loud=$(grep -nE '(^|[^a-z_])(printf|puts|putchar|perror|exit)[[:space:]]*\(|f(printf|puts)\((stdout|.*, *stdout\))' $quiet)
[ -z "$loud" ] || { echo "$loud" | sed 's/$/   <- only harness\/cli prints or exits/'; failed=1; }

if [ $# -gt 0 ]; then
    for header in $(echo "$sources" | grep '\.h$') tests/*/*.h; do
        "$1" -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-function -I. ${2:+"-I$2"} -fsyntax-only \
            -include "$header" -x c /dev/null || { echo "$header does not compile alone"; failed=1; }
    done
fi
exit $failed
