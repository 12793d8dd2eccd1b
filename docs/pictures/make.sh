#!/usr/bin/env bash
# The pictures of README.md. From the repository's root:
#   build/sparsegauge demo -o out/demo
#   docs/pictures/make.sh out/demo/demo.db          lost.csv, tiles.dat, then the pictures
#   docs/pictures/make.sh                           the pictures alone, from the data that are here
#   docs/pictures/make.sh out/demo/demo.db front.db also frontier.csv, from the sweeps that docs/pictures/frontier.sh makes
set -euo pipefail
cd "$(dirname "$0")"
program=$OLDPWD/build/sparsegauge
absolute() { case $1 in /*) echo "$1" ;; *) echo "$OLDPWD/$1" ;; esac; }

if [ $# -ge 1 ]; then
    demo=$(absolute "$1")
    # Answers right by doublings of the distance to their evidence, a line per run on the texts.
    sqlite3 -csv -header "$demo" "
        SELECT r.id AS run, r.method, coalesce(r.rule, '') AS rule, r.sparsity,
               max(0, CAST(log2(max(i.length * (1 - i.depth), 1) / 32) AS INTEGER)) AS doubling,
               sum(i.dense_right) AS dense, sum(i.sparse_right) AS sparse, count(*) AS n
        FROM item i JOIN run r ON r.id = i.run JOIN dataset d ON d.id = r.dataset
        WHERE d.suite = 'chronicle' GROUP BY 1, 5 ORDER BY 1, 5" >lost.csv
    # Tile maps as boxes of tiles (first key, last, first query, last), a block each, from the pictures of a report.
    work=$(mktemp -d)
    "$program" report "$(sqlite3 "$demo" "SELECT min(id) FROM run WHERE rule = 'l1'")" --db "$demo" -o "$work" --no-png >/dev/null
    : >tiles.dat
    for head in 4_head2 0_head2 2_head0 3_head1 4_head0 6_head2 7_head1; do
        file=$(ls "$work"/pictures/mask_layer"$head"_*.gp)
        sed -n 's/^set label 900 "\([^"]*\)".*/# \1/p; s/^set label 901 "\([^"]*\)".*/# \1/p' "$file" >>tiles.dat
        sed -n '/^\$mask0 << EOD/,/^EOD/{//!p}' "$file" | grep -v NaN >>tiles.dat
        printf '\n\n' >>tiles.dat
    done
    rm -r "$work"
fi
if [ $# -ge 2 ]; then
    sqlite3 -csv -header "$(absolute "$2")" "
        SELECT plan, method, coalesce(rule, '') AS rule, l1, window, sparsity, kl_mean, kl_lo, kl_hi, score_drop
        FROM v_runs WHERE status = 'done' ORDER BY plan, sparsity" >frontier.csv
fi
for picture in tiles lost frontier; do gnuplot "$picture.gp"; done
