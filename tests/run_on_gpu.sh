#!/bin/sh
# Runs in the folder that `./dev gpu` packs: checks the CUDA kernels, times them, and evaluates the bundled model on
# the GPU. Results go to $OUT (default: out beside this file).
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
mkdir -p "$out"
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$here/bin/check_kernels_cuda" || exit 1
"$here/bin/check_kernels_cuda" --bench "$out/kernels.txt" || exit 1
"$here/bin/sparsegauge" eval "$here/model" --suite needle --max-length 4096 --device cuda --db "$out/gpu.db" \
    --output "$out/before_tune.json"
