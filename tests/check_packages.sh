#!/usr/bin/env bash
# The packages as users without build tools have them: in a fresh Debian root the tar.gz runs as it is unpacked, then the .deb is
# installed and the demo runs, as somebody who is not root.
#   check_packages.sh FOLDER [SUITE]     FOLDER holds what cpack made; needs root, debootstrap and a mirror
# PACKAGES_ROOT says where the root is made (out/packages/root, removed in the end); tests/root.sh, where from.
set -euo pipefail
folder=$(realpath "$1") suite=${2:-bookworm}
cd "$(dirname "$0")/.."
root=${PACKAGES_ROOT:-$PWD/out/packages/root}
die() { echo "check_packages: $*" >&2; exit 1; }
source tests/root.sh
inside() { root_run "$root" "$1"; }
root_make "$root" "$suite" || die "no root, no test"
cp "$folder"/*.tar.gz "$folder"/*.deb "$root/root/"
inside 'for tool in cc gcc clang cmake make ninja python3 gnuplot; do ! command -v $tool || { echo "$tool is there"; exit 1; }; done
        useradd -m user; cp /root/*.tar.gz /home/user
        su -s /bin/bash user -c "set -euo pipefail; cd; tar xzf *.tar.gz && mv sparsegauge-*-Linux moved && moved/bin/sparsegauge version &&
                    moved/bin/sparsegauge gate --self-test --max-length 512 --num-samples 3" | tail -n 2
        test -z "$(ldconfig -p | grep -E "openblas|cjson")" && echo "the tar.gz runs without any of its libraries installed"'
inside 'apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends /root/*.deb >/dev/null 2>&1
        sparsegauge version; test "$(command -v sparsegauge)" = /usr/bin/sparsegauge; test -s /usr/share/man/man1/sparsegauge.1* -o -n "$(grep -r path-exclude /etc/dpkg 2>/dev/null)"
        su -s /bin/bash user -c "cd && sparsegauge demo -o demo" | tail -n 14
        test -s /home/user/demo/index.html -o -s /home/user/demo/report/index.html && echo "the .deb is installed, and its demo wrote a report"
        apt-get remove -qy sparsegauge >/dev/null 2>&1; test ! -e /usr/bin/sparsegauge -a ! -e /usr/share/sparsegauge && echo "and is gone again"'
rm -rf "$root"
