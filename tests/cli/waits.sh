# On a terminal one line of progress, drawn over; without one nothing for what is short; Ctrl-C says what is kept and how to go on.
long="--threads 1 --cache none --max-length 1024 --num-samples 200"
command -v script >/dev/null || { echo "util-linux's script is missing"; exit 1; }
begin() { timeout --preserve-status -s INT "$1" "${@:2}" >out.txt 2>err.txt && echo 0 || echo $?; }
lines() { tr '\r' '\n' <tty.txt | sed 's/\x1b\[K//' | grep "^$1: " | sed -E 's/[0-9]+ %/N %/; s/[0-9]+:[0-9]+ left/M:SS left/; s/[0-9.e+]+ tokens/N tokens/; s/cell [0-9]+ of 8: .*/cell N of 8: …/'; }
echo "== a terminal"
script -qec "timeout -s INT 5 sparsegauge eval $MODEL $long --topk .5 --db r.db" /dev/null </dev/null >tty.txt || true
lines eval | sort -u
echo "== no terminal: no line in the first 30 seconds; interrupted"
begin 3 sparsegauge eval "$MODEL" $long --topk .5 --db r.db
cat err.txt
echo "== a sweep: the time left covers what has not begun; what is stored is kept, and the same command goes on"
sweep="sparsegauge sweep $MODEL --threads 1 --cache none --max-length 2048 --num-samples 4 --method topk:.9,topk:.8,topk:.7,topk:.6,topk:.5,topk:.4,topk:.3,topk:.2 --db s.db"
script -qec "timeout -s INT 6 $sweep" /dev/null </dev/null >tty.txt || true
lines sweep | grep 'cell N of 8' | sed 's/, N tokens a second//' | sort -u
grep -o 'stopped on request.*' tty.txt | tr -d '\r'
echo "== status --watch, and Ctrl-C leaves the sweep alone"
begin 3 sparsegauge status --watch --db s.db
cat err.txt
