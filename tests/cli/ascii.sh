# Where the locale does not say UTF-8, nothing but ASCII is printed.
sparsegauge eval "$MODEL" $small --db r.db --topk .5 >/dev/null
sparsegauge eval "$MODEL" $small --db r.db --method window --window 128 >/dev/null
beyond() { LC_ALL=C grep -c '[^ -~	]' || true; } # lines
commands=('show 1 --db r.db' 'list --db r.db' 'compare 1 2 --db r.db' 'list suites' 'list methods' 'list kernels' 'frontier --db r.db'
    'tokens 1 --db r.db' 'gate 1 --db r.db --max-kl 1e-9' "info $MODEL")
for command in $(sparsegauge -h | sed -n 's/^  \([a-z]*\) .*/\1/p'); do commands+=("$command -h"); done
for locale in C.UTF-8 C POSIX ''; do
    n=0
    for command in "${commands[@]}"; do n=$((n + $( (LC_ALL=$locale sparsegauge $command 2>&1 || true) | beyond))); done
    if [ "$locale" = C.UTF-8 ]; then echo "$locale: $([ $n -gt 100 ] && echo signs beyond ASCII)"
    else echo "'$locale': $n lines with signs beyond ASCII"; fi
done
LC_ALL=C sparsegauge show 1 --db r.db --part samples | sed -n 1,3p
# programs get UTF-8 in any locale
mkdir é && cp "$MODEL"/* é/
LC_ALL=C sparsegauge info é --format json | grep -c '"model": "é"'
LC_ALL=C sparsegauge info é | sed -n 1p
