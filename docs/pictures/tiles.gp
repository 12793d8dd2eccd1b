# What a tile map is, and how differently heads of one model read. Data: tiles.dat (make.sh)
set encoding utf8
set terminal pngcairo size 2000,980 font 'Liberation Sans,22' background '#ffffff' noenhanced
set output '../tiles.png'
unset key
unset colorbox
ink = '#1b1f24'; dim = '#57606a'; blue = '#0072b2'; grey = '#dfe3e8'; orange = '#c24e00'
set border 15 lw 1.5 lc rgb '#8a939d'
set style fill solid 1 noborder
boxes = "using (0.5*($1+$2)):(0.5*($3+$4)):(0.5*($2-$1)):(0.5*($4-$3)) with boxxyerror fc rgb '#0072b2'"
set multiplot
set object 1 polygon from 0,0 to 64,0 to 64,32 to 0,0 behind fc rgb grey fs solid noborder
set xrange [0:60]
set yrange [30:0]
set tics scale 0 textcolor rgb dim

# one head, large
set lmargin at screen .06; set rmargin at screen .46
set tmargin at screen .885; set bmargin at screen .085
set label 1 "A tile map: what one head computes" at screen .06,.955 left tc rgb ink font 'Liberation Sans Bold,30'
set label 2 "layer 4, head 2: ".system("awk '/ out$/ { print $6; exit }' tiles.dat")." % of the tiles are left out" at screen .06,.912 left tc rgb dim
set xtics ('0' 0, '1024' 16, '2048' 32, '3072' 48) offset 0,.4
set ytics ('0' 0, '1024' 8, '2048' 16, '3072' 24)
set label 3 "keys: what is read" at screen .46,.03 right tc rgb dim
set label 4 "queries: who reads" at screen .009,.485 center rotate by 90 tc rgb dim
set label 10 "grey: the future, which no query may read" at 58.5,1.8 right tc rgb ink
set label 11 "the diagonal: every query reads" at 58.5,5.2 right tc rgb ink
set label 12 "what stands right before it" at 58.5,6.6 right tc rgb ink
set arrow 11 from 38,7.4 to 23.3,11.0 lw 2 lc rgb ink head filled size 1,18 front
set label 13 "blue: tiles of 128 queries" at 58.5,10.6 right tc rgb ink
set label 14 "and 64 keys, computed," at 58.5,12.0 right tc rgb ink
set label 15 "since they may matter" at 58.5,13.4 right tc rgb ink
set arrow 13 from 48,14.2 to 40.5,18.4 lw 2 lc rgb ink head filled size 1,18 front
set label 16 "the first tile," at 2.2,17.6 left tc rgb ink
set label 17 "always read" at 2.2,18.9 left tc rgb ink
set label 18 "white: left out," at 2.2,20.9 left tc rgb orange
set label 19 "predicted empty" at 2.2,22.2 left tc rgb orange
eval("plot 'tiles.dat' index 0 ".boxes)
unset label; unset arrow

# six others, small
set label 1 "Six other heads, the same text" at screen .5,.955 left tc rgb ink font 'Liberation Sans Bold,30'
set label 2 "4096 tokens, thresholds tuned for each head under the guide's rule l1 ≤ 0.04" at screen .5,.912 left tc rgb dim
unset xtics; unset ytics
# the shares stand in the heading of each block: "# layer 0, head 2: 83 % out"
share(i) = system(sprintf("awk '/ out$/ && n++ == %d { print $6 }' tiles.dat", i))
out(i) = share(i)." % left out"
array head[6] = ["layer 0, head 2", "layer 2, head 0", "layer 3, head 1", "layer 4, head 0", "layer 6, head 2", "layer 7, head 1"]
do for [i=1:6] {
    column = (i-1) % 3; row = (i-1) / 3
    left = .5 + .168*column; top = .825 - .445*row
    set lmargin at screen left; set rmargin at screen left + .15
    set tmargin at screen top; set bmargin at screen top - .306
    set label 3 head[i] at screen left,top+.047 left tc rgb ink font 'Liberation Sans Bold,22'
    set label 4 out(i) at screen left,top+.017 left tc rgb dim font 'Liberation Sans,20'
    eval(sprintf("plot 'tiles.dat' index %d ", i).boxes)
    unset label 1; unset label 2
}
unset multiplot
