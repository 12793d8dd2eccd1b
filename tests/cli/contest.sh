# Methods at equal sparsity, the mass that their tiles hold and what choosing takes, stored for every cell that asked for it.
sweep="sparsegauge sweep $MODEL --threads 1 --cache none -q --max-length 400 --num-samples 2 --block 64x64 --name p --db s.db"
some="-m bound:.9,bound:.5,topk:.9,topk:.5,a-shape+window=300,a-shape+window=60"
$sweep $some >/dev/null
sparsegauge sql --db s.db --format csv "SELECT count(*) FROM metric WHERE name IN ('recall', 'latency_predict')"
$sweep $some --recall 2>/dev/null | grep -o '[0-9]* run, [0-9]* reused'
sparsegauge sql --db s.db --format csv "SELECT count(*) FROM metric WHERE name = 'latency_predict' AND mean > 0"
$sweep $some --recall 2>/dev/null | grep -o '[0-9]* run, [0-9]* reused'
sparsegauge frontier --db s.db --format jsonl | grep -o '"table": *"contest".*"method": *"[^"]*"' | grep -o '[^"]*"$' | sort
sparsegauge report --plan p --db s.db -o page >/dev/null 2>&1
grep -o 'Methods at equal sparsity: chronicle, up to 400 tokens, blocks 64x64' page/report.md page/index.html | sort -u
show sparsegauge eval $MODEL -m xattention --smooth-k global
show sparsegauge eval $MODEL -m xattention+stride=7 --block 64x64 --max-length 300 --num-samples 1 --cache none -q
show sparsegauge eval $MODEL -m a-shape+window=-1
# Of a corrected run the tiles that one mean key stood for, by layer and in the ledger.
sparsegauge eval $MODEL $small --block 64x64 -m bound --topk .5 --correct mean --db c.db >/dev/null
sparsegauge show last --db c.db --part layers --format csv | head -1 | grep -o corrected_share
sparsegauge sql --db c.db --format csv "SELECT count(*) FROM v_ledger WHERE tiles_corrected > 0 AND tiles_corrected <= tiles_possible - tiles_computed" | tail -1
