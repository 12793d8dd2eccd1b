/* The program as a stranger uses it: what it prints, what it writes, how it ends, and what it says
 * to bad input. */
#include "tests/cli/cli_fixture.h"

Test(cli, help_and_usage, .init = enter, .fini = leave)
{
    struct ran all = expect(PASS, "-h"), none = expect(USAGE, "");
    cr_expect(has(&none.err, "usage") && none.out.len == 0);
    int n = 0;
    for (const char *p = str_get(&all.out); (p = strstr(p, "\n  ")); p += 3) {
        char name[32], words[64];
        if (sscanf(p + 3, "%31[a-z]", name) != 1) continue;
        n++;
        snprintf(words, sizeof words, "%s -h", name);
        struct ran r = expect(PASS, words), wrong;
        char usage[64], example[64];
        snprintf(usage, sizeof usage, "usage: sparsegauge %s", name);
        /* as it was called: by a path here */
        snprintf(example, sizeof example, "/sparsegauge %s", name);
        cr_expect(str_starts_with(str_get(&r.out), usage), "%s", words);
        const char *shown = strstr(str_get(&r.out), "\nexample");
        cr_assert(shown && strstr(shown, example), "%s shows no example", words);
        cr_expect_eq(r.err.len, 0);
        /* options in the example are options of the command */
        for (const char *o = shown; (o = strstr(o, " --")); o += 3) {
            char option[48];
            size_t length = strcspn(o + 1, " =\n");
            snprintf(option, sizeof option, "%.*s", (int)length, o + 1);
            const char *first = strstr(str_get(&r.out), option);
            cr_expect(
                first && first < shown, "%s: its example has %s, its options do not", name, option);
        }
        snprintf(words, sizeof words, "%s --no-such-option", name);
        wrong = expect(USAGE, words);
        cr_expect(has(&wrong.err, "--no-such-option") && wrong.out.len == 0, "%s", words);
        ran_clear(&wrong);
        ran_clear(&r);
    }
    cr_expect(n >= 12, "%d commands", n);
    ran_clear(&all);
    ran_clear(&none);
    struct ran version = expect(PASS, "--version");
    cr_expect(str_starts_with(str_get(&version.out), "sparsegauge "));
    ran_clear(&version);
}

