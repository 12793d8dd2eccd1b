#!/bin/sh
# What `./dev gpu` packs and a machine with a GPU runs; it needs neither this tree nor a network.
#   run.sh [STEP...]     without one: check bench peers eval
#     check | quick   every CUDA kernel against the fp64 reference, the curves against the CPU's, or less than half of that
#     bench           times them into kernels.txt
#     peers           PyTorch's attention, FlexAttention and SpargeAttn beside them, as far as python3 has them
#     eval            the bundled model, dense and sparse
#     engine          a 1B shape beside transformers (writes 2.5 GB into the temporary folder, takes minutes)
# Results go to $OUT (default: out beside this file). $PYTHON is the python3 that has PyTorch.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
python=${PYTHON:-python3}
mkdir -p "$out" || exit 3
[ $# -gt 0 ] || set -- check bench peers eval

# cuBLAS is loaded at run time: the toolkit's, or the one that came with PyTorch.
libraries=$here/lib
for folder in /usr/local/cuda/lib64 $("$python" -c 'import importlib.util as u, glob
spec = u.find_spec("nvidia")
print(*(f for p in (spec.submodule_search_locations if spec else []) for f in glob.glob(p + "/*/lib")))' 2>/dev/null); do
    if ls "$folder"/libcublas.so.* >/dev/null 2>&1; then libraries=$libraries:$folder; break; fi
done

# For our programs alone: the packed libstdc++ may be older than the one that PyTorch wants.
ours() {
    program=$1
    shift
    LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$here/bin/$program" "$@"
}

engine() {
    model=$(mktemp -d) || return 3
    ours sparsegauge synth --shape llama-3.2-1b "$model/1b" || { rm -rf "$model"; return 3; }
    for n in 2048 8192 32768; do
        ours sparsegauge bench "$model/1b" --device cuda --max-length $n
    done
    "$python" "$here/bench_engine.py" "$model/1b" 2048 8192 32768
    rm -rf "$model"
}

step() {
    case $1 in
        check) ours check_kernels_cuda && ours check_curve_cuda ;;
        quick) ours check_kernels_cuda --quick && ours check_curve_cuda --quick ;;
        bench) ours check_kernels_cuda --bench "$out/kernels.txt" ;;
        peers)
            if ! [ -s "$out/kernels.txt" ]; then
                echo "peers need $out/kernels.txt: run the step bench before"; return 2
            elif ! command -v "$python" >/dev/null; then
                echo "peers not run: there is no $python here (PYTHON=... names one that has PyTorch)"
            else
                "$python" "$here/bench_peers.py" "$out/kernels.txt"
            fi ;;
        eval)
            ours sparsegauge eval "$here/model" --suite needle --max-length 4096 --device cuda --topk .4 \
                --db "$out/gpu.db" --output "$out/before_tune.json" ;;
        engine) engine ;;
        *) echo "run.sh: no step is called '$1'; see the head of $0" >&2; exit 2 ;;
    esac
}

if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi
failed=
for name; do
    echo "== $name"
    step "$name" || { echo "== $name failed with code $?" >&2; failed="$failed $name"; }
done
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
