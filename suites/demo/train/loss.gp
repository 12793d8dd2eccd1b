# gnuplot -c loss.gp ../loss.csv ../loss.svg
set terminal svg size 760,340 font "sans-serif,12" background "white"
set output ARG2
set datafile separator comma
set xlabel "million tokens"
set ylabel "nats per token"
set yrange [0.005:10]
set logscale y
set grid
set key top right
plot ARG1 every ::1 using ($3/1e6):8 with lines title "books", \
     ARG1 every ::1 using ($3/1e6):6 with lines title "chronicles and needles", \
     ARG1 every ::1 using ($3/1e6):7 with lines title "tokens of answers"
