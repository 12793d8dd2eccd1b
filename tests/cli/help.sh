# -h begins with what people use, ends with exit codes and environment, and fits the terminal.
COLUMNS=80 show sparsegauge best -h
for command in $(sparsegauge -h | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
    sparsegauge "$command" -h >help.txt
    often=$(sed -n '/^most used/,/^$/p' help.txt | grep -c '^ *-' || true)
    [ "$often" -le 6 ] || echo "$command shows $often options first"
    [ "$often" != 0 ] || [ "$(sed '/^example/,$d' help.txt | grep -c -e '^  .*--')" -le 12 ] || echo "$command shows its many options in no order"
    for part in usage: --format 'exit codes' environment example; do grep -q -e "$part" help.txt || echo "$command -h has no $part"; done
    for width in 60 80 120 200; do # command lines to copy stay whole
        found=$(COLUMNS=$width sparsegauge "$command" -h | grep -v '^  sparsegauge' | widest)
        [ "$found" -le $width ] || echo "$command -h is $found wide at $width"
    done
done
show sparsegauge version
show sparsegauge -V