Test(cli, wrong_options_are_usage_errors, .init = enter, .fini = leave)
{
    static const struct {
        const char *words, *says;
    } wrong[] = {
        {"eval", "model"},
        {EVAL "--max-length abc", "--max-length"},
        {EVAL "--max-length 1", "--max-length"},
        {EVAL "--max-length=2.5", "--max-length"},
        {EVAL "--max-length", "--max-length"},
        {EVAL "extra", "extra"},
        {EVAL "--quiet=yes", "--quiet"},
        {EVAL "--method magic", "magic"},
        {EVAL "--method topk", "--topk"},
        {EVAL "--method window", "--window"},
        {EVAL "--window 64 --method sparge", "--window"},
        {EVAL "--layers 5,99", "5,99"},
        {EVAL "--block 32x32", "32x32"},
        {EVAL "--smooth-k never", "never"},
        {EVAL "--score half", "half"},
        {EVAL "--chunk 100", "--chunk"},
        {EVAL "--cpu-mask sse", "sse"},
        {EVAL "--suite nothing", "nothing"},
        {EVAL "--simthreshd1 nan", "--simthreshd1"},
        {EVAL "--cdfthreshd 0x", "--cdfthreshd"},
        {EVAL "--model elsewhere", "elsewhere"},
        {"tune " DEMO " --l1 .07 --pv-l1 .06", "pv_l1"},
        {"tune " DEMO " --l1 .07 --pv-l1 .07", "pv_l1"},
        {"tune " DEMO " --l1 1.5", "--l1"},
        {"tune " DEMO " --l1 0", "--l1"},
        {"tune " DEMO " --l1 .06,x", "--l1"},
        {"tune " DEMO " --rule best", "best"},
        {"tune " DEMO " --layers 7,20", "7,20"},
        {"tune " DEMO " --method window", "window"},
        {"tune " DEMO " --max-length 200 --num-tune-samples 1 --held-out 0", "256"},
        {"gate x.json --min-cosine two", "--min-cosine"},
        {"gate x.json --min-cosine nan", "--min-cosine"},
        {"gate x.json --max-kl -1", "--max-kl"},
        {"list methods --format pretty", "pretty"},
        {EVAL "-q --max-length 300 --num-samples 1 --format pretty", "pretty"},
        {"list nothing", "nothing"},
        {EVAL "--field text=body", "--field"},
        {"sweep " DEMO " --field text=body --dry-run", "--field"},
        {EVAL "--topk .5 --cdfthreshd .9", "--topk"},
        {EVAL "--window 256 --simthreshd1 .5", "window"},
        {"generate " DEMO " -p Once --top-k 5", "--temperature"},
        {"generate " DEMO " -p Once --prompt-file x", "--prompt-file"},
        {"generate " DEMO " -p Once --dense --topk .5", "--dense"},
        {"help nonsense", "nonsense"},
        {"nonsense", "nonsense"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct ran r = expect(USAGE, wrong[i].words);
        cr_expect(has(&r.err, wrong[i].says), "%s: \"%s\"", wrong[i].words, str_get(&r.err));
        cr_expect_eq(r.out.len, 0, "%s printed \"%s\"", wrong[i].words, str_get(&r.out));
        ran_clear(&r);
    }
}

static void check_guide_keys(const cJSON *root)
{
    static const char *const accuracy[] = {"seq_len", "logits_cosine", "logits_l1", "logits_rmse",
        "hidden_cosine", "hidden_l1", "token_accuracy", "top5_overlap"};
    static const char *const prompts[] = {
        "The capital of France is", "In machine learning,", "Once upon a time,"};
    cr_expect_str_eq(root->child->string, "schema_version");
    const cJSON *config = at(root, "config");
    cr_expect_str_eq(at(config, "model")->valuestring, DEMO);
    cr_expect(fabs(number(config, "simthreshd1") - .6) < 1e-6 &&
        fabs(number(config, "cdfthreshd") - .98) < 1e-6 && number(config, "pvthreshd") == 50);
    cr_expect(number(config, "num_samples") == 2 && number(config, "max_length") == 300);
    cr_expect_str_eq(at(config, "layer_range")->valuestring, "4,8");
    cr_expect(cJSON_IsNull(at(config, "l1")) && cJSON_IsNull(at(config, "pv_l1")));
    for (size_t i = 0; i < sizeof accuracy / sizeof *accuracy; i++)
        number(at(root, "output_accuracy"), accuracy[i]);
    static const char *const spread[] = {"mean", "std", "min", "max"};
    for (int i = 0; i < 4; i++) number(at(root, "sparsity"), spread[i]);
    cr_expect_eq(cJSON_GetArraySize(at(root, "generation")), 3);
    const cJSON *x;
    int i = 0;
    cJSON_ArrayForEach(x, at(root, "generation"))
    {
        cr_expect_str_eq(at(x, "prompt")->valuestring, prompts[i++]);
        cr_expect(cJSON_IsString(at(x, "dense")) && cJSON_IsString(at(x, "sparse")));
        cr_expect(number(x, "token_match") >= 0 && number(x, "token_match") <= 1 &&
            number(x, "text_similarity") <= 1);
        cr_expect_eq(number(x, "n_tokens"), 50);
    }
    i = 0;
    cJSON_ArrayForEach(x, at(root, "detailed_results"))
    {
        cr_expect_eq(number(x, "text_idx"), i++);
        cr_expect(number(x, "seq_len") > 256 && number(x, "seq_len") <= 300);
        number(x, "sparsity");
    }
    cr_expect_eq(i, 2);
}

Test(cli, the_guides_before_file, .init = enter, .fini = leave)
{
    struct ran r = expect(PASS,
        "--model " DEMO " --max_length 300 --num_samples 2 --layer_range 4,8 --threads 1 --db r.db "
        "--generate --compile --quiet --output before_tune.json --stats_out_path s.json");
    cr_expect(has(&r.out, "run 1") && has(&r.out, "sparsity"));
    ran_clear(&r);
    cJSON *root = json_of("before_tune.json"), *stats = json_of("s.json");
    check_guide_keys(root);
    cr_assert(cJSON_IsArray(stats) && cJSON_GetArraySize(stats) == 8);
    int layer = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, stats)
    {
        cr_expect_eq(number(x, "layer_idx"), layer);
        number(x, "mean_sparsity");
        cr_expect_eq(cJSON_IsNumber(at(x, "simthreshd1")), layer >= 4);
        cr_expect_eq(cJSON_IsNumber(at(x, "cdfthreshd")), layer >= 4);
        layer++;
    }
    cJSON_Delete(stats);
    cJSON_Delete(root);
    r = expect(PASS, "show before_tune.json");
    cr_expect(has(&r.out, "logits cosine"));
    ran_clear(&r);
    r = expect(PASS, "compare before_tune.json before_tune.json --only-changed");
    cr_expect(!has(&r.out, "worse ("), "%s", str_get(&r.out));
    ran_clear(&r);
}

