#!/usr/bin/env bash
# The steps of action.yml and of the CI recipes, run as their services would: in the checkout of somebody whose CMakeLists.txt, presets, dev and
# whatever else a build may pick up leave a trace when they are used. The release that the action fetches is packed here.
#   check_recipes.sh SOURCE BUILD     exit 77: python3 has no yaml
# `apt-get`, `gh`, `sudo` and a compiling `cmake` are stood in for: what was built already is installed. The programs' own steps, minutes of them, are
# left out; SG_RECIPES=full lets cmake build and runs them too: self-test, tune, eval, gate, report.
set -uo pipefail
source=$(realpath "$1") build=$(realpath "$2") here=$(mktemp -d) bad=0 full=${SG_RECIPES:-}
trap 'rm -rf "$here"' EXIT
complain() { echo "check_recipes: $*"; bad=1; }
python3 -c 'import yaml' 2>/dev/null || { echo "skipped: python3 has no yaml"; exit 77; }

# What nobody may run or read.
mkdir -p "$here"/{checkout/base,checkout/sparsegauge,bin,runner,tmp,opt}
mine=$here/EXECUTED
cd "$here/checkout" || exit 1
echo "file(WRITE \"$mine\" CMakeLists) 
message(FATAL_ERROR \"the checkout's own CMakeLists.txt\")" | tee CMakeLists.txt >base/CMakeLists.txt
echo "{\"version\": 3, \"configurePresets\": [{\"name\": \"release\", \"cacheVariables\": {\"CMAKE_C_COMPILER\": \"$PWD/cc\"}}]}" >CMakePresets.json
for name in dev cc gcc cmake ninja make configure gh git tar apt-get; do printf '#!/bin/sh\necho %s >>"%s"\nexit 1\n' $name "$mine" >$name; chmod +x $name; done
printf 'all:\n\techo make >>"%s"\n' "$mine" >Makefile
echo "open('$mine', 'w').write('python')" >sparsegauge/__init__.py

# Stand-ins.
stand_in() { printf '#!/usr/bin/env bash\n%s\n' "$2" >"$here/bin/$1"; chmod +x "$here/bin/$1"; }
stand_in sudo 'exec "$@"'
stand_in apt-get "echo \"apt-get \$*\" >>$here/asked"
stand_in gh "echo \"gh \$*\" >>$here/asked; while [ \$# -gt 0 ]; do [ \"\$1\" != -O ] || cp $here/release.tar.gz \"\$2\"; shift; done"
[ -n "$full" ] || stand_in cmake "echo \"cmake \$*\" >>$here/asked
case \$1 in
    -S) [ -f \"\$2/library/sparsegauge.h\" ] || { echo \"\$2 is not this project\" >&2; exit 1; } ;;
    --build) ;;
    --install) shift 2; exec $(command -v cmake) --install $build \"\$@\" ;;
    *) exit 1 ;;
