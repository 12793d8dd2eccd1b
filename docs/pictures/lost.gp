# What was lost, and where: answers by the distance to their evidence. Data: lost.csv (make.sh)
set encoding utf8
set terminal pngcairo size 2000,860 font 'Liberation Sans,24' background '#ffffff' noenhanced
set output '../lost.png'
set datafile separator ','
unset key
unset colorbox
unset border
ink = '#1b1f24'; dim = '#57606a'
set lmargin at screen .285; set rmargin at screen .985; set tmargin at screen .77; set bmargin at screen .035
set label 1 "Answers lost, % of those that dense attention gets right" at screen .015,.945 left tc rgb ink font 'Liberation Sans Bold,32'
asked = system(sprintf("awk -F, '$1 == %d { n += $8 } END { print n }' lost.csv", int(system("awk -F, 'NR == 2 { print $1 }' lost.csv"))))
set label 2 "by the number of tokens between a question and its evidence; ".asked." questions about texts of 4096 tokens" at screen .015,.885 left tc rgb dim
# runs in the order of the table of README.md
array run[6]; array name[6]
do for [i=1:6] {
    run[i] = int(system(sprintf("awk -F, 'NR > 1 && !seen[$1]++ && ++n == %d { print $1 }' lost.csv", i)))
    name[i] = system(sprintf("awk -F, '$1 == %d { gsub(/\"/, \"\", $3); m = $2; if ($3 != \"\") m = m \", rule \" $3; else if (m == \"sparge\") m = m \", untuned\"; print m; exit }' lost.csv", run[i]))
}
sparsity(i) = 100 * real(system(sprintf("awk -F, '$1 == %d { print $4; exit }' lost.csv", run[i])))
short(s) = s eq 'sparge/bound, rule rmse' ? 'sparge/bound, rmse' : s eq 'window' ? 'window of 256' : s eq 'oracle' ? 'oracle, the limit' : s
do for [i=1:6] {
    set label 20+i short(name[i]) at screen .015, graph 1-(i-.5)/6. left tc rgb ink
    set label 30+i sprintf('%.0f %%', sparsity(i)) at screen .268, graph 1-(i-.5)/6. right tc rgb dim
}
set label 40 "attention" at screen .015, graph 1.045 left tc rgb dim
set label 41 "sparsity" at screen .268, graph 1.045 right tc rgb dim
row(id) = (id - run[1]) / (run[2] - run[1])
set xrange [-.5:6.5]
set yrange [5.5:-.5]
unset ytics
set x2range [-.5:6.5]
unset xtics
set x2tics scale 0 ('under 64' 0, '64 to 127' 1, '128 to 255' 2, '256 to 511' 3, '512 to 1023' 4, '1024 to 2047' 5, '2048 to 4095' 6) offset 0,-.4 textcolor rgb dim font 'Liberation Sans,22'
set palette defined (0 '#f3f5f7', .02 '#fdf0d9', .1 '#fdcc8a', .25 '#fc8d59', .6 '#d7301f', 1 '#8f0d05')
set cbrange [0:1]
set style fill solid 1 border lc rgb '#ffffff'
lost(d, s) = d > 0 ? (d - s) / d : NaN
shown(d, s) = d == s ? '0' : sprintf('%.0f', 100 * lost(d, s) < 1 ? 1 : 100 * lost(d, s))
plot 'lost.csv' skip 1 using 5:(row($1)):(.5):(.5):(lost($6, $7)) with boxxyerror lw 5 fc palette, \
     '' skip 1 using 5:(row($1)):(lost($6,$7) > .4 ? shown($6,$7) : '') with labels tc rgb '#ffffff' font 'Liberation Sans Bold,30', \
     '' skip 1 using 5:(row($1)):(lost($6,$7) <= .4 && lost($6,$7) > 0 ? shown($6,$7) : '') with labels tc rgb ink font 'Liberation Sans Bold,30', \
     '' skip 1 using 5:(row($1)):(lost($6,$7) == 0 ? '0' : '') with labels tc rgb '#57606a' font 'Liberation Sans,30'
