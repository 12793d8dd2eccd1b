# complete.zsh FOLDER: reads command lines from standard input and prints what zsh with FOLDER/_sparsegauge offers at the end of each, one
# offer a line, behind each command line an empty line.
zmodload zsh/zpty
found=$(mktemp)
trap 'rm -f $found' EXIT
zpty -b inner zsh -f -i
tell() { zpty -w inner "$1" }
tell "PROMPT= RPROMPT=; unset zle_bracketed_paste; fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -u -D"
# Everything that completion would show comes through compadd; -O, -A and -D only ask it what matches.
tell "compadd() { local -a offers; [[ \" \$* \" == *' -'[OAD]' '* ]] || { builtin compadd -O offers \"\$@\"; print -rl -- \$offers >>$found }; builtin compadd \"\$@\" }"
tell "answered() { print END >>$found; zle kill-whole-line }; zle -N answered; bindkey '^X^E' answered; bindkey '^I' list-choices"
while IFS= read -r line; do
    : >$found
    zpty -w -n inner "$line"$'\t\x18\x05'
    for i in {1..15000}; do # five minutes
        while zpty -r -t inner junk 2>/dev/null; do; done # or it waits for somebody to read what it shows
        [[ $(tail -n 1 $found) == END ]] && break
        sleep .02
    done
    [[ $(tail -n 1 $found) == END ]] || { print -u2 "zsh did not answer to: $line"; exit 1 }
    sed -e '$d' -e '/^$/d' $found | LC_ALL=C sort -u
    print
done
zpty -d inner
