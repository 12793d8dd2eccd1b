/* The gate as a command: its exit codes, files that were changed by hand, and what `best` says. */
#include "base/file.h"
#include "base/json.h"
#include "results/store.h"
#include "tests/scratch.h"
#include "tests/unit/gate_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

TestSuite(gate_commands, .timeout = 120);

/* The command itself, in a folder of its own. Returns the exit code; what was printed goes to
 * `out`. */
static int command(const char *dir, const char *words, struct str *out)
{
    char *line =
             str_format("cd '%s' && COLUMNS=1000 '%s' %s > out.txt 2>&1", dir, SG_BINARY, words),
         *path = path_join(dir, "out.txt");
    int code = system(line);
    str_reset(out);
    ok(file_read(out, path));
    free(line);
    free(path);
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

#define MODEL SG_SOURCE_DIR "/suites/demo/model"
#define SHORT " --max-length 384 --num-samples 5 --cache none -q"

Test(gate_commands, commands_end_with_the_code_of_their_outcome)
{
    char *dir = dir_make();
    struct str out = {0};
    cr_assert_eq(command(dir, "eval " MODEL " --simthreshd1 .3 --cdfthreshd .9" SHORT, &out), 0,
        "%s", str_get(&out));
    cr_assert_eq(
        command(dir, "eval " MODEL " --simthreshd1 0 --cdfthreshd .5 -o after.json" SHORT, &out),
        0);
    cr_expect_eq(command(dir, "gate 2 --max-kl .0001", &out), 1);
    has(str_get(&out), "guessed from the work");
    has(str_get(&out), "run 2: sparge 128x64"); /* what was judged */
    cr_expect_eq(command(dir, "eval " MODEL " --simthreshd1 .3 --cdfthreshd .9" SHORT, &out), 0);
    has(str_get(&out), "\"last\" is run 2, which ended later: name this one, e.g. gate 1");
    cr_expect_eq(
        command(dir, "eval " MODEL " --simthreshd1 0 --cdfthreshd .5 --attribution" SHORT, &out),
        0);
    lacks(str_get(&out), "stored already"); /* it is, but not with this */
    cr_expect_eq(
        command(dir, "eval " MODEL " --simthreshd1 0 --cdfthreshd .5 --attribution" SHORT, &out),
        0);
    has(str_get(&out), "stored already");
    lacks(str_get(&out), "\"last\" is");
    cr_expect_eq(command(dir, "gate 2 --max-kl .0001", &out), 1);
    has(str_get(&out), "measured in each sample");
    cr_expect_eq(
        command(dir, "gate 2 --baseline 1 --max-kl-rise 9 --max-cosine-drop 1 --max-memory 100000",
            &out),
        0, "%s", str_get(&out));
    cr_expect_eq(
        command(dir, "gate after.json --baseline 1 --max-kl-rise .0001 --junit g.xml", &out), 1,
        "%s", str_get(&out));
    has(str_get(&out), "rise of kl");
    has(str_get(&out), "Worst causes");
    cr_expect_eq(command(dir, "gate 2 --max-kl .0001 --confirm -q", &out), 1);
    has(str_get(&out), "confirmed by a second run");
    cr_expect_eq(command(dir, "list --format csv --all-columns", &out), 0);
    cr_expect_eq(count(str_get(&out), "\n"), 3u, "the second run is no result of its own: %s",
        str_get(&out));
    cr_expect_eq(command(dir, "gate after.json --max-kl .0001 --confirm", &out), 1);
    has(str_get(&out), "is a file");
    cr_expect_eq(command(dir, "gate 2 --max-kl-rise 1", &out), 4, "no baseline, no judgement");
    cr_expect_eq(command(dir, "gate --self-test --max-length 256 --num-samples 2 -q", &out), 1,
        "where nothing is sparse the faults cannot show, and the gate must not be trusted");
    dir_remove(dir);
    str_clear(&out);
}

/* The object or array element at "metrics/cosine/mean": members by name, elements by number, or by
 * their name among the overall metrics; *parent and *last say where it hangs. */
static cJSON *json_at(cJSON *root, const char *path, cJSON **parent)
{
    char text[128];
    snprintf(text, sizeof text, "%s", path);
    cJSON *at = root;
    for (char *save = NULL, *word = strtok_r(text, "/", &save); word && at;
         word = strtok_r(NULL, "/", &save)) {
        *parent = at;
        if (!cJSON_IsArray(at)) {
            at = cJSON_GetObjectItemCaseSensitive(at, word);
        } else if (*word >= '0' && *word <= '9') {
            at = cJSON_GetArrayItem(at, atoi(word));
        } else {
            cJSON *row = at->child;
            while (row &&
                (strcmp(cJSON_GetObjectItem(row, "name")->valuestring, word) != 0 ||
                    strcmp(cJSON_GetObjectItem(row, "scope")->valuestring, "overall") != 0))
                row = row->next;
            at = row;
        }
    }
    cr_assert(at, "no %s", path);
    return at;
}

enum edit_how {
    EDIT_SCALE,
    EDIT_SET,
    EDIT_NULL,
    EDIT_DELETE,
    EDIT_EMPTY,
    EDIT_TEXT,
    EDIT_COPY_FIRST
};

/* One number changed by hand contradicts the rest of its file, in whatever place it stands, and no
 * gate passes on it. */
Test(gate_commands, files_edited_by_hand_are_refused, .timeout = 600)
{
    static const struct {
        const char *path;
        enum edit_how how;
        double by;
        const char *says, *text;
    } edits[] = {
        /* the numbers that are judged */
        {"metrics/cosine/mean", EDIT_SCALE, 1.005, "output_accuracy.cosine: found", NULL},
        {"metrics/cosine/lo", EDIT_SCALE, 1.001, "(overall cosine).lo: found", NULL},
        {"metrics/kl/mean", EDIT_SCALE, .9, "output_accuracy.kl: found", NULL},
        {"metrics/kl/hi", EDIT_SCALE, .99, "(overall kl).hi: found", NULL},
        {"metrics/kl/std_error", EDIT_SCALE, .5, "(overall kl).std_error: found", NULL},
        {"metrics/kl_p99_9/mean", EDIT_SCALE, .9, "(overall kl_p99_9).mean: found", NULL},
        {"metrics/cosine_p1/hi", EDIT_SCALE, .99, "(overall cosine_p1).hi: found", NULL},
        {"metrics/kl/p99_9", EDIT_SCALE, .9, "(overall kl).p99_9: found", NULL},
        {"metrics/cosine_p1/mean", EDIT_SCALE, 1.01, "(overall cosine_p1).mean: found", NULL},
        {"metrics/ppl_ratio/mean", EDIT_SCALE, .99, "ppl_ratio", NULL},
        {"metrics/sparsity/mean", EDIT_SCALE, 1.2, "sparsity", NULL},
        {"metrics/sparsity/lo", EDIT_SCALE, 1.01, "(overall sparsity).lo: found", NULL},
        {"metrics/token_accuracy/mean", EDIT_SCALE, 1.02, "token_accuracy", NULL},
        {"metrics/score_drop/mean", EDIT_SCALE, .5, "(overall score_drop).mean: found", NULL},
        {"metrics/score_drop/hi", EDIT_SCALE, .5, "(overall score_drop).hi: found", NULL},
        {"metrics/kl", EDIT_DELETE, 0, "overall kl", NULL},
        {"metrics/kl/hi", EDIT_DELETE, 0, "(overall kl).hi: is missing", NULL},
        {"output_accuracy/kl", EDIT_SCALE, .9, "output_accuracy.kl: found", NULL},
        {"output_accuracy/logits_cosine", EDIT_TEXT, 0,
            "output_accuracy.logits_cosine: is no number", "0.9999"},
        {"sparsity/mean", EDIT_SCALE, 1.1, "sparsity.mean: found", NULL},
        {"sparsity/std", EDIT_SET, .4, "sparsity.std: found", NULL},
        /* the samples they come from */
        {"detailed_results/0/cosine_mean", EDIT_SCALE, 1.004, "(overall cosine).mean: found", NULL},
        {"detailed_results/0/kl_mean", EDIT_SCALE, .8, "kl", NULL},
        {"detailed_results/1/kl_max", EDIT_SCALE, .9, "tails", NULL},
        {"detailed_results/0/sparsity", EDIT_SCALE, 1.1, "sparsity", NULL},
        {"detailed_results/0/qk_sparsity", EDIT_SCALE, 1.1, "detailed_results[0]", NULL},
        {"detailed_results/0/tiles_possible", EDIT_SCALE, 2, "sparsity", NULL},
        {"detailed_results/0/token_accuracy", EDIT_SCALE, 1.001, "a whole number of its positions",
            NULL},
        {"detailed_results/0/nll_sparse_sum", EDIT_SCALE, .9, "found", NULL},
        {"detailed_results/0/n_scored", EDIT_SCALE, .5, "found", NULL},
        {"detailed_results/0/kl_mean", EDIT_NULL, 0,
            "detailed_results[0].kl_mean: is missing or null", NULL},
        {"detailed_results/1/logits_dense_rms", EDIT_DELETE, 0,
            "detailed_results[1].logits_dense_rms: is missing or null", NULL},
        {"detailed_results", EDIT_EMPTY, 0, "detailed_results", NULL},
        {"detailed_results/1", EDIT_DELETE, 0, "detailed_results: found 2 samples, expected 3",
            NULL},
        {"detailed_results", EDIT_COPY_FIRST, 0, "sparsity.std: found", NULL},
        {"detailed_results/0/text_idx", EDIT_SET, 1, "text_idx: found 1", NULL},
        {"tails/1/worst/0", EDIT_SCALE, .5, "tails[1].worst", NULL},
        {"tails/0", EDIT_DELETE, 0, "does not hold what it is computed from", NULL},
        {"tails", EDIT_DELETE, 0, "does not hold what it is computed from", NULL},
        {"items/0", EDIT_DELETE, 0, "score_", NULL},
        {"items", EDIT_DELETE, 0, "does not hold what it is computed from", NULL},
        /* what says whether they may be believed at all */
        {"config/num_samples", EDIT_SET, 4, "expected 4 as config.num_samples says", NULL},
        {"provenance/status", EDIT_TEXT, 0, "provenance.status: found failed, expected done",
            "failed"},
        {"provenance/status", EDIT_DELETE, 0, "provenance.status", NULL},
        {"provenance/attention_calls", EDIT_SET, 1000000,
            "provenance.attention_calls: found 1000000", NULL},
        {"provenance/dense_fallback_calls", EDIT_SET, 1, "provenance.dense_fallback_calls: found 1",
            NULL},
        {"config/qk", EDIT_TEXT, 0, "config.qk: found full", "full"},
        {"config/qk", EDIT_TEXT, 0, "config.qk: found int4", "int4"},
        {"config/pv", EDIT_TEXT, 0, "config.pv: found int8", "int8"},
        {"detailed_results/0/fell_back", EDIT_TEXT, 0, "fell_back", "yes"},
        /* what was measured at all: the key is the hash of its question, and that has the settings
         */
        {"config/method", EDIT_TEXT, 0, "method: sparge -> tail", "tail"},
        {"config/cdfthreshd", EDIT_SET, .4, "cdfthreshd: 0.5 -> 0.4", NULL},
        {"config/block_q", EDIT_SET, 64, "block_q: 128 -> 64", NULL},
        {"config/layers", EDIT_TEXT, 0, "layers: all -> 0-1", "0-1"},
        {"config/layers", EDIT_TEXT, 0, "layers: all -> none", "none"},
        {"config/heads", EDIT_TEXT, 0, "heads: all -> 0:1", "0:1"},
        {"config/device", EDIT_TEXT, 0, "device: cpu -> cuda:0", "cuda:0"},
        {"config/qk", EDIT_TEXT, 0, "qk: nothing -> int8", "int8"},
        {"config/pv", EDIT_TEXT, 0, "pv: nothing -> fp8", "fp8"},
        {"config/l1", EDIT_SET, .06, "l1: nothing -> 0.06", NULL},
        {"config/score", EDIT_TEXT, 0, "score: all -> second-half", "second-half"},
        {"config/max_length", EDIT_SET, 1024, "max_length: 512 -> 1024", NULL},
        {"config/smooth_k", EDIT_DELETE, 0, "smooth_k: running -> nothing", NULL},
        {"config/confirming", EDIT_SET, 1, "confirming", NULL},
        {"config/seed", EDIT_TEXT, 0, "seed: nothing -> 9", "9"},
        {"identity/model/fingerprint", EDIT_TEXT, 0, "model_fingerprint: ", "0123456789abcdef"},
        {"identity/data/fingerprint", EDIT_TEXT, 0, "tokens: ", "0123456789abcdef"},
        {"identity/data/suite", EDIT_TEXT, 0, "suite: chronicle -> needle", "needle"},
        {"provenance/engine", EDIT_TEXT, 0, "engine: ", "99"},
        {"identity/key", EDIT_TEXT, 0, "identity.key: found 0, expected", "0"},
        {"identity/key", EDIT_TEXT, 0, "identity.key: found 000000",
            "00000000000000000000000000000000"},
        {"identity/key", EDIT_DELETE, 0, "identity.key: is missing", NULL},
        {"identity/key_json", EDIT_DELETE, 0, "identity.key_json: is missing", NULL},
        {"identity/key_json", EDIT_TEXT, 0, "identity.key: found", "{}"},
        {"identity/data/n_tokens", EDIT_SCALE, 2, "identity.data.n_tokens", NULL},
        {"identity/model/n_layers", EDIT_SET, 7, "provenance.attention_calls", NULL},
    };
    char *dir = dir_make();
    struct str out = {0}, file = {0};
    cr_assert_eq(
        command(dir,
            "eval " MODEL
            " --simthreshd1 0 --cdfthreshd .5 -o run.json --max-length 512 --num-samples 3 "
            "--cache none -q",
            &out),
        0, "%s", str_get(&out));
    cr_assert_eq(
        command(dir, "gate run.json --min-cosine -1 --max-kl 99", &out), 0, "%s", str_get(&out));
    char *path = path_join(dir, "run.json"), *copy = path_join(dir, "x.json");
    ok(file_read(&file, path));
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        cJSON *root = cJSON_Parse(str_get(&file)), *parent = NULL,
              *at = json_at(root, edits[i].path, &parent);
        const char *name = strrchr(edits[i].path, '/');
        name = name ? name + 1 : edits[i].path;
        switch (edits[i].how) {
        case EDIT_SCALE:
            cr_assert(cJSON_IsNumber(at) && at->valuedouble != 0, "%s", edits[i].path);
            cJSON_SetNumberValue(at, at->valuedouble * edits[i].by);
            break;
        case EDIT_SET:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateNumber(edits[i].by));
            break;
        case EDIT_NULL:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateNull());
            break;
        case EDIT_EMPTY:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateArray());
            break;
        case EDIT_TEXT:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateString(edits[i].text));
            break;
        case EDIT_DELETE: cJSON_Delete(cJSON_DetachItemViaPointer(parent, at)); break;
        case EDIT_COPY_FIRST: {
            cJSON *twin = cJSON_Duplicate(at->child, true);
            cJSON_SetNumberValue(cJSON_GetObjectItem(twin, "text_idx"), 2);
            cJSON_ReplaceItemInArray(at, 2, twin);
            break;
        }
        }
        ok(json_write_file(copy, root));
        cJSON_Delete(root);
        int code = command(dir, "gate x.json --min-cosine -1 --max-kl 99", &out);
        cr_expect_eq(
            code, 3, "%s, edit %d: exit %d: %s", edits[i].path, edits[i].how, code, str_get(&out));
        cr_expect(strstr(str_get(&out), edits[i].says) && strstr(str_get(&out), "x.json"),
            "%s, edit %d: no \"%s\" in %s", edits[i].path, edits[i].how, edits[i].says,
            str_get(&out));
    }
    dir_remove(dir);
    free(path);
    free(copy);
    str_clear(&out);
    str_clear(&file);
}