/* Asked for on a second run of a stored cell, the guide's file is as complete as on the first. */
Test(cli, a_stored_run_still_gives_the_whole_file, .init = enter, .fini = leave)
{
    ends(PASS, EVAL "-q --max-length 300 --num-samples 2 --layers 4,8");
    struct ran r = expect(PASS,
        EVAL "-q --max_length 300 --num_samples=2 --layer-range 4,8 --output before_tune.json");
    ran_clear(&r);
    cJSON *root = json_of("before_tune.json");
    check_guide_keys(root);
    cJSON_Delete(root);
    r = expect(PASS, "list --db r.db --format json");
    cJSON *doc = cJSON_Parse(str_get(&r.out));
    cr_assert_not_null(doc, "list --format json printed no JSON");
    cr_expect_eq(cJSON_GetArraySize(at(doc, "runs")), 1);
    cJSON_Delete(doc);
    ran_clear(&r);
}

Test(cli, list_show_compare_and_gate, .init = enter, .fini = leave, .timeout = 300)
{
    /* files by show: eval --output would continue the guide's prompts each time */
    ends(PASS, EVAL "-q --max-length 384 --num-samples 3");
    ends(PASS, EVAL "-q --max-length 384 --num-samples 3 --simthreshd1 -1 --cdfthreshd .5");
    ends(PASS, EVAL "-q --max-length 200 --num-samples 2");
    ends(PASS, "show 1 --db r.db --output before.json");
    ends(PASS, "show 2 --db r.db --output after.json");
    ends(PASS, "show 3 --db r.db --output short.json");
    struct ran r = expect(PASS, "list --db r.db --format csv");
    int lines = 0;
    for (const char *p = str_get(&r.out); (p = strchr(p, '\n')); p++) lines++;
    cr_expect(lines >= 4, "%s", str_get(&r.out));
    ran_clear(&r);
    static const char *const parts[] = {
        "metrics", "samples", "positions", "layers", "heads", "items", "tokens", "provenance"};
    for (int i = 0; i < 8; i++) {
        char words[80];
        snprintf(words, sizeof words, "show 2 --db r.db --part %s --format csv", parts[i]);
        r = expect(PASS, words);
        cr_expect(r.out.len > 20 && r.err.len == 0, "%s", words);
        ran_clear(&r);
    }
    refuses(USAGE, "show 2 --db r.db --part latency", SAYS("no latency", "--suite speed"));
    ends(PASS, "show last --db r.db --output again.json");
    r = expect(PASS, "compare 1 2 --db r.db --only-changed");
    cr_expect(has(&r.out, "worse"), "%s", str_get(&r.out));
    ran_clear(&r);
    ends(PASS, "compare before.json after.json");
    refuses(USAGE, "compare before.json short.json", SAYS("short.json", "fingerprint", "--force"));
    refuses(USAGE, "compare 1 3 --db r.db", SAYS("run 3", "--force"));
    r = expect(PASS, "compare before.json short.json --force");
    cr_expect(has(&r.out, "FORCED"));
    ran_clear(&r);

    cJSON *after = json_of("after.json");
    double sparsity = number(at(after, "sparsity"), "mean");
    cr_expect(sparsity > .2, "%g", sparsity);
    double mean = metric(after, "cosine", "mean"), lo = metric(after, "cosine", "lo"),
           hi = metric(after, "cosine", "hi");
    cr_assert(lo < mean && mean < hi);
    char words[160];
    snprintf(words, sizeof words, "gate after.json --min-cosine %.9g --min-sparsity .05 --max-kl 5",
        lo - 1e-4);
    r = expect(PASS, words);
    cr_expect(has(&r.out, "gate: pass"));
    ran_clear(&r);
    snprintf(words, sizeof words, "gate after.json --min-cosine %.9g", hi + 1e-4);
    r = expect(GATE_FAILED, words);
    cr_expect(has(&r.out, "gate: fail") && has(&r.out, "cosine"));
    ran_clear(&r);
    snprintf(words, sizeof words, "gate 2 --db r.db --min_cosine=%.9g", hi + 1e-4);
    ends(GATE_FAILED, words);
    snprintf(words, sizeof words, "gate after.json --min-cosine %.9g", mean);
    r = expect(INVALID, words);
    cr_expect(has(&r.out, "ambiguous"), "%s", str_get(&r.out));
    ran_clear(&r);
    snprintf(words, sizeof words, "gate after.json --by-mean --min-cosine %.9g", mean - 1e-6);
    ends(PASS, words);
    /* one broken bound beside one that cannot be decided is a failure */
    snprintf(words, sizeof words, "gate after.json --min-cosine %.9g --min-sparsity 1", mean);
    ends(GATE_FAILED, words);
    r = expect(INVALID, "gate short.json --min-cosine .5");
    cr_expect(has(&r.out, "min-sparse-tokens"), "%s", str_get(&r.out));
    ran_clear(&r);
    ends(USAGE, "gate after.json");
    ends(GATE_FAILED, "gate after.json --max-ppl-increase -90%");
    ends(PASS, "gate after.json --max-ppl-increase 9000%");
    refuses(USAGE, "gate after.json --max-kl 1%", SAYS("--max-kl", "a number"));
    refuses(USAGE, "gate after.json --min-sparsity 130%", SAYS("--min-sparsity", "from 0 to 1"));
    refuses(USAGE, "gate after.json --max-length 3 --self-test", SAYS("from 256 to 1048576"));
    r = expect(INVALID, "gate after.json --baseline short.json --max-kl-rise .1");
    cr_expect(has(&r.out, "fingerprint") && !has(&r.out, "--force"), "%s", str_get(&r.out));
    ran_clear(&r);
    text_put(
        place, "gate.json", "{\"min_sparsity\": 0.05, \"max_kl\": 0.0001, \"min_cosine\": null}");
    ends(GATE_FAILED, "gate after.json --config gate.json --junit gate.xml");
    cr_expect(here("gate.xml"));
    ends(PASS, "gate after.json --config gate.json --max-kl 9");
    ends(PASS, "gate --dump-config dumped.json --min-cosine .5");
    ends(PASS, "gate after.json --config dumped.json");
    cJSON_Delete(after);
}

