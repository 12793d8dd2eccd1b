# Tables fit 60, 80, 120 and 200 columns, and 120 where there is no terminal: the weightiest columns stay, and what went is
# said. One row that does not fit stands upright. Nothing is cut.
sparsegauge eval "$MODEL" $small --db r.db --topk .5 >/dev/null
sparsegauge eval "$MODEL" $small --db r.db --method window --window 128 >/dev/null
sparsegauge eval "$MODEL" $small --db r.db --suite needle:lengths=256 --topk .5 >/dev/null
# header lines without numbers, which differ by machine
head_of() { awk '/^─/ { stop = 1 } !stop' | tr -s ' ' | sed 's/^all rows.*//; s/ *$//'; }
for width in 60 80 120 200; do
    echo "== $width columns"
    for command in list 'list suites' 'list methods' 'show 1' 'show 1 --part heads' 'show 1 --part samples' 'compare 1 2' 'gate 1 --max-kl 9 --min-cosine .1' frontier; do
        found=$( (COLUMNS=$width sparsegauge $command $([[ $command = list\ * ]] || echo --db r.db) 2>&1 || true) | grep -v '^  sparsegauge' | widest)
        [ "$found" -le $width ] || echo "$command is $found wide"
    done
    COLUMNS=$width sparsegauge show 1 --db r.db --part metrics | head_of
    COLUMNS=$width sparsegauge show 1 --db r.db --part metrics | sed -n '/^no room/,/)$/p'
done
echo "== texts are wrapped, then the rightmost go"
for width in 40 60; do
    COLUMNS=$width sparsegauge sql --db r.db "SELECT 'a name of a few words' AS name, 'a/long/path/without/any/space/in/it.json' AS file, 0.25 AS first, 123456 AS second, 'text' AS third UNION ALL SELECT 'b', 'f', 1, 2, 'x'"
done
echo "== no terminal, no COLUMNS"
[ "$(sparsegauge show 1 --db r.db --part metrics | widest)" -le 120 ] && echo "at most 120"
echo "== one row"
COLUMNS=80 sparsegauge sql --db r.db "SELECT id, status, model, dataset, method, layers, max_length, num_samples, block_q, block_k, smooth_k, device FROM v_runs LIMIT 1"
echo "== as wide as it is: every column"
COLUMNS=1000 sparsegauge show 1 --db r.db --part metrics | head_of
