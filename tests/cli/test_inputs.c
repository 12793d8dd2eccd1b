/* Inputs as people have them, through the whole program: what is left out is refused, what is
 * assumed is said, what is written can be read. Words in commands are the shell's; it runs in a
 * folder of its own. */
#include "base/json.h"
#include "base/utf8.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define DEMO SG_SOURCE_DIR "/suites/demo/model"

static char *place;

static void enter(void)
{
    place = dir_make();
    setenv("HOME", place, 1);
    setenv("XDG_CACHE_HOME", place, 1);
    setenv("SG", SG_BINARY, 1);
    setenv("DEMO", DEMO, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    setenv("COLUMNS", "1000", 1); /* what is looked for is not wrapped */
}

static void leave(void) { dir_remove(place); }

TestSuite(inputs, .init = enter, .fini = leave, .timeout = 120);

/* What the command printed, both streams after each other; its exit code must be this one. */
static struct str run(int code, const char *command)
{
    char *line = str_format("cd '%s' && { %s; } >.out 2>.err", place, command);
    int status = system(line);
    struct str out = file_get(place, ".out"), err = file_get(place, ".err");
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == code, "%s: %d, expected %d\n%s%s",
        command, WEXITSTATUS(status), code, str_get(&out), str_get(&err));
    str_add_bytes(&out, str_get(&err), err.len);
    str_clear(&err);
    free(line);
    return out;
}

static void says(int code, const char *command, const char *const *parts)
{
    struct str out = run(code, command);
    for (; *parts; parts++)
        cr_expect(
            strstr(str_get(&out), *parts), "%s: no \"%s\" in: %s", command, *parts, str_get(&out));
    str_clear(&out);
}
#define SAYS(code, command, ...) says(code, command, (const char *const[]){__VA_ARGS__, NULL})
#define RUN(command) SAYS(0, command, "")

/* A number of a before/after file. */
static double number_of(const char *file, const char *object, const char *field)
{
    char *path = path_join(place, file);
    cJSON *root = NULL;
    cr_assert_eq(json_read_file(&root, path), OK, "%s", status_message());
    const cJSON *o = cJSON_GetObjectItemCaseSensitive(root, object),
                *n = cJSON_GetObjectItemCaseSensitive(o, field);
    cr_assert(cJSON_IsNumber(n), "%s: no %s.%s", file, object, field);
    double value = n->valuedouble;
    cJSON_Delete(root);
    free(path);
    return value;
}

static void copy_demo(void) { RUN("mkdir m && cp $DEMO/* m && chmod u+w m/*"); }