/* Nothing sparse was measured: no gate can pass on it, however the run came to be dense. */
Test(cli, dense_runs_pass_no_gate, .init = enter, .fini = leave)
{
    ends(PASS, EVAL "-q --max-length 200 --num-samples 2 --chunk 128 --output short.json");
    ends(INVALID, "gate short.json --min-cosine .5");
    ends(PASS, EVAL "-q --max-length 300 --num-samples 2 --method dense --output dense.json");
    ends(INVALID, "gate dense.json --min-cosine .5");
    ends(PASS, EVAL "-q --max-length 300 --num-samples 2 --layers none --output none.json");
    struct ran r = expect(PASS, "tokens last --db r.db");
    cr_expect(has(&r.out, "not one token differs"), "%s", str_get(&r.out));
    ran_clear(&r);
    ends(INVALID, "gate none.json --min-cosine .5");
}

Test(cli, eight_bits_from_end_to_end, .init = enter, .fini = leave, .timeout = 300)
{
#define SMALL "eval " DEMO " --max-length 300 --num-samples 3 -q "
    struct ran r = expect(PASS, SMALL "--topk .5 --qk int8 --pv fp8 --apart --output eight.json");
    cr_expect(has(&r.out, "precision alone, every tile kept") &&
            has(&r.out, "sparsity alone, full products") &&
            has(&r.out, "of that of sparsity alone"),
        "%s", str_get(&r.out));
    ran_clear(&r);
    cJSON *file = json_of("eight.json"), *config = cJSON_GetObjectItem(file, "config");
    cr_expect_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(config, "qk")), "int8");
    cr_expect_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(config, "pv")), "fp8");
    cJSON_Delete(file);
    /* the three are cells: 1 both, 2 precision, 3 sparsity, and asked for by hand they are there
     * already */
    r = expect(PASS, SMALL "--topk .5");
    cr_expect(has(&r.out, "run 3 is stored already"), "%s", str_get(&r.out));
    ran_clear(&r);
    r = expect(PASS, SMALL "--method dense --qk int8 --pv fp8");
    cr_expect(
        has(&r.out, "run 2 is stored already") && has(&r.out, "with Q·K in int8 and P·V in fp8"),
        "%s", str_get(&r.out));
    ran_clear(&r);
    r = expect(PASS, "compare 3 1");
    cr_expect(
        has(&r.out, "Q·K") && has(&r.out, "int8") && has(&r.out, "P·V"), "%s", str_get(&r.out));
    ran_clear(&r);
    /* precision alone is something to gate; confirming repeats it with its precision */
    ends(PASS, "gate 2 --min-cosine .9");
    r = expect(GATE_FAILED, "gate 2 --max-kl 0 --confirm -q");
    cr_expect(has(&r.out, "fail"), "%s", str_get(&r.out));
    ran_clear(&r);
    r = expect(PASS, "gate eight.json --min-cosine .1");
    cr_expect(has(&r.out, "pass"), "%s", str_get(&r.out));
    ran_clear(&r);
    refuses(USAGE, SMALL "--pv int8", SAYS("--pv", "P·V in int8 is not defined"));
    refuses(USAGE, SMALL "--qk int4", SAYS("--qk", "int4", "full (f32 here), int8 or fp8"));
    refuses(USAGE, SMALL "--qk bf16", SAYS("--qk", "bf16", "f32 here"));
    refuses(USAGE, SMALL "--topk .5 --apart", SAYS("--apart", "--qk or --pv"));
    refuses(USAGE, "generate " DEMO " --prompt x --dense --qk int8",
        SAYS("--dense", "--method dense --qk int8"));
    /* thresholds know the precision they were tuned in */
    ends(PASS,
        "tune " DEMO " --qk fp8 --pv fp8 --layers 2 --max-length 300 --num-tune-samples 1 --check "
        "0 --held-out 1 -q");
    r = expect(PASS, SMALL "--tuned tuned.json --min-sparse-tokens 255");
    cr_expect(has(&r.out, "qk=fp8 pv=fp8") && !has(&r.err, "run with others"), "%s%s",
        str_get(&r.out), str_get(&r.err));
    ran_clear(&r);
    r = expect(PASS, SMALL "--tuned tuned.json --qk full --pv full");
    cr_expect(!has(&r.out, "qk=") && has(&r.err, "tuned with Q·K fp8 and P·V fp8, run with others"),
        "%s", str_get(&r.err));
    ran_clear(&r);
    r = expect(PASS,
        "sweep " DEMO
        " --method dense,topk:.5 --qk full,int8 --pv fp8 --max-length 300 --num-samples 2 -q");
    cr_expect(has(&r.out, "4"), "%s", str_get(&r.out));
    ran_clear(&r);
}

