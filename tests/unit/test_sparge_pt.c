#include "engine/tuner/sparge_pt.h"

#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

enum { LAYERS = 4, HEADS = 3 }; /* of the golden files */

static char *golden(const char *name) { return str_format(TESTS_DIR "/golden/sparge_%s.pt", name); }

/* make_sparge_pt.py's VALUES: θ, τ, λ, sparse; layers 1 and 3. */
static const float expected[2][HEADS][4] = {
    {{-.9375f, .96875f, 4.5f, 1}, {1, 1, 49.75f, 0}, {.3125f, .875f, 20, 1}},
    {{-1, .5f, .25f, 1}, {.0625f, .25f, 50, 1}, {.5f, .9375f, 12, 1}},
};

static void must_hold_values(const struct tuned *t, const char *file)
{
    cr_expect_eq(t->n_layers, LAYERS);
    cr_expect_eq(t->n_heads, HEADS);
    cr_expect_str_eq(t->method, "sparge");
    cr_expect(t->block.q == 128 && t->block.k == 64 && t->smooth_k == SMOOTH_K_GLOBAL, "%s", file);
    cr_expect_str_eq(t->model_fingerprint, "");
    cr_expect_str_eq(t->layers, "1+3");
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < HEADS; h++) {
            const struct tuned_head *x = &t->heads[l * HEADS + h];
            cr_expect_eq(x->in_range, l % 2 == 1, "%s: layer %d", file, l);
            cr_expect(
                isnan(x->tune.l1) && isnan(x->held_out.tail) && isnan(x->sparsity), "%s", file);
            if (l % 2 == 0) continue;
            const float *v = expected[l / 2][h];
            cr_expect(x->params.theta == v[0] && x->params.tau == v[1] &&
                    x->params.lambda == v[2] && x->params.is_sparse == (v[3] != 0),
                "%s: layer %d, head %d: %g %g %g %d", file, l, h, (double)x->params.theta,
                (double)x->params.tau, (double)x->params.lambda, x->params.is_sparse);
            cr_expect_eq(*x->reason != 0, !x->params.is_sparse);
        }
}

Test(sparge_pt, reads_what_torch_saves)
{
    static const char *const names[] = {"plain", "ordered", "parameters", "mixed", "bf16",
        "strided", "cuda", "proto4", "blocks", "old"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tuned t;
        char *path = golden(names[i]);
        enum status st = sparge_pt_read(&t, path, LAYERS, HEADS, NULL);
        cr_expect_eq(st, OK, "%s: %s", names[i], status_message());
        if (st == OK) must_hold_values(&t, names[i]);
        tuned_clear(&t);
        free(path);
    }
}

static void must_refuse(
    const char *path, int n_layers, int n_heads, enum status code, const char *const *says)
{
    struct tuned t;
    enum status st = sparge_pt_read(&t, path, n_layers, n_heads, NULL);
    cr_expect_eq(st, code, "%s: %s, expected %s (%s)", path, status_name(st), status_name(code),
        status_message());
    cr_expect(strstr(status_message(), path), "message without the file: %s", status_message());
    for (; *says; says++)
        cr_expect(strstr(status_message(), *says), "\"%s\" lacks \"%s\"", status_message(), *says);
    cr_expect_null(t.heads);
    tuned_clear(&t);
}

#define SAYS(...) ((const char *const[]){__VA_ARGS__, NULL})