/* A run that looks best by a metric that the others contradict is named so, and what it could tell
 * apart is said. */
Test(gate_commands, best_names_metrics_that_disagree)
{
    char *dir = dir_make(), *db = path_join(dir, "sparsegauge.db");
    struct store *store;
    struct str out = {0};
    ok(store_open(&store, db, STORE_WRITE));
    struct made sound, doubtful;
    make(&sound, .99, .01, .97, .4, .001);
    make(&doubtful, .99, .10, .97, .6, .001);
    struct made *both[] = {&sound, &doubtful};
    for (int i = 0; i < 2; i++) {
        struct run_data d = {
            .run = both[i]->run, .metrics = both[i]->metrics, .n_metrics = both[i]->view.metrics.n};
        d.run.key = d.run.slot =
            i ? "0123456789abcdef0123456789abcdef" : "fedcba98765432100123456789abcdef";
        d.run.model = (struct model_record){.fingerprint = "m1",
            .name = "model",
            .n_layers = 2,
            .n_heads = 4,
            .n_kv_heads = 2,
            .head_dim = 64,
            .vocab = 100};
        d.run.dataset = (struct dataset_record){
            .fingerprint = "d1", .suite = "text", .name = "text", .n_samples = 4};
        d.run.software = (struct software_record){.version = "1", .engine = "1", .compiler = "cc"};
        ok(store_run_put(store, &d, false, NULL));
    }
    store_close(&store);
    cr_assert_eq(command(dir, "best --min-cosine .98", &out), 0, "%s", str_get(&out));
    has(str_get(&out), "The metrics disagree: cosine 0.9900 looks excellent, KL 0.1000");
    has(str_get(&out), "detectable on as many other texts");
    cr_assert_eq(command(dir, "best --min-cosine .98 --max-kl .05 --min-token-accuracy 90%", &out),
        0, "%s", str_get(&out));
    lacks(str_get(&out), "disagree");
    cr_assert_eq(command(dir, "frontier", &out), 0);
    has(str_get(&out), "detectable KL");
    dir_remove(dir);
    free(db);
    str_clear(&out);
}
