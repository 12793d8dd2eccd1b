#!/usr/bin/env bash
# check_planted.sh PROGRAM FAULT MODEL: the program has that fault in its attention; audit and the gate's self-test must end with 1
# and name it. FAULT "none": both must pass.
set -u
program=$1 fault=$2 model=$3
case $fault in
none) claim="every claim holds" ;;
ledger) claim="the ledger counts what the map holds .*FAILS" ;;
leak) claim="later keys and values do not reach earlier outputs .*FAILS" ;;
mask) claim="left-out tiles leave no trace .*FAILS" ;;
precision) claim="the output is what the definition says .*FAILS" ;;
esac
eight=()
[ "$fault" = precision ] && eight=(--qk int8 --pv fp8)
want=1
[ "$fault" = none ] && want=0
said=$("$program" audit "$model" -q --threads 2 --max-length 512 --num-samples 1 ${eight[@]+"${eight[@]}"} 2>&1)
code=$?
if [ $code -ne $want ] || ! grep -q "$claim" <<<"$said"; then
  echo "audit ended with $code and does not say \"$claim\":"
  echo "$said"
  exit 1
fi
[ "$fault" = precision ] && exit 0 # the self-test tries full products alone
if [ "$fault" = none ] && ! "$program" audit "$model" -q --threads 2 --max-length 512 --num-samples 1 --qk int8 --pv fp8 >/dev/null; then
  echo "audit fails in eight bits"
  exit 1
fi
said=$("$program" gate --self-test --model "$model" -q --threads 2 --max-length 512 --num-samples 3 2>&1) # two texts decide little: t is 12.7
code=$?
if [ $code -ne $want ] || { [ "$fault" = none ] && ! grep -q "every planted fault was caught" <<<"$said"; }; then
  echo "the gate's self-test ended with $code, expected $want:"
  echo "$said"
  exit 1
fi