/* A copy of the demo model at place/bad. */
static char *bad_model(void)
{
    char *to = in_place("bad");
    char *command = str_format("rm -rf '%s' && cp -r '%s' '%s'", to, DEMO, to);
    cr_assert_eq(system(command), 0);
    free(command);
    return to;
}

/* An evaluation and a tuning of place/bad end with one message and leave nothing behind. */
static void refused_model(const char *const *wanted)
{
    refuses(RUN_ERROR,
        "eval bad --threads 1 -q --max-length 300 --num-samples 1 --db e.db --output e.json",
        wanted);
    cr_expect(!here("e.json"), "%s: e.json was written", wanted[0]);
    cr_expect(!here("e.db"), "%s: eval made a database for nothing", wanted[0]);
    refuses(RUN_ERROR, "info bad", wanted);
    char *command = str_format("rm -f '%s'/e.db*", place);
    cr_assert_eq(system(command), 0);
    free(command);
}

Test(cli, damaged_models, .init = enter, .fini = leave, .timeout = 300)
{
    char *dir = bad_model(), *path = path_join(dir, "model.safetensors");
    cr_assert_eq(truncate(path, 5000000), 0);
    refused_model(SAYS("bad/model.safetensors", "tensor", "truncated"));
    cr_assert_eq(truncate(path, 100), 0);
    refused_model(SAYS("bad/model.safetensors"));
    cr_assert_eq(truncate(path, 0), 0);
    refused_model(SAYS("bad/model.safetensors"));
    free(path);
    free(dir);

    dir = bad_model();
    file_edit(dir, "model.safetensors", "\"shape\":[", "\"shape\":[1,");
    refused_model(SAYS("bad/model.safetensors"));
    free(dir);

    dir = bad_model();
    file_edit(dir, "config.json", "\"intermediate_size\": 704", "\"intermediate_size\": 700");
    refused_model(SAYS("bad/model.safetensors", "mlp", "700", "704"));
    free(dir);

    dir = bad_model();
    file_edit(dir, "config.json", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"");
    refused_model(SAYS("bad/config.json", "model_type", "mamba", "llama"));
    free(dir);

    dir = bad_model();
    file_edit(dir, "config.json", "\"rope_type\": \"default\"", "\"rope_type\": \"spiral\"");
    refused_model(SAYS("bad/config.json", "rope_type", "spiral"));
    free(dir);

    dir = bad_model();
    text_put(dir, "config.json", "{\"model_type\": \"llama\",");
    refused_model(SAYS("bad/config.json", "line 1"));
    free(dir);

    dir = bad_model();
    text_put(dir, "tokenizer.json", "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}");
    refused_model(SAYS("bad/tokenizer.json", "WordPiece", "BPE"));
    free(dir);

    dir = bad_model(); /* shards of another model with this tokenizer */
    path = path_join(dir, "model.safetensors");
    unlink(path);
    free(path);
    char *command =
        str_format("cp '%s'/sharded_bf16/model*.safetensors* '%s'/sharded_bf16/config.json '%s'",
            GOLDEN_MODELS, GOLDEN_MODELS, dir);
    cr_assert_eq(system(command), 0);
    free(command);
    refuses(RUN_ERROR, "eval bad --threads 1 -q --max-length 300 --num-samples 1 --output e.json",
        SAYS("tokenizer.json", "4096 ids", "96 rows"));
    struct ran info = expect(PASS, "info bad");
    cr_expect(has(&info.out, "4096 ids") && has(&info.out, "96 rows"), "%s", str_get(&info.out));
    ran_clear(&info);
    path = path_join(dir, "model-00002-of-00003.safetensors");
    unlink(path);
    free(path);
    refused_model(SAYS("index.json", "model-00002-of-00003.safetensors", "missing"));
    free(dir);

    refuses(RUN_ERROR, "eval nowhere -q --db e.db", SAYS("nowhere", "config.json"));
    cr_expect(!here("e.db"));
}

