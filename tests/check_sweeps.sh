#!/usr/bin/env bash
# Runs the shell recipes of docs/sweeps.md as they stand there, on a Slurm and an mpirun that are scripts.
#   check_sweeps.sh PROGRAM DOCS MODEL
set -euo pipefail
program=$(realpath "$1") docs=$(realpath "$2") model=$(realpath "$3")
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
mkdir bin submit
ln -s "$program" bin/sparsegauge
fail() { echo "check_sweeps: $*" >&2; exit 1; }

# The N-th block of the page whose first line is ```KIND.
block() { awk -v kind="\`\`\`$1" -v n="$2" '$0 == kind && ++seen == n { on = 1; next } /^```/ { on = 0 } on' "$docs/sweeps.md"; }

# sbatch: tasks one after another, at once; those of $LOST are on nodes that die before they begin.
cat >bin/sbatch <<'END'
#!/usr/bin/env bash
array= wrap= script=
while [ $# -gt 0 ]; do
    case $1 in
        --array=*) array=${1#*=} ;;
        --wrap) wrap=$2; shift ;;
        --parsable|--dependency=*) ;;
        *) script=$1 ;;
    esac
    shift
done
export SLURM_SUBMIT_DIR=$PWD SLURM_CPUS_PER_TASK=1 SLURM_JOB_ID=77
if [ -n "$wrap" ]; then
    sh -c "$wrap" >wrap.log 2>&1
    echo $? >wrap.code
    exit
fi
[ -n "$array" ] || array=$(sed -n 's/^#SBATCH --array=//p' "$script")
ids=$(for part in ${array//,/ }; do seq "${part%-*}" "${part#*-}"; done)
export SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_COUNT=$(echo "$ids" | wc -l)
export SLURM_ARRAY_TASK_MIN=$(echo "$ids" | head -1) SLURM_ARRAY_TASK_MAX=$(echo "$ids" | tail -1)
SLURM_ARRAY_TASK_STEP=1
[ "$SLURM_ARRAY_TASK_COUNT" = 1 ] ||
    SLURM_ARRAY_TASK_STEP=$(((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN) / (SLURM_ARRAY_TASK_COUNT - 1)))
export SLURM_ARRAY_TASK_STEP
for id in $ids; do
    case " $LOST " in *" $id "*) continue ;; esac
    SLURM_ARRAY_TASK_ID=$id SLURM_PROCID=0 SLURM_NTASKS=1 bash "$script" >>task.log 2>&1 || echo "task $id ended with $?" >>task.log
done
echo 77
END
cat >bin/srun <<'END'
#!/bin/sh
SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 exec "$@"
END
cat >bin/mpirun <<'END'
#!/usr/bin/env bash
n=$2
shift 2
for ((i = 0; i < n; i++)); do OMPI_COMM_WORLD_RANK=$i OMPI_COMM_WORLD_SIZE=$n "$@" --threads 1 & done
wait
END
chmod +x bin/*
export PATH=$here/bin:$PATH MODEL=$model XDG_CACHE_HOME=$here/cache

cd submit
cat >grid.json <<'END'
{"name": "grid", "num_samples": 1, "max_length": 512,
 "method": ["topk:.3", "window:64,window:65,window:66,window:67,window:68,window:69,window:70,window:71"]}
END

block bash 1 >sweep.sbatch
grep -q 'auto/8' sweep.sbatch || fail "the first bash block of docs/sweeps.md is not the batch script"
block bash 2 >first.sh
block bash 3 >again.sh
LOST='3 5' bash -e first.sh
[ "$(cat wrap.code)" = 3 ] || { cat task.log wrap.log >&2; fail "two tasks are lost and status says $(cat wrap.code)"; }
LOST='' bash -e again.sh
[ "$(cat wrap.code)" = 0 ] || { cat task.log wrap.log >&2; fail "after the tasks were sent again status says $(cat wrap.code)"; }
[ "$(ls results.*-of-*.db | wc -l)" = 8 ] || fail "expected eight parts, found $(ls results.*)"
[ "$(sqlite3 all.db 'SELECT count(*) FROM run')" = 9 ] || fail "expected 9 runs"
[ "$(cat task.log | grep -c '^\[')" = 9 ] || { cat task.log >&2; fail "some cell ran twice"; }
bash -e first.sh # once more: nothing is left to do
[ "$(cat wrap.code)" = 0 ] && [ "$(cat task.log | grep -c '^\[')" = 9 ] || fail "a second submission ran something"

rm -f results.* all.db*
grep -A1 '^mpirun' "$docs/sweeps.md" | sed "s|MODEL|$MODEL|; s|--threads 8||" >mpi.sh
grep -q mpirun mpi.sh && grep -q merge mpi.sh || fail "no mpirun recipe in docs/sweeps.md"
bash -e mpi.sh >mpi.log 2>&1 || { cat mpi.log >&2; fail "the mpirun recipe failed"; }
sparsegauge status --db all.db >/dev/null || fail "the mpirun recipe left cells out"
echo "check_sweeps: the recipes of docs/sweeps.md do what they say"
