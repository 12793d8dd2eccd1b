# gnuplot docs/studies/rules.gp, from the repository's root: docs/studies/rules.png from docs/studies/rules.csv
set encoding utf8
set datafile separator ','
set terminal pngcairo size 2000,1000 font 'Liberation Sans,24' background '#ffffff' noenhanced
set output 'docs/studies/rules.png'
ink = '#1b1f24'; dim = '#57606a'
set border 3 lw 1.5 lc rgb '#8a939d'
set tics nomirror scale .6 textcolor rgb dim
set grid lt 1 lw 1 lc rgb '#e4e7ea'
set xrange [25:53]
set xtics 10
set logscale y
array of[9] = ['l1', 'tail', 'both', 'rmse', 'tail by head', 'rmse by head', 'l1', 'tail', 'rmse by head']
array said[9] = ['l1, the guide’s', 'tail', 'both', 'rmse', 'tail, a bound for each head', 'rmse, a bound for each head', 'l1, true mass', 'tail, true mass', 'rmse for each head, true mass']
color(i) = word('#c24e00 #b0568a #8a6d00 #0072b2 #b0568a #0072b2 #c24e00 #b0568a #0072b2', i)
dash(i) = i > 6 ? 2 : 1
point(i) = i > 6 ? 6 : i > 4 ? 5 : 7
rows(i, column) = sprintf("< awk -F, '$1 == \"%s\" && $2 == \"%s\" { print $4 \",\" $%d }' docs/studies/rules.csv | sort -n", i > 6 ? 'oracle' : 'sparge', of[i], column)
set multiplot
set label 1 "Which rule bounds a head best" at screen .015,.955 tc rgb ink font 'Liberation Sans Bold,32'
set label 2 "dashed: tiles ranked by their true mass, the limit of any prediction; squares: a bound for each head" at screen .015,.9 tc rgb dim
set label 3 "sparsity: attention work left out, %" at screen .985,.03 right tc rgb dim
set tmargin at screen .79; set bmargin at screen .12
set lmargin at screen .055; set rmargin at screen .48
set label 4 "KL divergence of the next token, nats" at graph 0,1.06 tc rgb ink
set yrange [.004:.3]
set ytics ('.005' .005, '.01' .01, '.02' .02, '.05' .05, '.1' .1, '.2' .2)
set key top left Left reverse samplen 2 spacing 1 textcolor rgb ink font 'Liberation Sans,19'
plot for [i=1:9] rows(i, 6) using (100*$1):2 with linespoints lw 3 ps 1.8 dt dash(i) pt point(i) lc rgb color(i) title said[i]
unset label
unset key
set lmargin at screen .56; set rmargin at screen .985
set label 4 "answers lost of those that dense attention has right, %" at graph 0,1.06 tc rgb ink
set label 5 "none lost is drawn here" at 32.3,.0495 tc rgb dim font 'Liberation Sans,19'
lost(x) = (.9955 - x) * 100 + .05
set yrange [.04:25]
set ytics ('0' .05, '.2' .2, '.5' .5, '1' 1, '2' 2, '5' 5, '10' 10, '20' 20)
plot for [i=1:9] rows(i, 7) using (100*$1):(lost($2)) with linespoints lw 3 ps 1.8 dt dash(i) pt point(i) lc rgb color(i)