esac"
(cd "$build" && cpack -G TGZ -B "$here/packed" >"$here/log" 2>&1) || { tail -3 "$here/log"; complain "no release was packed"; }
cp "$here"/packed/*.tar.gz "$here/release.tar.gz"

# KIND FILE -> one script a step, in order: NN.sh, beside NN.if
python3 - "$source" "$here" "$full" <<'END' || exit 1
import re, sys, yaml
source, here, full = sys.argv[1:]
read = lambda name: yaml.safe_load(open(f"{source}/{name}"))
def put(name, steps):
    for i, text in enumerate(steps):
        assert "${{" not in text, f"{name}: an expression inside of a script is a way in for whoever writes branch names: {text}"
        text = re.sub(r"(?<![\w.$/])/(tmp|opt)/", here + r"/\1/", text)
        open(f"{here}/{name}.{i:02}.sh", "w").write(text + "\n")
    print(f"{name}: {len(steps)} steps")
action = read("action.yml")["runs"]["steps"]
put("release", [s["run"] for s in action if "inputs.release ==" not in s.get("if", "")])
put("source", [s["run"] for s in action if "inputs.release !=" not in s.get("if", "")])
github = [s["run"] for s in read("docs/ci-github.yml")["jobs"]["gate"]["steps"] if "run" in s]
put("github", github if full else ["sparsegauge version"])
job = read("docs/ci-gitlab.yml")["sparsegauge"]
put("gitlab", ["\n".join(job["before_script"] + job["script"]), "\n".join(job["after_script"])] if full else
    ["\n".join(job["before_script"] + ["sparsegauge version"])])
open(f"{here}/gitlab.env", "w").write("".join(f"export {k}={v}\n" for k, v in job["variables"].items()))
END
run() { # NAME [VAR=VALUE...]: its steps, each in a shell of its own, as the services start them
    local name=$1 script
    shift
    for script in "$here/$name".*.sh; do
        env -u LD_LIBRARY_PATH -u SPARSEGAUGE_LIBRARY -u PYTHONPATH XDG_CACHE_HOME="$here/cache" PATH="$(cat "$here/path" 2>/dev/null | tr '\n' ':')$here/bin:$PATH" \
            RUNNER_TEMP="$here/runner" GITHUB_PATH="$here/path" GITHUB_ENV="$here/env" GITHUB_OUTPUT="$here/output" "$@" \
            bash --noprofile --norc -eo pipefail "$script" >"$here/log" 2>&1 || return 1
    done
}
clean() { rm -rf "$here"/{path,env,output,asked,runner,tmp,opt} && mkdir -p "$here"/{runner,tmp,opt}; : >"$here/asked"; }
sum=$(sha256sum <"$here/release.tar.gz" | cut -d' ' -f1)

clean
run release RELEASE=0.3.0 SHA256="$sum" SOURCE=o/r GH_TOKEN=t || { tail -3 "$here/log"; complain "the action fails with a release"; }
grep -q 'gh release download v0.3.0 --repo o/r' "$here/asked" || complain "the release was not asked for: $(cat "$here/asked")"
[ -s "$(sed -n 's/^SPARSEGAUGE_MODEL=//p' "$here/env")/model.safetensors" ] || complain "SPARSEGAUGE_MODEL leads nowhere: $(cat "$here/env")"
grep -q "^prefix=$here/runner/sparsegauge$" "$here/output" || complain "no output: $(cat "$here/output")"
run github "$(cat "$here/env")" || { tail -5 "$here/log"; complain "a step of ci-github.yml fails"; }
[ -z "$full" ] || { [ -s gate.xml ] && [ -s after.json ] && [ -s report/index.html ]; } || complain "ci-github.yml left not what it uploads: $(ls)"
rm -rf gate.xml after.json tuned.json report sparsegauge.db*
clean
run release RELEASE=v0.3.0 SHA256="${sum/[0-8]/9}" SOURCE=o/r GH_TOKEN=t && complain "another release than the one with that sum was taken"
[ ! -e "$here/runner/sparsegauge/bin" ] || complain "it was unpacked before its sum was looked at"
clean
run source SOURCE="$source" || { tail -3 "$here/log"; complain "the action fails without a release"; }
[ -n "$full" ] || grep -q "cmake -S $source -B $here/runner/" "$here/asked" || complain "what was built? $(cat "$here/asked")"

if [ -d "$source/.git" ] || [ -f "$source/.git" ]; then
    git clone -q --bare "$source" "$here/origin.git" && git -C "$here/origin.git" branch -f trusted "$(git -C "$source" rev-parse HEAD)"
    clean
    source "$here/gitlab.env"
    run gitlab SPARSEGAUGE_SOURCE="file://$here/origin.git" SPARSEGAUGE_REF=trusted SPARSEGAUGE_MODEL="$here$SPARSEGAUGE_MODEL" ||
        { tail -5 "$here/log"; complain "a step of ci-gitlab.yml fails"; }
    [ -z "$full" ] || { [ -s gate.xml ] && [ -s gate-quality.json ] && [ -s report/index.html ]; } || complain "ci-gitlab.yml left not what it keeps: $(ls)"
    [ -n "$full" ] || grep -q "cmake -S $here/tmp/sparsegauge -B $here/tmp/build" "$here/asked" || complain "what was built? $(cat "$here/asked")"
else echo "$source is no git tree: ci-gitlab.yml clones one and was not run"
fi
[ ! -e "$mine" ] || complain "the checkout's own files were used: $(tr '\n' ' ' <"$mine")"
# And the trap works: were one of them run, it would be seen.
"$(command -v cmake)" -S . -B "$here/b" >"$here/log" 2>&1; [ -e "$mine" ] || complain "the planted CMakeLists.txt leaves no trace"
exit $bad