Test(cli, weights_that_are_not_numbers, .init = enter, .fini = leave)
{
    char *dir = bad_model();
    struct str file = file_get(dir, "model.safetensors");
    uint64_t header;
    memcpy(&header, file.data, 8);
    cJSON *root = cJSON_ParseWithLength(file.data + 8, header);
    const cJSON *offsets = at(at(root, "model.layers.3.self_attn.v_proj.weight"), "data_offsets");
    size_t first = 8 + header + (size_t)offsets->child->valuedouble + 500;
    file.data[first] = (char)0xc0;
    file.data[first + 1] = (char)0x7f;
    file_put(dir, "model.safetensors", file.data, file.len);
    cJSON_Delete(root);
    str_clear(&file);
    free(dir);
    refuses(RUN_ERROR, "info bad --check", SAYS("layers.3.self_attn.v_proj.weight", "NaN", "250"));
    refuses(RUN_ERROR,
        "eval bad -q --threads 1 --max-length 300 --num-samples 1 --db e.db --output e.json",
        SAYS("NaN", "info --check", "chronicle 1"));
    cr_expect(!here("e.json"));
    struct ran r = run("list --db e.db --format csv");
    cr_expect(!has(&r.out, "sparge"), "a run with NaN was stored: %s", str_get(&r.out));
    ran_clear(&r);
    refuses(RUN_ERROR,
        "tune bad -q --threads 1 --max-length 300 --num-tune-samples 1 --held-out 0 --db e.db -o "
        "t.json",
        SAYS("layer 3", "head", "chronicle 1", "NaN"));
    cr_expect(!here("t.json"));
}

