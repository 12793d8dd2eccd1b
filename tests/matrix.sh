#!/usr/bin/env bash
# ./dev test in fresh roots of Debian: a clone of HEAD, with gcc, with clang, and the CUDA build if this machine has nvcc.
#   matrix.sh [SUITE...]          bookworm trixie; needs root, debootstrap and a mirror
# Prints a row for each; logs go to out/matrix. MATRIX_ROOTS says where the roots are made (out/matrix/roots, 2 GiB each,
# removed behind their tests), MATRIX_MIRROR where packages come from, MATRIX_WAYS what is run (gcc clang nvcc).
set -euo pipefail
cd "$(dirname "$0")/.."
logs=$PWD/out/matrix
roots=${MATRIX_ROOTS:-$logs/roots}
mirror=${MATRIX_MIRROR:-http://deb.debian.org/debian}
toolkit=$(command -v nvcc >/dev/null && readlink -f /usr/local/cuda || true)

say() { echo "matrix: $*" >&2; }
die() { say "$@"; exit 1; }
[ "$(id -u)" = 0 ] || die "chroot and debootstrap need root"
[ -z "$(git status --porcelain --untracked-files=no)" ] || die "uncommitted changes: what is tested is HEAD"
mkdir -p "$logs" "$roots"

inside() { # ROOT TOOLKIT COMMAND: there, with /proc, and with the CUDA toolkit if named; the mounts end with the command
    unshare --mount bash -c '
        set -e
        mount -t proc proc "$1/proc"
        mkdir -p "$1/dev/shm"
        mount -t tmpfs tmpfs "$1/dev/shm"
        [ -z "$2" ] || { mkdir -p "$1$2"; mount --bind -o ro "$2" "$1$2"; ln -sfn "$2" "$1/usr/local/cuda"; }
        exec chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
            ${OPENBLAS_CORETYPE:+OPENBLAS_CORETYPE=$OPENBLAS_CORETYPE} \
            ${OPENBLAS_L2_SIZE:+OPENBLAS_L2_SIZE=$OPENBLAS_L2_SIZE} nice bash -euc "$3"' - "$@"
}

way_command() {
    case $1 in
        gcc) echo './dev test' ;;
        clang) echo 'apt-get install -qy --no-install-recommends clang && CC=clang ./dev test' ;;
        nvcc) echo './dev gpu' ;; # no GPU is needed to build and pack
        *) die "MATRIX_WAYS: found \"$1\", expected gcc, clang or nvcc" ;;
    esac
}

row() { # SUITE WAY ROOT LOG OUTCOME SECONDS
    local version
    version=$(inside "$3" "$toolkit" "case $2 in nvcc) /usr/local/cuda/bin/nvcc --version | sed -n /release/p ;; *) $2 --version ;; esac" |
        head -n 1)
    printf '| %s | %s | %s | %s | %s s |\n' "$1" "$version" \
        "$(inside "$3" '' 'dpkg-query -Wf "\${Version}" libopenblas-dev' || echo -)" \
        "$5$(sed -n 's/^\([0-9]* tests* failed\|[0-9]*% tests passed.*\)$/: \1/p' "$4" | tail -n 1)" "$6"
}

failed=0
echo '| suite | compiler | OpenBLAS | outcome | time |'
echo '| --- | --- | --- | --- | --- |'
for suite in ${*:-bookworm trixie}; do
    root=$roots/$suite
    rm -rf "$root"
    say "$suite: making a root"
    debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$logs/$suite.log" 2>&1 ||
        { failed=1; echo "| $suite | - | - | no root: $(tail -n 1 "$logs/$suite.log") | - |"; continue; }
    for way in ${MATRIX_WAYS:-gcc clang nvcc}; do
        [ $way != nvcc ] || [ -n "$toolkit" ] || { say "$suite nvcc: skipped, this machine has no nvcc"; continue; }
        log=$logs/$suite-$way.log begin=$SECONDS outcome=passed bind=''
        [ $way != nvcc ] || bind=$toolkit
        command=$(way_command $way)
        say "$suite $way: $command; log: $log"
        rm -rf "$root/src"
        git clone -q . "$root/src"
        inside "$root" "$bind" "apt-get -q update && cd /src && $command" >"$log" 2>&1 || { outcome=FAILED; failed=1; }
        row $suite $way "$root" "$log" "$outcome" $((SECONDS - begin))
        cp "$root/src/build/Testing/Temporary/LastTest.log" "$logs/$suite-$way.tests" 2>/dev/null || true
    done
    rm -rf "$root"
done
exit $failed
