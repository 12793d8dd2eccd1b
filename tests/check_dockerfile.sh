#!/usr/bin/env bash
# What `docker build .` and `docker run` would do, where there is no Docker and no registry: the Dockerfile is read, each stage begins in a
# fresh root of its base image's distribution, every step is carried out there, and the entry point runs at the end as the image's user.
#   check_dockerfile.sh [--configure] [NAME=VALUE...]     build arguments, as with --build-arg; exit 77: no root user or debootstrap
# nvidia/cuda images are the Ubuntu they stand on, with this machine's CUDA toolkit mounted where the image has its own. --configure ends
# where the compiler would begin. DOCKERFILE_ROOTS says where the roots are made (out/docker, removed in the end).
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/root.sh
say() { echo "check_dockerfile: $*"; }
die() { say "$@" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { say "skipped: chroot needs root"; exit 77; }
command -v debootstrap >/dev/null || { say "skipped: debootstrap is not installed"; exit 77; }
roots=${DOCKERFILE_ROOTS:-$PWD/out/docker} configure='' root='' user=root folder=/ entry='' arguments=''
declare -A given=() defaults=() stage=()
for x; do
    case $x in --configure) configure=1 ;; *=*) given[${x%%=*}]=${x#*=} ;; *) die "found \"$x\", expected NAME=VALUE" ;; esac
done
toolkit=$(command -v nvcc >/dev/null && readlink -f /usr/local/cuda || true)
environment=''

words() { sed -e 's/^\[//' -e 's/\]$//' -e 's/", *"/" "/g' <<<"$1"; } # ["a", "b"] -> "a" "b"
begin() { # IMAGE NAME
    local suite
    ROOT_MOUNTS='' environment=''
    case $1 in
        debian:*) suite=${1#debian:}; suite=${suite%-slim} ;;
        nvidia/cuda:*-ubuntu24.04 | ubuntu:24.04) suite=noble ;;
        nvidia/cuda:*-ubuntu22.04 | ubuntu:22.04) suite=jammy ;;
        *) die "FROM $1: this test knows no such image" ;;
    esac
    case $1 in nvidia/cuda:*-devel-*)
        [ -n "$toolkit" ] || { say "skipped: $1 has a CUDA toolkit, this machine none"; exit 77; }
        ROOT_MOUNTS="$toolkit:$toolkit $toolkit:/usr/local/cuda"
        environment='export PATH=/usr/local/cuda/bin:$PATH; ' ;;
    esac
    root=$roots/$2 user=root folder=/
    stage[$2]=$root
    root_make "$root" "$suite" || die "no root of $suite"
}
step() { # INSTRUCTION REST
    local rest=$2 name
    case $1 in
        ARG) name=${rest%%=*}
             [[ $rest != *=* ]] || defaults[$name]=${rest#*=}
             environment+="export $name=$(printf %q "${given[$name]-${defaults[$name]-}}"); " ;;
        FROM) for name in "${!defaults[@]}"; do rest=${rest//\$\{$name\}/${given[$name]-${defaults[$name]}}}; done
              set -- $rest
              begin "$1" "${3:-final}" ;;
        RUN) [ -z "$configure" ] || rest=${rest%%&& cmake --build*}
             root_run "$root" "$environment cd $folder; $(printf '%s' "$rest" | sed 's/\r//')" >"$roots/log" 2>&1 || { tail -n 20 "$roots/log"; die "RUN $rest: failed"; }
             if [ -n "$configure" ] && [ "$rest" != "$2" ]; then grep -E 'CUDA|compiler identification' "$roots/log" || true; say "configured; the compiler is left out"; rm -rf "$roots"; exit 0; fi ;;
        COPY) set -- $rest
              if [[ $1 == --from=* ]]; then mkdir -p "$root$(dirname "$3")" && cp -a "${stage[${1#--from=}]}$2" "$root$3"
              elif [ "$1" = . ]; then mkdir -p "$root$2" && git ls-files -z | grep -zvE "^($(tr '\n' '|' <.dockerignore | sed -e 's/\./\\./g' -e 's/|$//'))(/|$)" | xargs -0 cp --parents -t "$root$2"
              else die "COPY $rest: this test knows no such form"; fi ;;
        USER) user=$rest ;;
        WORKDIR) folder=$rest; mkdir -p "$root$folder" ;;
        ENTRYPOINT) entry=$(words "$rest") ;;
        CMD) arguments=$(words "$rest") ;;
        *) die "$1: this test knows no such instruction" ;;
    esac
}
in_image() { root_run "$root" "su -s /bin/bash $user -c 'cd $folder && $entry $1'"; }

mkdir -p "$roots"
n=0
while IFS= read -r line; do
    n=$((n + 1))
    say "$(cut -c1-110 <<<"$line")"
    step "${line%% *}" "${line#* }"
done < <(sed -e '/^#/d' -e '/^$/d' Dockerfile | sed -e ':a' -e '/\\$/{N;s/\\\n *//;ba' -e '}')
[ $n -ge 10 ] || die "the Dockerfile has $n steps: was it read?"
in_image "$arguments" | head -n 3
in_image 'gate --self-test --max-length 512 --num-samples 3' | tail -n 1
[ "$(in_image 'version' | head -n 1)" != '' ] || die "no version"
root_run "$root" "! command -v cc && ! command -v cmake && [ \"\$(stat -c %U $folder)\" = $user ]" || die "the image has a compiler, or $folder is not $user's"
say "$n steps; the image runs as $user in $folder, $(du -sm "$root/opt/sparsegauge" | cut -f1) MB of it ours"
rm -rf "$roots"
