#!/bin/sh
# No two files of the program call each other, directly or by way of others: each can be read, and changed, before those
# that use it. Usage: check_circles.sh LIBRARY.a…
pairs=$(mktemp) && trap 'rm -f "$pairs" "$pairs.loops"' EXIT
for library in "$@"; do nm -A -P "$library" 2>/dev/null; done |
    awk '{ object = $1; sub(/:$/, "", object); sub(/.*\//, "", object) }
         $3 ~ /^[TDRB]$/ { where[$2] = object }
         $3 == "U" { uses[object, $2] = $2; user[object, $2] = object }
         END { for (i in uses) if (uses[i] in where && where[uses[i]] != user[i]) print user[i], where[uses[i]] }' |
    sort -u > "$pairs"
[ "$(wc -l < "$pairs")" -gt 100 ] || { echo "found only $(wc -l < "$pairs") uses between files: is this the program?"; exit 1; }
tsort "$pairs" > /dev/null 2> "$pairs.loops"
[ -s "$pairs.loops" ] || exit 0
echo "files that use each other:"
sed 's/^tsort: //' "$pairs.loops"
exit 1
