#!/usr/bin/env bash
# The sweeps behind docs/frontier.png, about ten minutes on two cores. usage, from the repository's root:
#   docs/pictures/frontier.sh build/sparsegauge suites/demo/model front.db
set -eu
same="--db $3 --max-length 2048 --num-samples 6 --num-tune-samples 3 --check 1 --held-out 0 --worst 0"
"$1" sweep "$2" $same --name l1 --l1 .01,.02,.03,.045,.06,.08
"$1" sweep "$2" $same --name tail --rule tail --l1 .2,.35,.5,.65,.85
"$1" sweep "$2" $same --name ours --method sparge/bound --rule rmse --l1 .03,.05,.07,.09,.12
"$1" sweep "$2" $same --name oracle --method oracle --rule rmse --l1 .03,.05,.07,.1,.14
"$1" sweep "$2" $same --name window --method window:1024,window:512,window:256
