#!/usr/bin/env bash
# The Python module's tests on the library and program that were built, and the code of docs/library.md as it stands there.
#   check_python.sh SOURCE BUILD     exit 77: python3 lacks what they need; SG_PYTHON names another python3
set -u
source=$(realpath "$1") build=$(realpath "$2") python=${SG_PYTHON:-python3} bad=0
export SPARSEGAUGE_LIBRARY=$build/libsparsegauge.so SPARSEGAUGE_PROGRAM=$build/sparsegauge PYTHONPATH=$source/library/python
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false
has() { "$python" -c "import $1" 2>/dev/null; }
has numpy || { echo "skipped: $python has no numpy; python3 -m venv V && V/bin/pip install numpy torch transformers pandas, then SG_PYTHON=V/bin/python"; exit 77; }
cd "$source/library/python/tests"
has pandas || echo "without pandas: data frames are not tested"
"$python" test_arrays.py || bad=1
if has torch && has transformers; then
    "$python" test_models.py || bad=1
    "$python" test_document.py || bad=1
else
    echo "without torch and transformers: models are not tested ($python has none)"
    [ $bad = 0 ] && exit 77
fi
exit $bad
