#!/usr/bin/env bash
# The completions of bash, zsh and fish as those shells read them: the commands, and of every command the same options in all three.
#   check_completions.sh SPARSEGAUGE     exit 77: zsh or fish is not installed, and nothing else was wrong
set -uo pipefail
program=$1 here=$(mktemp -d) bad=0 absent=''
drive=$(realpath "$(dirname "$0")/cli/complete.zsh")
trap 'rm -rf "$here"' EXIT
complain() { echo "check_completions: $*"; bad=1; }
for shell in bash zsh fish; do "$program" completion $shell >"$here/$shell" || exit 1; done
cp "$here/zsh" "$here/_sparsegauge"
mkdir "$here/somewhere" && touch "$here/somewhere/a_file.json" && cd "$here/somewhere" || exit 1

in_bash() { # lines -> offers, an empty line behind each
    bash --norc -c 'source "$1"
        while IFS= read -r line; do
            read -ra COMP_WORDS <<<"$line"
            [[ $line != *" " ]] || COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
            _sparsegauge
            [ ${#COMPREPLY[@]} = 0 ] || printf "%s\n" "${COMPREPLY[@]}" | LC_ALL=C sort -u
            echo
        done' - "$here/bash"
}
in_zsh() { HOME=$here TERM=xterm zsh -f "$drive" "$here"; }
in_fish() { HOME=$here fish --no-config -c 'source $argv[1]; while read -l line; complete -C "$line" | string split -f1 \t; echo; end' "$here/fish" |
    awk '/^$/ { close("LC_ALL=C sort -u"); print; fflush(); next } { print | "LC_ALL=C sort -u" }'; }

commands=$("$program" help | awk '/^  [a-z]+ / { print $1 }')
[ "$(wc -w <<<"$commands")" -ge 20 ] || complain "\`help\` names $(wc -w <<<"$commands") commands"
{ echo 'sparsegauge '; for c in $commands; do echo "sparsegauge $c --"; done; echo 'sparsegauge gate --min-s'; echo 'sparsegauge completion '; } >"$here/lines"
for shell in bash zsh fish; do
    command -v $shell >/dev/null || { absent+=" $shell"; continue; }
    in_$shell <"$here/lines" >"$here/of_$shell" 2>"$here/err" || { head -3 "$here/err"; complain "$shell failed"; continue; }
    [ ! -s "$here/err" ] || { head -3 "$here/err"; complain "$shell says something"; }
    [ "$(grep -c '^$' "$here/of_$shell")" = "$(wc -l <"$here/lines")" ] || complain "$shell answered to $(grep -c '^$' "$here/of_$shell") of $(wc -l <"$here/lines") lines"
    diff "$here/of_bash" "$here/of_$shell" >"$here/diff" || { head -20 "$here/diff"; complain "$shell offers other things than bash"; }
done
# Bash's own, against the program: every command, and of each the options that its help lists (other names of them may come on top).
awk -v RS= 'NR == 1' "$here/of_bash" | grep -vxE 'help|completion' | diff - <(LC_ALL=C sort <<<"$commands" | grep -vxE 'help|completion') || complain "commands are not those of \`help\`"
at=1
for c in $commands; do
    at=$((at + 1))
    awk -v RS= -v n=$at 'NR == n' "$here/of_bash" >"$here/offered"
    "$program" "$c" --help | grep -oE '^ +(-[a-z], )?--[a-z0-9.-]+' | grep -oE -e '--.*' | LC_ALL=C sort -u | LC_ALL=C comm -13 "$here/offered" - >"$here/extra"
    [ ! -s "$here/extra" ] || complain "$c: in its help, but not offered: $(tr '\n' ' ' <"$here/extra")"
    [ "$(wc -l <"$here/offered")" -ge 3 ] || complain "$c: $(wc -l <"$here/offered") options are offered"
done
echo "$(wc -l <"$here/lines") lines, $(grep -c . "$here/of_bash") offers${absent:+; not installed:$absent}"
[ $bad = 0 ] || exit 1
[ -z "$absent" ] || exit 77
