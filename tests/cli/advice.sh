# What a command advises runs; what it says of a text names it; nothing stands for what it is not.
quick="--threads 1 --cache none -q"
sparsegauge eval "$MODEL" $small --db r.db --topk .5 >/dev/null
sparsegauge eval "$MODEL" $small --db r.db --topk .7 >/dev/null
sparsegauge eval "$MODEL" $small --db r.db --suite needle:lengths=256 --topk .4 >/dev/null
echo "== best: one answer for each data set, each with a command that finds its run stored"
sparsegauge best --max-kl 99 --db r.db --format jsonl | grep -o '"dataset": "[^"]*"\|"topk": [0-9.]*' | paste - -
sparsegauge best --max-kl 99 --db r.db | sed -n 's/^  \(sparsegauge eval .*\)/\1/p' >commands.txt
while read -r command; do $command $quick --db r.db | sed -n 1p; done <commands.txt
echo "== best: bounds that nothing holds, and bounds that hold on one data set alone"
show sparsegauge best --max-kl 0 --min-cosine 1 --db r.db --suite chronicle | sed 's/found .*//'
echo "== frontier: a table for each data set"
sparsegauge frontier --db r.db --all | grep -c '^Frontier'
echo "== eval: the command it ends with runs"
sparsegauge eval "$MODEL" ${small/samples 2/samples 5} --db w.db --method window --window 1 >worst.txt
sed -n 's/^next *//p' worst.txt
sed -n 's/^  \(sparsegauge .*\)/\1/p' worst.txt | sed "s/-o tuned.json/$quick --num-tune-samples 1 --check 0 --held-out 0 --layers 7 -o tuned.json/" >next.txt
sed "s/ -o .*//; s/ --db.*//; s/ $quick.*//" next.txt
code bash next.txt
echo "== eval: more texts of a grid come by its repeat"
sparsegauge eval "$MODEL" $quick --db g.db --max-length 300 --suite 'needle:lengths=300;depths=50;repeat=1' --topk .5 | grep -A1 '^next'
echo "== a program that is called by its path advises that path"
"$(command -v sparsegauge)" eval "$MODEL" ${small/samples 2/samples 5} --db w.db --method window --window 1 | sed -n 's#^  \(/.*/sparsegauge tune\) .*#\1#p'
echo "== tune: its text by name; that it is generated, unless the model is the bundled one; what to do next"
cp -r "$MODEL" mine
sparsegauge tune mine --threads 1 --max-length 300 --num-tune-samples 1 --check 0 --held-out 0 --layers 7 --l1 .06 --db t.db -o t.json 2>&1 | grep -A1 '^tuned on\|generated\|^next'
sparsegauge tune "$MODEL" --threads 1 --max-length 300 --num-tune-samples 1 --check 0 --held-out 0 --layers 7 --l1 .06 --db t.db -o t.json 2>&1 | grep -c generated || true
echo "== generate: without a prompt the guide's, behind a text that sparse prefill leaves something out of"
sparsegauge generate "$MODEL" $quick --max-length 600 --topk .5 --format jsonl | grep -o '"prompt": "[^"]*"\|"prefill": "[a-z]*"\|"sparsity": 0\.[1-9]' | paste - - -  | sed 's/0\.[1-9]/more than .1/'
sparsegauge generate --model_name "$MODEL" --max_length 400 --layer_range 4,8 --generate --compile --output g.json -q --threads 1 >/dev/null
grep -c '"prompt"' g.json
show sparsegauge generate "$MODEL" -q --dense
echo "== list kernels: what keeps a GPU's from running"
sparsegauge list kernels | grep -c '^no GPU here: ' || sparsegauge list kernels | grep -c 'takes the calls'
echo "== compare: no ratio over nothing"
sparsegauge eval "$MODEL" $small --db r.db --method sparge --simthreshd1 -1 --cdfthreshd 1 >/dev/null
sparsegauge compare 4 1 --db r.db --format jsonl | grep -o '"name": "kl",.*"before": [-0-9.e]*\|"ratio": [a-z0-9.]*' | sed -n '/"kl"/,+1p' | sed 's/.*"before"/before/'
