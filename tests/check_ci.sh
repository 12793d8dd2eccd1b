#!/bin/sh
# The CI recipes of docs/: clean for the linters that are installed, and every option they use is one the program has.
# usage: check_ci.sh SPARSEGAUGE DOCS    exit 77: no linter is installed, and nothing else was wrong
set -u
program=$1 docs=$2 bad=0 linted=0

for tool in yamllint actionlint; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool: not installed"
        continue
    fi
    case $tool in
    yamllint) yamllint --strict "$docs"/ci-github.yml "$docs"/ci-gitlab.yml "$docs"/../action.yml || bad=1 ;;
    actionlint) actionlint "$docs"/ci-github.yml || bad=1 ;;
    esac
    linted=1
done

# "sparsegauge CMD --a X \" over several lines -> "CMD --a", one a line
options() {
    awk '/(^|[ \/])sparsegauge [a-z]/ && !/^ *#/ { sub(/.*sparsegauge /, ""); cmd = $1; inside = 1 }
         /^ *- / && !/sparsegauge [a-z]/ { inside = 0 }
         inside && (/--/ || cmd) { for (i = 1; i <= NF; i++) if ($i ~ /^--/) print cmd, $i; if (/:$/) inside = 0 }
         /^ *$/ { inside = 0 }' "$1"
}
n=0
for file in "$docs"/ci-github.yml "$docs"/ci-gitlab.yml; do
    for pair in $(options "$file" | tr ' ' ','); do
        command=${pair%%,*} option=${pair#*,}
        n=$((n + 1))
        if ! "$program" "$command" --help | grep -Eq -e "$option([^a-z-]|$)"; then
            echo "$file: sparsegauge $command has no option $option"
            bad=1
        fi
    done
done
[ "$n" -ge 20 ] || { echo "found $n options in the recipes, expected 20 or more"; bad=1; }
echo "$n options checked"
[ $bad = 0 ] || exit 1
[ $linted = 1 ] || exit 77
