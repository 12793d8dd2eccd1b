# One suggestion, no page of help, exit code 2; and formats that are none are refused by every command before any work.
show sparsegauge evla
show sparsegauge nothing-like-it
show sparsegauge help tnue
show sparsegauge evla --format json
show sparsegauge eval "$MODEL" --suite 'needle:lengths=256;lengths=512'
show sparsegauge eval "$MODEL" --method bound+rows=8+rows=16
show sparsegauge eval "$MODEL" --max-lenght 300
show sparsegauge eval "$MODEL" --max_lenght 300
show sparsegauge eval "$MODEL" --frmat json
show sparsegauge eval "$MODEL" --l1 .05
show sparsegauge list kernals
show sparsegauge list --format yaml
sparsegauge eval "$MODEL" $small --db r.db >/dev/null
show sparsegauge show last --db r.db --part metrcs
for command in $(sparsegauge -h | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
    echo "$command --format yaml: $(code sparsegauge "$command" --format yaml)"
done