Test(cli, texts_databases_and_outputs, .init = enter, .fini = leave)
{
    text_put(place, "empty.txt", "");
    text_put(place, "space.txt", " \n");
    text_put(place, "bad.jsonl", "{\"text\": \"one two three\"}\n{\"text\": 5}\n");
    refuses(RUN_ERROR, EVAL "-q --suite text:empty.txt", SAYS("empty.txt", "token", "longer"));
    refuses(RUN_ERROR, EVAL "-q --suite text:nowhere.txt", SAYS("nowhere.txt"));
    refuses(RUN_ERROR, EVAL "-q --suite text:bad.jsonl",
        SAYS("bad.jsonl", "line 2", "text", "a number"));
    refuses(RUN_ERROR, EVAL "-q --suite cloze:empty.txt --num-samples 1", SAYS("empty.txt"));
    /* short text runs dense, and says so */
    struct ran r = expect(PASS, EVAL "-q --suite text:space.txt --output short.json");
    cr_expect(has(&r.out, "fell back") || has(&r.out, "ran dense") || has(&r.out, "shorter"), "%s",
        str_get(&r.out));
    ran_clear(&r);

    text_put(place, "foreign.db", "these bytes are no database, and nobody may touch them");
    char *sql = str_format(
        "sqlite3 '%s/other.db' 'CREATE TABLE t(x); INSERT INTO t VALUES (7);' 2>/dev/null", place);
    bool have_sqlite = system(sql) == 0;
    free(sql);
    struct str before = file_get(place, "foreign.db");
    refuses(RUN_ERROR, "eval " DEMO " -q --max-length 300 --num-samples 1 --db foreign.db",
        SAYS("foreign.db", "--db"));
    refuses(RUN_ERROR, "list --db foreign.db", SAYS("foreign.db"));
    struct str after = file_get(place, "foreign.db");
    cr_expect(before.len == after.len && memcmp(before.data, after.data, after.len) == 0,
        "a foreign file was changed");
    str_clear(&before);
    str_clear(&after);
    if (have_sqlite) {
        before = file_get(place, "other.db");
        refuses(RUN_ERROR, "eval " DEMO " -q --max-length 300 --num-samples 1 --db other.db",
            SAYS("other.db", "another program"));
        after = file_get(place, "other.db");
        cr_expect(before.len == after.len && memcmp(before.data, after.data, after.len) == 0,
            "a foreign database was changed");
        str_clear(&before);
        str_clear(&after);
    }
    refuses(RUN_ERROR, "eval " DEMO " -q --max-length 300 --num-samples 1 --db /nowhere/r.db",
        SAYS("/nowhere"));
    refuses(RUN_ERROR, "list --db none.db", SAYS("none.db"));
    refuses(RUN_ERROR, "show last --db none.db", SAYS("none.db"));
    cr_expect(!here("none.db"), "a reading command made a database");
    struct ran w =
        expect(RUN_ERROR, EVAL "-q --max-length 300 --num-samples 1 --output /nowhere/x.json");
    cr_expect(has(&w.err, "/nowhere/x.json"));
    ran_clear(&w);
}

Test(cli, json_that_is_not_ours, .init = enter, .fini = leave)
{
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"", "not valid JSON"},
        {"[1, 2]", "array"},
        {"{\"a\": 1}", "schema_version"},
        {"{\"schema_version\": 99, \"config\": {}}", "schema_version"},
        {"{\"schema_version\": 1}", "config"},
        {"{\"schema_version\": \"1\"}", "schema_version"},
        {"{\"schema_version\": 1, \"config\": []}", "config"},
        {"{\"kind\": \"sparsegauge tuned thresholds\", \"schema_version\": 1}", ""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        text_put(place, "x.json", wrong[i].text);
        refuses(RUN_ERROR, "gate x.json --min-cosine .5", SAYS("x.json", wrong[i].says));
        refuses(RUN_ERROR, "compare x.json x.json", SAYS("x.json"));
        refuses(RUN_ERROR, "show x.json", SAYS("x.json"));
        struct ran r = run("explain x.json");
        cr_expect(r.code == RUN_ERROR && has(&r.err, "x.json"), "explain: %d, %s", r.code,
            str_get(&r.err));
        ran_clear(&r);
    }
    ends(PASS, EVAL "-q --max-length 300 --num-samples 1");
    ends(PASS, "show 1 --db r.db --output good.json");
    struct str good = file_get(place, "good.json");
    for (size_t n = 1; n < good.len; n = n * 2 + 1) { /* cut short anywhere */
        file_put(place, "x.json", good.data, n);
        refuses(RUN_ERROR, "gate x.json --min-cosine .5", SAYS("x.json"));
    }
    str_clear(&good);
    text_put(place, "gate.json", "{\"min_cosine\": \"high\"}");
    refuses(RUN_ERROR, "gate good.json --config gate.json",
        SAYS("gate.json", "min_cosine", "a string"));
    text_put(place, "gate.json", "{\"min_cosin\": .5}");
    refuses(RUN_ERROR, "gate good.json --config gate.json", SAYS("gate.json"));
    text_put(place, "gate.json", "{\"min_cosin\": 0.5}");
    refuses(RUN_ERROR, "gate good.json --config gate.json",
        SAYS("gate.json", "min_cosin", "--dump-config"));
    refuses(RUN_ERROR, "gate good.json --config none.json", SAYS("none.json"));
    refuses(RUN_ERROR, "gate none.json --min-cosine .5", SAYS("none.json"));
}