Test(sparge_pt, refuses_bad_files)
{
    static const struct {
        const char *name;
        enum status code;
        const char *says[4];
    } bad[] = {
        {"deflate", ERR_UNSUPPORTED, {"method", "found 8 (deflate)", "expected 0 (stored)"}},
        {"legacy", ERR_UNSUPPORTED, {"before torch 1.6", "save it again"}},
        {"dangerous", ERR_UNSUPPORTED, {"posix.system", "distrust"}},
        {"nan", ERR_NUMERIC, {"model.layers.1.self_attn.sparse_attn.cdfthreshd", "head 1", "nan"}},
        {"range", ERR_FORMAT, {"pvthreshd", "head 2", "found 50.5, expected 0 to 50"}},
        {"missing", ERR_FORMAT,
            {"model.layers.1.self_attn.sparse_attn.pvthreshd", "found nothing"}},
        {"other", ERR_FORMAT, {"model.embed_tokens.weight", "extract_sparse_attention_state_dict"}},
        {"list", ERR_UNSUPPORTED, {"found a list", "expected a dictionary"}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *path = golden(bad[i].name);
        must_refuse(path, LAYERS, HEADS, bad[i].code, bad[i].says);
        free(path);
    }
}

Test(sparge_pt, refuses_another_model)
{
    char *path = golden("plain");
    must_refuse(path, 3, HEADS, ERR_FORMAT,
        SAYS("model.layers.3.self_attn.sparse_attn", "found layer 3, expected 0 to 2"));
    must_refuse(path, LAYERS, 4, ERR_FORMAT, SAYS("found shape [3], expected [4]"));
    must_refuse(path, 0, HEADS, ERR_ARG, SAYS("0 layers"));
    free(path);
    must_refuse("/tmp/sg-there-is-no-such-file.pt", LAYERS, HEADS, ERR_IO, SAYS("cannot open"));
}

/* From memory of just that length, so that a sanitizer sees a step too far. */
static enum status read_bytes(struct tuned *t, const char *data, size_t size)
{
    struct torch_file f;
    char *exact = malloc(size ? size : 1);
    memcpy(exact, data, size);
    *t = (struct tuned){0};
    enum status st = torch_file_parse(&f, "x.pt", exact, size);
    if (st == OK) st = sparge_pt_from(t, &f, "x.pt", LAYERS, HEADS, NULL);
    torch_file_close(&f);
    free(exact);
    return st;
}

Test(sparge_pt, finds_every_damage)
{
    char *path = golden("plain");
    struct str whole = {0};
    struct tuned t;
    cr_assert_eq(file_read(&whole, path), OK);
    free(path);
    size_t n_same = 0;
    /* one bit flipped: refused, or it was padding or a time */
    for (size_t i = 0; i < whole.len; i++) {
        whole.data[i] ^= 1;
        if (read_bytes(&t, whole.data, whole.len) == OK) {
            must_hold_values(&t, "flipped");
            n_same++;
        }
        tuned_clear(&t);
        whole.data[i] ^= 1;
    }
    cr_expect(
        n_same < whole.len * 3 / 4, "%zu of %zu bytes are never looked at", n_same, whole.len);
    for (size_t n = 0; n < whole.len; n++) {
        cr_expect_eq(read_bytes(&t, whole.data, n), ERR_FORMAT, "%zu bytes", n);
        cr_expect(strstr(status_message(), "x.pt"), "%s", status_message());
        tuned_clear(&t);
    }
    str_clear(&whole);
}

static void tuned_example(struct tuned *t)
{
    cr_assert_eq(tuned_init(t, LAYERS, HEADS), OK);
    snprintf(t->method, sizeof t->method, "sparge");
    t->block = (struct block_shape){128, 64};
    t->smooth_k = SMOOTH_K_GLOBAL;
    for (int l = 1; l < LAYERS; l += 2)
        for (int h = 0; h < HEADS; h++) {
            const float *v = expected[l / 2][h];
            t->heads[l * HEADS + h].in_range = true;
            t->heads[l * HEADS + h].params =
                (struct head_params){v[0], v[1], v[2], v[3] != 0, 0, 0, 0};
        }
}

Test(sparge_pt, writes_and_reads_back)
{
    struct tuned t, back;
    tuned_example(&t);
    t.heads[1 * HEADS + 2].params.theta = .6f; /* no short binary fraction */
    t.heads[3 * HEADS + 1].in_range = false;   /* in a written layer, but not tuned */
    char *dir = dir_make(), *path = path_join(dir, "x.pt"), *again = path_join(dir, "y.pt");
    cr_assert_eq(sparge_pt_write(&t, path, NULL), OK, "%s", status_message());
    cr_assert_eq(sparge_pt_read(&back, path, LAYERS, HEADS, NULL), OK, "%s", status_message());
    cr_expect_str_eq(back.layers, "1+3");
    for (int i = 0; i < LAYERS * HEADS; i++) {
        const struct tuned_head *a = &t.heads[i], *b = &back.heads[i];
        bool sparse = a->in_range && a->params.is_sparse;
        cr_expect_eq(b->in_range, i / HEADS % 2 == 1);
        if (!b->in_range) continue;
        cr_expect_eq(b->params.is_sparse, sparse);
        cr_expect_eq(b->params.theta, sparse ? a->params.theta : 1.f);
        cr_expect_eq(b->params.tau, sparse ? a->params.tau : 1.f);
        cr_expect_eq(b->params.lambda, sparse ? a->params.lambda : 50.f);
    }
    cr_assert_eq(sparge_pt_write(&back, again, NULL), OK);
    struct str x = {0}, y = {0};
    cr_assert(file_read(&x, path) == OK && file_read(&y, again) == OK);
    cr_expect(x.len == y.len && memcmp(x.data, y.data, x.len) == 0,
        "a file read and written again differs");
    str_clear(&x);
    str_clear(&y);
    tuned_clear(&t);
    tuned_clear(&back);
    free(path);
    free(again);
    dir_remove(dir);
}

Test(sparge_pt, writes_under_any_module)
{
    struct tuned t, back;
    struct torch_file f;
    tuned_example(&t);
    char *dir = dir_make(), *path = path_join(dir, "x.pt");
    cr_assert_eq(
        sparge_pt_write(&t, path, "model.model.layers.%d.self_attn"), OK, "%s", status_message());
    cr_assert_eq(torch_file_open(&f, path), OK, "%s", status_message());
    cr_expect_eq(f.n_tensors, 10);
    cr_expect_not_null(torch_file_find(&f, "model.model.layers.3.self_attn.simthreshd2"));
    cr_expect_null(torch_file_find(&f, "model.model.layers.2.self_attn.simthreshd2"));
    torch_file_close(&f);
    cr_expect_eq(sparge_pt_read(&back, path, LAYERS, HEADS, NULL), OK, "%s", status_message());
    tuned_clear(&back);
    static const char *const bad[] = {"model.layers.self_attn", "model.%d.layers.%d",
        "model.layers.%s", "%d%%", "a.%dx", "layers.%d.blocks.4", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(sparge_pt_write(&t, path, bad[i]), ERR_ARG, "%s", bad[i]);
        cr_expect(strstr(status_message(), "expected one %d"), "%s", status_message());
    }
    tuned_clear(&t);
    free(path);
    dir_remove(dir);
}

/* A model with two attentions a layer, and a loader that looks for one name: the public one loads
 * nothing and says nothing. */
Test(sparge_pt, modules_are_told_apart_by_name)
{
    struct tuned t, back;
    struct torch_file f;
    tuned_example(&t);
    char *dir = dir_make(), *path = path_join(dir, "x.pt");
    cr_assert_eq(sparge_pt_write(&t, path, "inner_attention"), OK, "%s", status_message());
    cr_assert_eq(torch_file_open(&f, path), OK, "%s", status_message());
    cr_expect_not_null(torch_file_find(&f, "model.layers.3.self_attn.inner_attention.cdfthreshd"));
    torch_file_close(&f);
    static const char *const right[] = {"inner_attention",
        "model.layers.%d.self_attn.inner_attention", "self_attn.inner_attention"};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        cr_expect_eq(sparge_pt_read(&back, path, LAYERS, HEADS, right[i]), OK, "%s: %s", right[i],
            status_message());
        tuned_clear(&back);
    }
    static const char *const wrong[] = {
        "sparse_attn", "attention", "layers.%d.self_attn.inner_attention", "model.layers.%d", ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_expect_eq(
            sparge_pt_read(&back, path, LAYERS, HEADS, wrong[i]), ERR_FORMAT, "%s", wrong[i]);
        cr_expect(strstr(status_message(), "self_attn.inner_attention, which the file has"), "%s",
            status_message());
    }
    tuned_clear(&t);
    free(path);
    dir_remove(dir);
}

