#!/bin/sh
# Runs in the folder that `./dev gpu` packs: checks the CUDA kernels, times them, and evaluates the bundled model on
# the GPU. Results go to $OUT (default: out beside this file).
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
mkdir -p "$out"
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# cuBLAS is loaded at run time: the toolkit's, or the one that came with PyTorch.
for folder in /usr/local/cuda/lib64 $(python3 -c 'import importlib.util as u, glob
spec = u.find_spec("nvidia")
print(*(f for p in (spec.submodule_search_locations if spec else []) for f in glob.glob(p + "/*/lib")))' 2>/dev/null); do
    if ls "$folder"/libcublas.so.* >/dev/null 2>&1; then LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$folder"; break; fi
done
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$here/bin/check_kernels_cuda" || exit 1
"$here/bin/check_kernels_cuda" --bench "$out/kernels.txt" || exit 1
"$here/bin/sparsegauge" eval "$here/model" --suite needle --max-length 4096 --device cuda --db "$out/gpu.db" \
    --output "$out/before_tune.json"