Test(cli, other_commands_run, .init = enter, .fini = leave)
{
    struct ran r = expect(PASS, "info " DEMO " --check");
    cr_expect(has(&r.out, "fingerprint"));
    ran_clear(&r);
    static const char *const lists[] = {"list suites", "list methods", "list kernels"};
    static const char *const entries[] = {"chronicle", "oracle", "attn_base_f32"};
    for (int i = 0; i < 3; i++) {
        r = expect(PASS, lists[i]);
        cr_expect(has(&r.out, entries[i]), "%s: %s", lists[i], str_get(&r.out));
        ran_clear(&r);
    }
    r = expect(PASS, "generate " DEMO " --threads 1 -q --prompt Once -n 5");
    struct ran again =
        expect(PASS, "generate --model " DEMO " --threads 2 -q --prompt=Once --max_new 5");
    cr_expect_str_eq(str_get(&r.out), str_get(&again.out));
    cr_expect(r.out.len > 4);
    ran_clear(&r);
    ran_clear(&again);
    r = expect(PASS, "synth --list");
    cr_expect(has(&r.out, "llama-3.2-1b"));
    ran_clear(&r);
    refuses(USAGE, "synth --shape llama-9 x", SAYS("llama-9"));
    ends(PASS, "suite chronicle --length 2000 --seed 3");
    refuses(USAGE, "eval " DEMO " --device abacus", SAYS("abacus", "cpu"));
}

/* Without curves in the store there is nothing to answer from; running the model is not what was
 * asked. */
Test(cli, what_needs_a_gpu_says_so, .init = enter, .fini = leave)
{
    refuses(RUN_ERROR, "generate " DEMO " -p x --graph", SAYS("--graph", "--device cuda"));
    refuses(RUN_ERROR, EVAL "--residual bf16", SAYS("--residual bf16", "--device cuda", "f32"));
    refuses(USAGE, EVAL "--residual f64", SAYS("--residual", "f64", "f32 or bf16"));
    struct ran r = expect(PASS, "generate " DEMO " -p x -n 2 --compile");
    cr_expect(has(&r.err, "no effect on the CPU"), "%s", str_get(&r.err));
    ran_clear(&r);
}

/* What was not written was not done. */
Test(cli, a_full_standard_output_is_a_failure, .init = enter, .fini = leave)
{
    static const char *const cases[] = {"list suites", "--version",
        "sweep " DEMO " --dry-run --max-length 300 --num-samples 1 --db r.db"};
    for (int i = 0; i < 3; i++) {
        struct ran r = run_to("/dev/full", cases[i]);
        cr_expect_eq(r.code, RUN_ERROR, "%s: %d", cases[i], r.code);
        cr_expect(has(&r.err, "standard output") && has(&r.err, strerror(ENOSPC)), "%s: %s",
            cases[i], str_get(&r.err));
        ran_clear(&r);
    }
}

Test(cli, options_that_would_be_passed_over_are_refused, .init = enter, .fini = leave)
{
    refuses(USAGE, "tune " DEMO " -q --num-samples 1 --num-tune-samples 2",
        SAYS("--num-samples 1", "--num-tune-samples", "--check", "--held-out"));
    refuses(
        USAGE, "tune " DEMO " -q --coverage .9 --from-curves", SAYS("--coverage", "--from-curves"));
    refuses(USAGE, "tune " DEMO " -q --coverage .9 --check 0", SAYS("--coverage", "--check"));
    refuses(USAGE, "tune " DEMO " -q --method window", SAYS("--method window", "list methods"));
    refuses(USAGE, "tune " DEMO " -q --method topk", SAYS("--method topk", "list methods"));
    refuses(USAGE, "tune " DEMO " -q --method dense", SAYS("--method dense", "list methods"));
    refuses(USAGE, "optimise " DEMO " -q --method window", SAYS("--method window", "list methods"));
    refuses(USAGE, EVAL "-q --method dense --topk .5", SAYS("--topk", "--method dense"));
    refuses(USAGE, "explain t.pt", SAYS("t.pt", "no bounds, errors or reasons", "tuned.json"));
}

/* The guide's prompts are a few tokens long: that they match shows nothing, and that is said. */
Test(cli, short_prompts_are_said_to_run_dense, .init = enter, .fini = leave)
{
    struct ran r =
        expect(PASS, EVAL SHORT "--topk .5 --min-sparse-tokens 1 --generate -o after.json");
    cr_expect(has(&r.out, "3 of 3 prompts lie within one tile, so both sides ran dense"), "%s",
        str_get(&r.out));
    ran_clear(&r);
    cJSON *root = json_of("after.json");
    const cJSON *x;
    cJSON_ArrayForEach(x, at(root, "generation"))
        cr_expect_str_eq(at(x, "prefill")->valuestring, "dense");
    cJSON_Delete(root);
    r = expect(PASS, EVAL SHORT "--topk .5");
    cr_expect(!has(&r.out, "ran dense"), "%s", str_get(&r.out));
    ran_clear(&r);
}
