#!/usr/bin/env bash
# The wheel as users have it: in a fresh Debian root without compiler or any of its libraries it is installed into a venv, and the module's
# tests and the code of docs/library.md run on it; then the source tree is installed there with `pip install`, isolated, by a compiler.
#   check_wheel.sh FOLDER [SUITE]     FOLDER holds one wheel; needs root, debootstrap, a mirror, and pip here for what the root asks of PyPI
# SG_PYTHON=V/bin/python: a python3 with torch and transformers, of the root's version; without it models are not tested.
# WHEEL_ONLY=1 leaves the source tree out, which takes minutes.
set -euo pipefail
folder=$(realpath "$1") suite=${2:-bookworm} python=${SG_PYTHON:-}
cd "$(dirname "$0")/.."
source tests/root.sh
root=${PACKAGES_ROOT:-$PWD/out/wheel/root}
die() { echo "check_wheel: $*" >&2; exit 1; }
set -- "$folder"/*.whl
[ $# = 1 ] && [ -f "$1" ] || die "$folder: expected one wheel, found $#"
case $1 in *-manylinux_2_*) ;; *) die "$1 is not tagged manylinux: pip takes it on machines where it may not run" ;; esac
root_make "$root" "$suite" || die "no root, no test"
root_run "$root" 'apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends python3-venv >/dev/null 2>&1; useradd -m user'
version=$(root_run "$root" 'python3 -c "import sys; print(\"%d.%d\" % sys.version_info[:2])"')
home=$root/home/user
mkdir -p "$home/wheels"
cp "$1" "$home/wheels/"
pip3 download -q -d "$home/wheels" --only-binary :all: --python-version "$version" numpy pandas scikit-build-core pathspec || die "PyPI is not there"
git ls-files -z | xargs -0 cp --parents -t "$(mkdir -p "$home/source" && echo "$home/source")"
root_run "$root" 'chown -R user /home/user; for tool in cc gcc cmake ninja; do ! command -v $tool || { echo "$tool is there"; exit 1; }; done'
mounts='' models=''
if [ -n "$python" ] && [ "$("$python" -c 'import sys, torch, transformers; print("%d.%d" % sys.version_info[:2])')" = "$version" ]; then
    mounts=$("$python" -c 'import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))'):/opt/site
    models='test_models.py test_document.py'
else echo "without torch and transformers for Python $version (SG_PYTHON): models and the document are not tested"
fi
as_user() { ROOT_MOUNTS=$mounts root_run "$root" "su -s /bin/bash user -c 'set -euo pipefail; cd; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/home/user/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error; $1'"; }
tests='cd source/library/python/tests; for t in test_arrays.py '$models'; do ~/v/bin/python $t 2>&1 | tail -n 3 | tr "\n" " "; echo $t; done; cd'
venv='rm -rf v; python3 -m venv v; if [ -d /opt/site ]; then at=$(echo v/lib/python3.*/site-packages); echo /opt/site >$at/site.pth; fi'
where='v/bin/python -c "import sparsegauge; print(sparsegauge.__file__, sparsegauge.program())"'
as_user "$venv; v/bin/pip install -q pandas sparsegauge; $where; v/bin/sparsegauge gate --self-test --max-length 512 --num-samples 3 | tail -n 1; $tests"
echo "the wheel runs without a compiler and without its libraries installed"
[ -z "${WHEEL_ONLY:-}" ] || { rm -rf "$root"; exit 0; }
root_run "$root" 'apt-get install -qy --no-install-recommends build-essential cmake ninja-build pkg-config libcjson-dev libsqlite3-dev libopenblas-dev \
                  libpcre2-dev libutf8proc-dev libxxhash-dev >/dev/null 2>&1; rm /home/user/wheels/sparsegauge-*'
as_user "$venv; v/bin/pip install -q pandas ./source; $where; $tests"
echo "pip install of the source tree, isolated, runs too"
rm -rf "$root"
