# root.sh: fresh roots for tests of what is handed out; sourced. They need root, debootstrap and a mirror.
#   root_make ROOT SUITE    bookworm, trixie, noble …; with ROOTS_KEEP=FOLDER unpacked from FOLDER/SUITE.tar, which the first call makes
#   root_run ROOT SCRIPT    bash -euo pipefail there as root, with /proc and nothing of this environment; ROOT_MOUNTS: "FROM:TO …", read only
root_make() {
    local suite=$2 mirror=${MATRIX_MIRROR:-http://deb.debian.org/debian} kept=${ROOTS_KEEP:+$ROOTS_KEEP/$2.tar} script='' unsigned=''
    [ "$(id -u)" = 0 ] || { echo "chroot and debootstrap need root" >&2; return 1; }
    case $suite in # Debian has no keys of Ubuntu's
        jammy | noble) mirror=${UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu} unsigned=--no-check-gpg ;;
    esac
    # an Ubuntu that this debootstrap does not know is made as the one that it does
    [ -e /usr/share/debootstrap/scripts/"$suite" ] || script=/usr/share/debootstrap/scripts/jammy
    rm -rf "$1" && mkdir -p "$1"
    if [ -z "$kept" ] || [ ! -f "$kept" ]; then
        debootstrap --variant=minbase $unsigned "$suite" "$1" "$mirror" $script >"$1.log" 2>&1 || { echo "no root: $(tail -n 1 "$1.log")" >&2; return 1; }
        rm -f "$1.log"
        case $suite in jammy | noble) echo "deb $mirror $suite main universe" >"$1/etc/apt/sources.list" ;; esac
        [ -z "$kept" ] || tar -C "$1" -cf "$kept" .
    else tar -C "$1" -xf "$kept"
    fi
}

root_run() {
    unshare --mount bash -c '
        set -e
        mount -t proc proc "$1/proc"
        for pair in $3; do mkdir -p "$1${pair#*:}"; mount --bind "${pair%%:*}" "$1${pair#*:}"; mount -o remount,bind,ro "$1${pair#*:}"; done
        exec chroot "$1" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive bash -euo pipefail -c "$2"' - "$1" "$2" "${ROOT_MOUNTS:-}"
}
