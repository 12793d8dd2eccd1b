# gnuplot docs/studies/rules.gp, from the repository's root: docs/studies/rules.png from docs/studies/rules.csv
set datafile separator ','
set terminal pngcairo size 1200,520 font 'sans,11'
set output 'docs/studies/rules.png'
set multiplot layout 1,2
set key top left
set xlabel 'sparsity, %'
set grid
rows(by, rule, column) = sprintf("< awk -F, '$1 == \"%s\" && $2 ~ /^%s$/ {print $4 \",\" $%d}' docs/studies/rules.csv | sort -n", by, rule, column)
set logscale y
set xrange [25:53]
set ylabel 'KL, nats'
plot rows('sparge', 'l1', 6) using ($1*100):2 with linespoints lw 2 pt 7 lc 1 title 'l1', \
     rows('sparge', 'tail', 6) using ($1*100):2 with linespoints lw 2 pt 7 lc 2 title 'tail', \
     rows('sparge', 'both', 6) using ($1*100):2 with linespoints lw 2 pt 7 lc 3 title 'both', \
     rows('sparge', 'rmse', 6) using ($1*100):2 with linespoints lw 2 pt 7 lc 4 title 'rmse', \
     rows('sparge', 'rmse by head', 6) using ($1*100):2 with linespoints lw 2 pt 5 lc 7 title 'rmse, by head', \
     rows('sparge', 'tail by head', 6) using ($1*100):2 with linespoints lw 2 pt 5 lc 2 title 'tail, by head', \
     rows('oracle', 'l1', 6) using ($1*100):2 with linespoints dt 2 pt 6 lc 1 title 'oracle, l1', \
     rows('oracle', 'tail', 6) using ($1*100):2 with linespoints dt 2 pt 6 lc 2 title 'oracle, tail', \
     rows('oracle', 'rmse by head', 6) using ($1*100):2 with linespoints dt 2 pt 4 lc 7 title 'oracle, rmse by head'
# none lost is drawn at .05
set ylabel 'answers lost, % (dense: 99.5 % right)'
lost(x) = (.9955 - x) * 100 + .05
set yrange [.04:40]
plot rows('sparge', 'l1', 7) using ($1*100):(lost($2)) with linespoints lw 2 pt 7 lc 1 notitle, \
     rows('sparge', 'tail', 7) using ($1*100):(lost($2)) with linespoints lw 2 pt 7 lc 2 notitle, \
     rows('sparge', 'both', 7) using ($1*100):(lost($2)) with linespoints lw 2 pt 7 lc 3 notitle, \
     rows('sparge', 'rmse', 7) using ($1*100):(lost($2)) with linespoints lw 2 pt 7 lc 4 notitle, \
     rows('sparge', 'rmse by head', 7) using ($1*100):(lost($2)) with linespoints lw 2 pt 5 lc 7 notitle, \
     rows('sparge', 'tail by head', 7) using ($1*100):(lost($2)) with linespoints lw 2 pt 5 lc 2 notitle, \
     rows('oracle', 'l1', 7) using ($1*100):(lost($2)) with linespoints dt 2 pt 6 lc 1 notitle, \
     rows('oracle', 'tail', 7) using ($1*100):(lost($2)) with linespoints dt 2 pt 6 lc 2 notitle, \
     rows('oracle', 'rmse by head', 7) using ($1*100):(lost($2)) with linespoints dt 2 pt 4 lc 7 notitle
