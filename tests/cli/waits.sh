# On a terminal one line of progress, drawn over; without one nothing for what is short; Ctrl-C says what is kept and how to go on.
# Nothing is waited for longer than it takes to be seen.
long="--threads 1 --cache none --max-length 1024 --num-samples 200"
command -v script >/dev/null || { echo "util-linux's script is missing"; exit 1; }
seen() { # FILE WORDS
    for _ in $(seq 3000); do ! grep -q "$2" "$1" 2>/dev/null || return 0; sleep .1; done
    echo "\"$2\" was not seen for five minutes"
}
interrupt() { seen /proc/$1/status '^SigCgt:.*[2367abef]$'; sleep 1; kill -INT $1; } # a second after it began to listen to SIGINT
typed() { # WORDS COMMAND: on a terminal, where Ctrl-C is typed once the words are seen
    rm -f tty.txt
    (seen tty.txt "$1"; printf '\003') | script -qefc "$2" /dev/null >tty.txt || true
}
lines() { tr '\r' '\n' <tty.txt | sed 's/\x1b\[K//; s/\^C//' | grep "^$1: " | sed -E 's/[0-9]+ %/N %/; s/[0-9]+:[0-9]+ left/M:SS left/; s/[0-9.e+]+ tokens/N tokens/; s/cell [0-9]+ of 8: .*/cell N of 8: …/'; }
echo "== a terminal"
(sparsegauge eval "$MODEL" $long --topk .5 --db q.db >/dev/null 2>quiet.txt & pid=$!; interrupt $pid; rc=0; wait $pid || rc=$?; echo $rc >code.txt) &
typed 'tokens a second' "sparsegauge eval $MODEL $long --topk .5 --db r.db"
lines eval | sort -u
echo "== no terminal: no line in the first 30 seconds; interrupted"
wait
cat code.txt quiet.txt
echo "== a sweep: the time left covers what has not begun; what is stored is kept, and the same command goes on"
typed 'cell [12] of 8: .*left' "sparsegauge sweep $MODEL --threads 1 --cache none --max-length 2048 --num-samples 4 --method topk:.9,topk:.8,topk:.7,topk:.6,topk:.5,topk:.4,topk:.3,topk:.2 --db s.db"
lines sweep | grep 'cell N of 8' | sed 's/, N tokens a second//' | sort -u
grep -o 'stopped on request.*' tty.txt | tr -d '\r'
echo "== status --watch, and Ctrl-C leaves the sweep alone"
env --default-signal=INT sparsegauge status --watch --db s.db >out.txt 2>err.txt &
interrupt $!
wait $! && echo 0 || echo $?
cat err.txt