Test(sparge_pt, refuses_to_write_nonsense)
{
    struct tuned t;
    tuned_example(&t);
    char *dir = dir_make(), *path = path_join(dir, "x.pt");
    float *lambda = &t.heads[3 * HEADS].params.lambda;
    const float bad[] = {NAN, -1, 51};
    for (int i = 0; i < 3; i++) {
        *lambda = bad[i];
        cr_expect_eq(sparge_pt_write(&t, path, NULL), ERR_ARG);
        cr_expect(strstr(status_message(), "layer 3, head 0: pvthreshd"), "%s", status_message());
    }
    *lambda = 20;
    snprintf(t.method, sizeof t.method, "window");
    cr_expect_eq(sparge_pt_write(&t, path, NULL), ERR_ARG);
    cr_expect(
        strstr(status_message(), "found \"window\", expected \"sparge\""), "%s", status_message());
    snprintf(t.method, sizeof t.method, "sparge");
    for (int i = 0; i < LAYERS * HEADS; i++) t.heads[i].in_range = false;
    cr_expect_eq(sparge_pt_write(&t, path, NULL), ERR_ARG);
    cr_expect(strstr(status_message(), "no layer"), "%s", status_message());
    cr_expect(!file_exists(path), "a refused write left a file");
    tuned_clear(&t);
    free(path);
    dir_remove(dir);
}

