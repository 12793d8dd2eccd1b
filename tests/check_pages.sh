#!/usr/bin/env bash
# Report pages in a real browser: of a run, a comparison, a sweep of 24 cells, before/after files, times; at 390, 820 and 1280
# px, and in the dark at 1280 (tests/pages/check.js says what is looked at). usage: check_pages.sh PROGRAM MODEL [FOLDER]
# FOLDER keeps pages and a screenshot of each; AXE=axe.min.js runs axe-core on them too.
set -eu
program=$(realpath "$1") model=$(realpath "$2") here=$(realpath "$(dirname "$0")")
skip() { echo "skipped: $*"; exit 77; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[ -n "$browser" ] || skip "no chromium in PATH (apt-get install chromium)"
command -v gnuplot >/dev/null || skip "no gnuplot in PATH (apt-get install gnuplot-nox)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${3:-$work/pages}
mkdir -p "$out"
out=$(realpath "$out")
cd "$work"

run() { "$program" "$@" >make.log 2>&1 || { echo "FAIL: sparsegauge $*"; cat make.log; exit 1; }; }
short='--max-length 512 --num-samples 5 --cache none --db r.db -q'
run eval "$model" $short --output before.json
run tune "$model" --max-length 512 --num-tune-samples 2 --check 1 --held-out 1 --l1 .08 --pv-l1 .1 --db r.db -o tuned.json
run eval "$model" $short --tuned tuned.json --attribution --output after.json
run eval "$model" --suite speed:lengths=256,512 --max-length 512 --topk .5 --db speed.db -q
run sweep "$model" --db grid.db --name grid --l1 .04,.08 --pv-l1 .1,.12,.14 --layers all,4-7 --max-length 320,384 \
    --num-samples 2 --num-tune-samples 2 --check 1 --held-out 0
run report last --db r.db -o "$out/run" --no-png
run report last --baseline 1 --db r.db -o "$out/comparison" --no-png
run report after.json --baseline before.json --db nowhere.db -o "$out/files" --no-png
run report before.json after.json --db nowhere.db -o "$out/several" --no-png
run report --db speed.db -o "$out/speed" --no-png
run report --plan grid --db grid.db -o "$out/sweep" --no-png
pages='run comparison files several speed sweep'

# What a page links to is there, and no page is heavier than a mail takes.
for page in $pages; do
    grep -o 'href="[^"#][^"]*"' "$out/$page/index.html" | cut -d'"' -f2 | grep -v '^data:' | while read -r file; do
        [ -s "$out/$page/$file" ] || { echo "FAIL $page: $file is linked and not there"; exit 1; }
    done
    bytes=$(stat -c %s "$out/$page/index.html")
    [ "$bytes" -lt 1000000 ] || { echo "FAIL $page: $bytes bytes"; exit 1; }
done
[ "$(grep -o '<tr><td class="n" data-v="[0-9]*">[0-9]*</td><td>[a-z]' "$out/sweep/index.html" | wc -l)" -ge 24 ] ||
    { echo "FAIL sweep: not every one of 24 cells has a row"; exit 1; }

browse() { # SCHEME NAME ARGUMENT...: each NAME a browser of its own
    local scheme=$1 name=$2 number=1
    shift 2
    [ "$scheme" = light ] || number=0
    timeout 300 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --disable-extensions \
        --allow-file-access-from-files --user-data-dir="$work/browser-$name" --blink-settings=preferredColorScheme=$number \
        --enable-logging=stderr "$@"
}

check() { # SCHEME PAGE...: lines of what is wrong
    local scheme=$1 name=$1-$2 page width time= widths="390 820 1280"
    shift
    [ "$scheme" = light ] || widths=1280 # colours are those of any width
    {
        echo "<!doctype html><meta charset=\"utf-8\"><script>var SCHEME = '$scheme';</script>"
        if [ -n "${AXE:-}" ]; then
            echo '<script>window.AXE = '
            python3 -c 'import json, sys; print(json.dumps(sys.stdin.read()).replace("</", "<\\/"))' <"$AXE"
            echo '</script>'
            time=--virtual-time-budget=600000
        fi
        echo "<script>$(cat "$here/pages/check.js")</script>"
        for page; do
            for width in $widths; do
                echo "<iframe data-page=\"$page\" data-width=\"$width\" src=\"$out/$page/index.html\"" \
                    "style=\"border:0;display:block;height:900px;width:${width}px\"></iframe>"
            done
        done
    } >"$name.html"
    browse "$scheme" "$name" $time --window-size=1300,1000 --dump-dom "file://$work/$name.html" >"$name.dom" 2>"$name.log" || true
    grep CONSOLE "$name.log" | sed "s/^/FAIL $scheme console: /" || true
    grep -q "^LOOKED $(($(wc -w <<<"$widths") * $#))\$" "$name.dom" || { echo "FAIL $scheme: the browser did not get to the end"; tail -n 5 "$name.log"; }
    sed -n 's/^\(<pre>\)\?\(FAIL .*\)$/\2/p' "$name.dom"
}

# A page with faults planted is found out, or else nothing below says anything.
mkdir -p "$out/faulty"
sed -e 's#</main>#<p style="color:\#999">faint</p><p style="width:1400px">wide</p></main>#' \
    -e 's#<title>run#<title>$run0 using 1:2 run#g; s#font-size="12"#font-size="9"#; s#<text>run [0-9]: [^<]*<#<text>run<#' \
    -e 's#</script>#console.log("planted")</script>#' "$out/comparison/index.html" >"$out/faulty/index.html"
check light faulty >faults &
check dark $pages >dark &
check light $pages >light
wait
for fault in '"faint" has a contrast of 2' 'page is 14' '"wide" ends at' '8.28 px' 'source code' 'two lines of the key' \
    'console: .*planted'; do
    grep -q "$fault" faults || { echo "FAIL: the planted fault \"$fault\" was not found"; head faults; exit 1; }
done
rm -r "$out/faulty"

wrong=$(cat light dark)
if [ -n "${3:-}" ]; then
    for page in $pages; do
        for width in 390 820 1280; do
            for scheme in light dark; do
                browse $scheme shots --window-size=$width,2600 --screenshot="$out/$page-$width-$scheme.png" \
                    "file://$out/$page/index.html" >/dev/null 2>&1
            done
        done
    done
fi
if [ -n "$wrong" ]; then
    echo "$wrong"
    exit 1
fi
echo "pages: 6 pages at 3 widths, and in the dark: nothing wrong"
