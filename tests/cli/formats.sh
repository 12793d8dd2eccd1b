# Every command: one JSON document, lines of JSON, one CSV; keys in snake case; outcome and causes in the gate's.
db() { sqlite3 :memory: "$1"; }
sparsegauge eval "$MODEL" $small --db r.db --topk .5 >/dev/null
sparsegauge eval "$MODEL" $small --db r.db --method window --window 128 >/dev/null
sparsegauge tune "$MODEL" --threads 1 -q --max-length 300 --num-tune-samples 1 --check 0 --held-out 0 --layers 7 --l1 .06 --db r.db -o t.json >/dev/null
machine="--threads 1 -q --cache none"
sweep="$MODEL $machine --max-length 300 --num-samples 2 --topk"
commands=(
    "info $MODEL --check" "eval $MODEL $small --topk .5 --db r.db" "eval $MODEL $small --topk .5 --db r.db --suite chronicle --suite needle:lengths=256"
    "tune $MODEL $machine --max-length 300 --num-tune-samples 1 --check 0 --held-out 0 --layers 7 --l1 .06 --db r.db -o t.json"
    "tune $MODEL $machine --max-length 300 --num-tune-samples 1 --check 0 --held-out 0 --layers 7 --l1 .06 --db r.db --dry-run"
    "sweep $MODEL $machine --max-length 300 --num-samples 2 --method topk:.5,topk:.3 --db s.db"
    "sweep $MODEL $machine --max-length 300 --num-samples 2 --method topk:.5 --db s.db --dry-run"
    "status --db s.db" "status --db s.db --explain 1" "merge s.db --db m.db" "best --max-kl 9 --db r.db" "frontier --db r.db --audit"
    "tokens 1 --db r.db" "explain t.json" "explain t.json --by-layer" "list --db r.db" "list suites" "list methods" "list kernels"
    "show 1 --db r.db" "show 1 --db r.db --part heads" "compare 1 2 --db r.db" "gate 1 --db r.db --max-kl 1e-9" "gate 1 --db r.db --max-kl 99"
    "audit $MODEL $machine --max-length 300 --num-samples 1" "report 1 --db r.db -o rep --no-png" "suite chronicle --length 2000" "suite chronicle --length 2000 --questions"
    "suite chronicle --model $MODEL --max-length 300" "synth --list" "generate $MODEL $machine -p Once -n 3"
    "generate $MODEL $machine --max-length 400 --topk .5" "version" "sql --db r.db --schema" "sql --db r.db VALUES(1)"
)
for command in "${commands[@]}"; do
    rc=0; sparsegauge $command --format json >x.json 2>err.txt || rc=$?
    echo "$ $command: $rc" | sed "s#$MODEL#MODEL#; s/$machine //; s/$small //"
    db "SELECT '  valid ' || json_valid(j) || ', ' || (SELECT group_concat(key, ' ') FROM json_each(j) WHERE key NOT IN ('command', 'schema_version', 'version')) FROM (SELECT readfile('x.json') AS j);
        SELECT '  its exit_code is another' WHERE json_extract(readfile('x.json'), '$.exit_code') IS NOT $rc;
        SELECT DISTINCT '  no snake case: ' || key FROM json_tree(readfile('x.json')) WHERE '$command' NOT GLOB 'sql*' AND typeof(key) = 'text' AND key GLOB '*[^a-z0-9_]*'"
    (sparsegauge $command --format jsonl || true) >x.jsonl 2>/dev/null
    sqlite3 :memory: 'CREATE TABLE l(line)' '.mode ascii' '.separator "\037" "\n"' '.import x.jsonl l' "SELECT '  a line that is no JSON: ' || line FROM l WHERE NOT json_valid(line)"
    (sparsegauge $command --format csv || true) >x.csv 2>/dev/null
    [[ $(sed -n 1p x.csv) =~ ^[a-z][a-z0-9_,]*.?$ || $command = sql* ]] || echo "  CSV begins: $(sed -n 1p x.csv)"
done
echo "== one document, also of what fails"
sparsegauge show 77 --db r.db --format json 2>/dev/null || true
sparsegauge show --no-such-option --format json 2>/dev/null || true
echo "== the gate's"
sparsegauge gate 1 --db r.db --max-kl 1e-9 --format json >g.json || true
db "SELECT json_extract(j, '$.gate.outcome'), json_extract(j, '$.checks[0].check'), json_extract(j, '$.checks[0].outcome'), json_array_length(j, '$.causes') FROM (SELECT readfile('g.json') AS j)"
echo "== keys of runs are columns of v_runs or run"
sparsegauge list --db r.db --format json >l.json
sqlite3 r.db "SELECT key FROM json_each(json_extract(readfile('l.json'), '$.runs[0]')) WHERE key NOT IN (SELECT name FROM pragma_table_info('v_runs')) AND key NOT IN (SELECT name FROM pragma_table_info('run'))"
sparsegauge show 1 --db r.db --part metrics --format json >m.json
sqlite3 r.db "SELECT key FROM json_each(json_extract(readfile('m.json'), '$.metrics[0]')) WHERE key NOT IN (SELECT name FROM pragma_table_info('v_metrics'))"