Test(sparge_pt, names_what_differs_there)
{
    struct tuned t = {.block = {128, 64}, .smooth_k = SMOOTH_K_GLOBAL};
    struct str s = {0};
    sparge_pt_caveats(&t, &s);
    cr_expect_str_eq(str_get(&s), "");
    t.block.q = 64;
    struct str options = {0};
    sparge_pt_options(&(struct tuned){.block = {128, 64}, .smooth_k = SMOOTH_K_GLOBAL}, &options);
    cr_expect_str_eq(str_get(&options), "");
    sparge_pt_options(&(struct tuned){.block = {64, 64}, .smooth_k = SMOOTH_K_OFF}, &options);
    cr_expect_str_eq(str_get(&options), " --block 64x64 --smooth-k off");
    str_clear(&options);
    t.smooth_k = SMOOTH_K_RUNNING;
    sparge_pt_caveats(&t, &s);
    cr_expect(strstr(str_get(&s), "64x64") && strstr(str_get(&s), "running"), "%s", str_get(&s));
    str_clear(&s);
}

/* torch itself must read what we write. */
Test(sparge_pt, torch_loads_what_we_write)
{
    if (system("python3 -c 'import torch' >/dev/null 2>&1") != 0)
        cr_skip_test("torch is not installed");
    struct tuned t;
    tuned_example(&t);
    char *dir = dir_make(), *path = path_join(dir, "x.pt");
    cr_assert_eq(sparge_pt_write(&t, path, NULL), OK, "%s", status_message());
    char *command = str_format("python3 %s/golden/make_sparge_pt.py --show %s", TESTS_DIR, path);
    FILE *pipe = popen(command, "r");
    cr_assert(pipe);
    struct str shown = {0};
    char line[512];
    while (fgets(line, sizeof line, pipe)) str_add(&shown, line);
    cr_expect_eq(pclose(pipe), 0);
    cr_expect_str_eq(str_get(&shown),
        "model.layers.1.self_attn.sparse_attn.is_sparse torch.bool [3] [1] cpu 1 0 1\n"
        "model.layers.1.self_attn.sparse_attn.cdfthreshd torch.float32 [3] [1] cpu 0.96875 1 "
        "0.875\n"
        "model.layers.1.self_attn.sparse_attn.simthreshd1 torch.float32 [3] [1] cpu -0.9375 1 "
        "0.3125\n"
        "model.layers.1.self_attn.sparse_attn.simthreshd2 torch.float32 [3] [1] cpu 0 0 0\n"
        "model.layers.1.self_attn.sparse_attn.pvthreshd torch.float32 [3] [1] cpu 4.5 50 20\n"
        "model.layers.3.self_attn.sparse_attn.is_sparse torch.bool [3] [1] cpu 1 1 1\n"
        "model.layers.3.self_attn.sparse_attn.cdfthreshd torch.float32 [3] [1] cpu 0.5 0.25 "
        "0.9375\n"
        "model.layers.3.self_attn.sparse_attn.simthreshd1 torch.float32 [3] [1] cpu -1 0.0625 0.5\n"
        "model.layers.3.self_attn.sparse_attn.simthreshd2 torch.float32 [3] [1] cpu 0 0 0\n"
        "model.layers.3.self_attn.sparse_attn.pvthreshd torch.float32 [3] [1] cpu 0.25 50 12\n");
    str_clear(&shown);
    free(command);
    free(path);
    dir_remove(dir);
    tuned_clear(&t);
}