Test(inputs, a_tensor_without_use_stops_every_command_that_runs)
{
    copy_demo();
    struct str s = file_get(place, "m/model.safetensors"), out = {0}, json = {0};
    uint64_t n;
    memcpy(&n, s.data, 8);
    size_t data = s.len - 8 - n, end = n;
    while (s.data[8 + end - 1] != '}') end--;
    str_addf(&json,
        "%.*s,\"model.layers.0.self_attn.q_proj.bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_"
        "offsets\":[%zu,%zu]}}",
        (int)end - 1, s.data + 8, data, data + 4);
    n = json.len;
    str_add_bytes(&out, &n, 8);
    str_add_bytes(&out, json.data, json.len);
    str_add_bytes(&out, s.data + s.len - data, data);
    str_add_bytes(&out, "\0\0\0\0", 4);
    file_put(place, "m/model.safetensors", out.data, out.len);
    str_clear(&s);
    str_clear(&out);
    str_clear(&json);
    static const char *const commands[] = {
        "$SG eval m -q --max-length 300 --num-samples 1 --cache none",
        "$SG tune m -q --max-length 300 --num-tune-samples 1 --held-out 0",
        "$SG generate m -q -p Once -n 1",
        "$SG audit m -q --max-length 300 --num-samples 1",
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        SAYS(3, commands[i], "model.layers.0.self_attn.q_proj.bias", "attention_bias",
            "--ignore-tensors");
    SAYS(0, "$SG info m", "unused", "model.layers.0.self_attn.q_proj.bias", "--ignore-tensors");
    /* without it, the model is the bundled one, which has no biases */
    RUN("$SG eval m -q --max-length 300 --num-samples 1 --ignore-tensors --db a.db --output "
        "a.json");
    RUN("$SG eval $DEMO -q --max-length 300 --num-samples 1 --db b.db --output b.json");
    cr_expect_eq(number_of("a.json", "output_accuracy", "logits_l1"),
        number_of("b.json", "output_accuracy", "logits_l1"));
}

Test(inputs, what_stands_in_front_of_a_text_is_named)
{
    RUN("printf 'One day the baker of Elmbourne lost a key. %.0s' $(seq 40) >t.txt");
    RUN("printf '<|begin_of_text|>' | cat - t.txt >spelled.txt");
    SAYS(0, "$SG eval $DEMO -q -s text:t.txt --max-length 300 --num-samples 1 --details",
        "begin with <|begin_of_text|> by the tokenizer's rule");
    SAYS(0,
        "$SG eval $DEMO -q -s text:t.txt --max-length 300 --num-samples 1 --details --bos never",
        "on --bos never text:t.txt", "begin with no special token by --bos never");
    SAYS(0, "$SG list", "--bos never text:t.txt");
    SAYS(0, "$SG generate $DEMO -q -p Once -n 1", "begin with <|begin_of_text|>");
    SAYS(0, "$SG generate $DEMO -q -p Once -n 1 --bos never", "begin with no special token");
    SAYS(0,
        "$SG tune $DEMO -q -s text:t.txt --max-length 300 --num-tune-samples 1 --check 0 "
        "--held-out 0 --layers 6,7 --bos never",
        "begin with no special token by --bos never");
    SAYS(2, "$SG eval $DEMO -q --bos perhaps", "--bos", "perhaps", "tokenizer, always or never");
    struct str plain = run(0,
        "$SG suite text:t.txt --model $DEMO --max-length 300 --format json | grep -o "
        "'\"sample\".*tokens\": [0-9]*'");
    struct str spelled = run(0,
        "$SG suite text:spelled.txt --model $DEMO --max-length 300 --format json | grep -o "
        "'\"sample\".*tokens\": [0-9]*'");
    cr_expect_str_eq(str_get(&plain), str_get(&spelled), "a BOS spelled out is not doubled");
    str_clear(&plain);
    str_clear(&spelled);
}

Test(inputs, a_pt_file_and_the_options_it_needs)
{
    RUN("$SG tune $DEMO -q --max-length 600 --num-tune-samples 1 --held-out 0 --rule tail --l1 .5 "
        "--pv-l1 .6 -o t.json");
    SAYS(0,
        "$SG tune $DEMO -q --max-length 600 --num-tune-samples 1 --held-out 0 --rule tail --l1 .5 "
        "--pv-l1 .6 -o t.pt",
        "--tuned t.pt --smooth-k running");
    RUN("$SG eval $DEMO -q --max-length 600 --num-samples 2 --tuned t.json --db a.db --output "
        "a.json");
    SAYS(0,
        "$SG eval $DEMO -q --max-length 600 --num-samples 2 --tuned t.pt --smooth-k running --db "
        "b.db --output b.json",
        "128x64 (--block says otherwise)", "smooth_k running as asked for");
    SAYS(0,
        "$SG eval $DEMO -q --max-length 600 --num-samples 2 --tuned t.pt --db c.db --output c.json",
        "smooth_k global as SpargeAttn has it (--smooth-k says otherwise)");
    static const char *const fields[] = {"logits_cosine", "logits_l1", "hidden_l1"};
    for (int i = 0; i < 3; i++)
        cr_expect_eq(number_of("a.json", "output_accuracy", fields[i]),
            number_of("b.json", "output_accuracy", fields[i]), "%s", fields[i]);
    cr_expect_neq(number_of("a.json", "output_accuracy", "logits_l1"),
        number_of("c.json", "output_accuracy", "logits_l1"));
    cr_expect_gt(number_of("a.json", "sparsity", "mean"), 0.05);
}

static void expect_utf8(const char *name)
{
    struct str s = file_get(place, name);
    size_t bad = 0;
    cr_expect(
        s.len > 0 && utf8_valid(s.data, s.len, &bad), "%s: byte %zu of %zu", name, bad, s.len);
    str_clear(&s);
}

/* Paths hold any bytes; files that others read must not. */
Test(inputs, output_is_utf8_whatever_a_path_is)
{
    RUN("mkdir \"$(printf 'm\\351\\377')\" && cp $DEMO/* m*/ && printf 'One day the baker of "
        "Elmbourne lost a key. %.0s' $(seq 60) "
        ">\"$(printf 't\\351\\377.txt')\"");
    RUN("$SG eval m* -q -s text:\"$(echo t*.txt)\" --max-length 300 --num-samples 2 --topk .5 "
        "--output after.json --stats-out stats.json");
    RUN("$SG gate last --min-sparsity .9 --junit j.xml --gitlab g.json >gate.txt; $SG list "
        "--format csv >l.csv; "
        "$SG list --format json >l.json; $SG list --format md >l.md; $SG show last >show.txt; $SG "
        "report -o rep");
    static const char *const files[] = {"after.json", "stats.json", "j.xml", "g.json", "gate.txt",
        "l.csv", "l.json", "l.md", "rep/index.html", "rep/report.md", "rep/runs.csv", "show.txt"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) expect_utf8(files[i]);
    SAYS(0, "cat l.csv", "m\xef\xbf\xbd\xef\xbf\xbd", "t\xef\xbf\xbd\xef\xbf\xbd.txt");
}

/* Weights that are cut short under a run, and things that are no files: a message, exit 3, in
 * bounded time. */
Test(inputs, files_that_end_before_their_time)
{
    copy_demo();
    /* ten seconds pass until this one is told, and the others run meanwhile */
    RUN("mkdir p && mkfifo p/config.json && (timeout 60 $SG info p >p.txt 2>&1; echo code $? "
        ">>p.txt) & true");
    SAYS(3,
        "$SG eval m -q --max-length 2048 --num-samples 40 --cache none --method dense & pid=$!; "
        "for i in $(seq 1000); do [ -n \"$(grep -l model.safetensors /proc/$pid/maps)\" ] && "
        "break; "
        "sleep .05; done; sleep .3; "
        "truncate -s 100000 m/model.safetensors; wait $pid",
        "model.safetensors", "cut short");
    RUN("rm m/model.safetensors && mkfifo m/model.safetensors");
    SAYS(3, "timeout 60 $SG info m", "model.safetensors", "pipe");
    RUN("rm m/model.safetensors && ln -s /dev/zero m/model.safetensors");
    SAYS(3, "timeout 60 $SG info m", "model.safetensors", "device");
#ifndef __SANITIZE_ADDRESS__
    RUN("truncate -s 4G big.json");
    SAYS(3, "ulimit -v 2000000; OPENBLAS_NUM_THREADS=1 timeout 60 $SG gate last --config big.json",
        "does not fit in memory", "bytes more");
#endif
    SAYS(3, "timeout 60 $SG gate /dev/zero.json", "/dev/zero.json");
    SAYS(3, "mkfifo d.db; timeout 60 $SG list --db d.db", "d.db", "pipe");
    SAYS(3, "timeout 60 $SG suite text:/dev/zero --model $DEMO", "/dev/zero", "no end");
    SAYS(0, "for i in $(seq 600); do grep code p.txt && break; sleep .1; done; cat p.txt",
        "p/config.json", "nobody wrote", "code 3");
}

/* A CI log takes what begins with "::" on a line of its own for a command. */
Test(inputs, names_stay_on_their_line)
{
    RUN("f=\"$(printf 'a\\n::error::b\\033[31m.txt')\"; printf 'One day the baker of Elmbourne "
        "lost a key. \\377%.0s' $(seq 60) >\"$f\"");
    static const char *const commands[] = {
        "$SG suite \"text:$(ls a*)\" --model $DEMO --max-length 300",
        "$SG eval $DEMO -q -s \"text:$(ls a*)\" --max-length 300 --num-samples 2 --topk .5",
        "$SG list",
        "$SG show last",
        "$SG list --format md",
        "$SG list --format csv",
        "$SG list --format latex",
        "$SG gate last --min-sparsity .01 --github || true",
        "$SG report -o rep && cat rep/report.md rep/*.csv rep/pictures/*.sql",
        "$SG eval $DEMO -q -s \"text:$(ls a*)x\" || true",
        "printf '{\"a\\\\u001b\\\\n::error::x\":1,\"a\\\\u001b\\\\n::error::x\":2}' >g.json; $SG "
        "gate last --config g.json || true",
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        struct str out = run(0, commands[i]);
        cr_expect(!strstr(str_get(&out), "\n::error::b") &&
                !strstr(str_get(&out), "\n::error::x") && !strchr(str_get(&out), 033),
            "%s: %s", commands[i], str_get(&out));
        str_clear(&out);
    }
}

Test(inputs, standard_input_is_a_text)
{
    RUN("printf 'One day the baker of Elmbourne lost a key. %.0s' $(seq 40) >t.txt");
    struct str a =
        run(0, "$SG suite text:t.txt --model $DEMO --max-length 300 | grep -o 'fingerprint.*'");
    struct str b = run(0,
        "cat t.txt | $SG suite text:/dev/stdin --model $DEMO --max-length 300 | grep -o "
        "'fingerprint.*'");
    cr_expect_str_eq(str_get(&a), str_get(&b));
    str_clear(&a);
    str_clear(&b);
    SAYS(3, "gzip -c t.txt | $SG suite text:/dev/stdin --model $DEMO", "gzip", "gunzip");
}

/* What comes through a pipe is the text itself: the same numbers as from a file, and said where
 * there is none. */
Test(inputs, texts_from_standard_input)
{
    RUN("for i in $(seq 900); do echo \"The keeper of lamp $i went down to harbour $((i * 7 % "
        "31)).\"; "
        "done > t.txt");
    RUN("$SG eval $DEMO --suite text:t.txt --topk .5 --max-length 300 --num-samples 2 -q --cache "
        "none "
        "--db a.db --output file.json");
    RUN("$SG eval $DEMO --suite text:- --topk .5 --max-length 300 --num-samples 2 -q --cache none "
        "--db "
        "b.db --output pipe.json < t.txt");
    RUN("cat t.txt | $SG eval $DEMO --dataset - --topk .5 --max-length 300 --num-samples 2 -q "
        "--cache "
        "none --db c.db --output dataset.json");
    double kl = number_of("file.json", "output_accuracy", "kl");
    cr_expect(kl > 0);
    cr_expect_eq(number_of("pipe.json", "output_accuracy", "kl"), kl);
    cr_expect_eq(number_of("dataset.json", "output_accuracy", "kl"), kl);
    RUN("cat t.txt | $SG tune $DEMO --suite text:- --l1 .06 --max-length 300 --num-tune-samples 2 "
        "--check 1 --held-out 1 --layers 1 -q --db d.db -o tuned.json && grep -q '\"text:-\"' "
        "tuned.json");
    SAYS(2, "$SG eval $DEMO --suite text:- --topk .5 -q --db e.db < /dev/null",
        "standard input: found nothing");
    SAYS(3, "printf 'a\\0b' | $SG eval $DEMO --suite text:- --topk .5 -q --db e.db",
        "standard input: line 1, column 2");
}
