# The frontier of methods against the limit. Data: frontier.csv (frontier.sh, make.sh)
set encoding utf8
set terminal pngcairo size 2000,1080 font 'Liberation Sans,24' background '#ffffff' noenhanced
set output '../frontier.png'
set datafile separator ','
unset key
ink = '#1b1f24'; dim = '#57606a'
set border 3 lw 1.5 lc rgb '#8a939d'
set tics nomirror scale .6 textcolor rgb dim
set grid lt 1 lw 1 lc rgb '#e4e7ea'
set lmargin at screen .065; set rmargin at screen .83; set tmargin at screen .84; set bmargin at screen .1
set label 1 "What a method loses at the sparsity it reaches" at screen .015,.955 left tc rgb ink font 'Liberation Sans Bold,32'
set label 2 "KL divergence of the next token, nats (log scale); bars: 95 % over 6 texts of 2048 tokens" at screen .015,.905 left tc rgb dim
set label 3 "sparsity: attention work left out, %" at screen .83,.025 right tc rgb dim
set logscale y
set xrange [0:62]
set yrange [.0003:2]
set ytics ('.001' .001, '.01' .01, '.1' .1, '1' 1)
set xtics 10
set style fill solid 1
of(plan) = sprintf("< awk -F, '$1 == \"%s\" && $6 > .02' frontier.csv", plan)
# between the limit and the best that is predicted: what is left to win
band = "< awk -F, '($1 == \"oracle\" || $1 == \"ours\") && $6 > .02 { x[$1] = x[$1] \" \" $6; y[$1] = y[$1] \" \" $7 } END { n = split(x[\"oracle\"], a); split(y[\"oracle\"], b); for (i = 1; i <= n; i++) print a[i] \",\" b[i]; m = split(x[\"ours\"], a); split(y[\"ours\"], b); for (i = m; i >= 1; i--) print a[i] \",\" b[i] }' frontier.csv"
set style textbox noborder
last(plan, column) = real(system(sprintf("awk -F, '$1 == \"%s\" { v = $%d } END { print v }' frontier.csv", plan, column)))
array plan[5] = ['window', 'l1', 'tail', 'ours', 'oracle']
array text[5] = ["a sliding window", "SpargeAttn, guide’s rule l1", "SpargeAttn, rule tail", "best of two predictors,\nfor each head", "the limit: tiles ranked\nby their true mass"]
array color[5] = ['#8a6d00', '#c24e00', '#b0568a', '#0072b2', '#000000']
do for [i=1:5] {
    set label 10+i text[i] at 100*last(plan[i],6),last(plan[i],7) left offset 1.2,(i > 3 ? .5 : 0) tc rgb color[i] font 'Liberation Sans Bold,24'
}
set label 20 "left to win" at 37,.0068 center tc rgb '#0072b2' font 'Liberation Sans,22' front
plot band using (100*$1):2 with filledcurves closed fs transparent solid .10 fc rgb '#0072b2', \
     for [i=1:5] of(plan[i]) using (100*$6):7 with lines lw 3.5 dt (i == 5 ? 2 : 1) lc rgb color[i], \
     for [i=1:5] of(plan[i]) using (100*$6):7:8:9 with yerrorbars pt 7 ps 2 lw 2 lc rgb color[i]
