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
set lmargin at screen .065; set rmargin at screen .86; set tmargin at screen .84; set bmargin at screen .1
set label 1 "What a method loses at the sparsity it reaches" at screen .015,.955 left tc rgb ink font 'Liberation Sans Bold,32'
set label 2 "KL divergence of the next token, nats (log scale); bars: 95 % over 6 texts of 2048 tokens" at screen .015,.905 left tc rgb dim
set label 3 "sparsity: attention work left out, %" at screen .86,.025 right tc rgb dim
set logscale y
set xrange [0:65]
set yrange [.0003:2]
set ytics ('.001' .001, '.01' .01, '.1' .1, '1' 1)
set xtics 10
of(plan) = sprintf("< awk -F, '$1 == \"%s\" && $6 > .02' frontier.csv", plan)
array plan[5] = ['window', 'l1', 'tail', 'ours', 'oracle']
array said[5] = ["a sliding window", "SpargeAttn, guide’s rule l1", "SpargeAttn,\nrule tail", "best of two\npredictors,\nfor each head", "the limit: tiles ranked\nby their true mass"]
color(i) = word('#8a6d00 #c24e00 #b0568a #0072b2 #000000', i)
point(plan, n, column) = real(system(sprintf("awk -F, '$1 == \"%s\" && $6 > .02 && ++n == %d { print $%d }' frontier.csv", plan, n, column)))
# beside the line's last point, or where there is room by its first
do for [i=1:5] {
    n = i < 3 ? int(system("grep -c '^".plan[i].",' frontier.csv")) : i == 5 ? 4 : 1
    x = 100*point(plan[i], n, 6) + (i < 3 ? .9 : i == 5 ? 1.2 : i == 3 ? -.7 : -2); y = point(plan[i], n, 7) * (i == 3 ? 3 : i == 4 ? .44 : i == 5 ? .55 : 1)
    hue = color(i)
    if (i == 3) { set label 10+i said[i] at x,y right font 'Liberation Sans Bold,24' tc rgb hue } else { if (i == 4) { set label 10+i said[i] at x,y center font 'Liberation Sans Bold,24' tc rgb hue } else { set label 10+i said[i] at x,y left font 'Liberation Sans Bold,24' tc rgb hue } }
}
set label 20 "left to win" at 42.1,.0178 center tc rgb '#0072b2' font 'Liberation Sans,20' front
plot for [i=1:5] of(plan[i]) using (100*$6):7 with lines lw 3.5 lc rgb color(i), \
     for [i=1:5] of(plan[i]) using (100*$6):7:8:9 with yerrorbars pt 7 ps 2 lw 2 lc rgb color(i)
