/* Weights that are brought layer by layer: the same bits as with all of them there, for sequences
 * side by side, of several chunks, cut at layers; little of the file is resident on the CPU;
 * refusals. With a GPU the same there. */
#include "engine/engine.h"
#include "engine/checkpoint/synth.h"
#include "engine/offload.h"
#include "engine/session_split.h"
#include "harness/measure/devices.h"
#include "tests/unit/model_files.h"
#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#endif

#include <criterion/criterion.h>
#include <math.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
#define DEMO SG_SOURCE_DIR "/suites/demo/model"
enum {
    LONGEST = 520,
    SEQUENCES = 5,
    CAPTURED = 2,
    PLACE_CPU = 0,
    PLACE_CUDA = 1,
    PLACE_SPLIT = 2,
    PLACE_CPUS = 100
};

static const int lengths[SEQUENCES] = {384, 280, LONGEST, 1, 300};

/* What a sequence gives. */
struct results {
    float *hidden, *stream, *logits;
    struct head_ledger *ledger;
    int n_seen; /* layers shown to a hook, once a chunk */
};

struct bench {
    struct weights w;
    struct par *par;
    struct session *s;
    struct sparse_policy policy;
    int32_t ids[LONGEST];
    struct results r[SEQUENCES];
    struct forward_args calls[SEQUENCES];
    int order[SEQUENCES], n_done;
};

static enum status count_layer(void *ctx, const struct layer_view *view)
{
    (void)view;
    ((struct results *)ctx)->n_seen++;
    return OK;
}

static void open_bench(
    struct bench *b, const char *dir, int place, bool offload, bool once, int chunk)
{
    struct device_options how = {.offload = offload};
    *b = (struct bench){0};
    CHECK(weights_open_with(&b->w, dir, &how));
    if (place >= PLACE_CPUS)
        CHECK(weights_split(&b->w, (const int[MAX_SPLIT]){0}, place - PLACE_CPUS, NULL, NULL));
#ifdef SG_HAVE_CUDA
    if (place == PLACE_CUDA) CHECK(weights_place_cuda(&b->w, 0));
    if (place >= PLACE_SPLIT && place < PLACE_CPUS)
        CHECK(weights_place_split(&b->w, (const int[]){0, 1, 2, 3}, place));
#endif
    const struct llama_config *c = &b->w.config;
    CHECK(par_open(&b->par, 2));
    if (once) CHECK(session_open_once(&b->s, &b->w, b->par, LONGEST, chunk, NULL));
    else CHECK(session_open(&b->s, &b->w, b->par, LONGEST, chunk, NULL));
    CHECK(policy_init(&b->policy, &mask_sparge, c->n_layers, c->n_heads));
    b->policy.topk = .4f;
    policy_choose_thresholds(&b->policy, -.1, 1, 20);
    for (int i = 0; i < LONGEST; i++) b->ids[i] = (i * 31 + i / 7) % 250;
    size_t rows = LONGEST * (size_t)c->hidden_size,
           cells = (size_t)c->n_layers * (size_t)c->n_heads;
    for (int i = 0; i < SEQUENCES; i++) {
        struct results *r = &b->r[i];
        r->hidden = calloc(rows, sizeof(float));
        r->stream = calloc(rows, sizeof(float));
        r->logits = calloc((size_t)c->vocab_size, sizeof(float));
        r->ledger = calloc(cells, sizeof *r->ledger);
        b->calls[i] = (struct forward_args){.tokens = b->ids,
            .n = lengths[i],
            .policy = i % 2 ? NULL : &b->policy,
            .ledger = r->ledger,
            .hidden = r->hidden,
            .last_logits = r->logits,
            .capture_layer = i == 1 ? c->n_layers : CAPTURED,
            .residual_out = r->stream,
            .hook = count_layer,
            .hook_ctx = r,
            .hook_tiles_only = true};
    }
}

static void close_bench(struct bench *b)
{
    for (int i = 0; i < SEQUENCES; i++) {
        free(b->r[i].hidden);
        free(b->r[i].stream);
        free(b->r[i].logits);
        free(b->r[i].ledger);
    }
    policy_clear(&b->policy);
    session_close(&b->s);
    par_close(&b->par);
    weights_close(&b->w);
}

static enum status note_done(void *ctx, int i, double seconds)
{
    struct bench *b = ctx;
    cr_expect(seconds > 0);
    b->order[b->n_done++] = i;
    return OK;
}

static void expect_same(const struct bench *a, const struct bench *b, const char *what)
{
    const struct llama_config *c = &a->w.config;
    for (int i = 0; i < SEQUENCES; i++) {
        size_t rows = sizeof(float) * (size_t)lengths[i] * (size_t)c->hidden_size;
        double sum = 0;
        for (int v = 0; v < c->vocab_size; v++) sum += fabs((double)a->r[i].logits[v]);
        cr_expect(sum > 0);
        cr_expect(memcmp(a->r[i].hidden, b->r[i].hidden, rows) == 0, "%s: states of sequence %d",
            what, i);
        cr_expect(memcmp(a->r[i].stream, b->r[i].stream, rows) == 0, "%s: stream of sequence %d",
            what, i);
        cr_expect(
            memcmp(a->r[i].logits, b->r[i].logits, sizeof(float) * (size_t)c->vocab_size) == 0,
            "%s: logits of sequence %d", what, i);
        cr_expect(memcmp(a->r[i].ledger, b->r[i].ledger,
                      sizeof(struct head_ledger) * (size_t)c->n_layers * (size_t)c->n_heads) == 0,
            "%s: ledger of sequence %d", what, i);
        cr_expect_eq(a->r[i].n_seen, b->r[i].n_seen);
    }
}

/* Of one place with all weights there, and of another in another way. */
static void same_bits_at(
    const char *dir, int place, int other, bool offload, bool once, int chunk, const char *what)
{
    static struct bench there, brought, alone;
    int failed;
    open_bench(&there, dir, place, false, false, chunk);
    open_bench(&brought, dir, other, offload, once, chunk);
    open_bench(&alone, dir, other, offload, once, chunk);
    CHECK(session_forward_each(there.s, there.calls, SEQUENCES, note_done, &there, &failed));
    CHECK(session_forward_each(brought.s, brought.calls, SEQUENCES, note_done, &brought, &failed));
    for (int i = 0; i < SEQUENCES;
         i++) { /* each on its own, as commands do that know nothing of this */
        session_reset(alone.s);
        CHECK(session_forward(alone.s, &alone.calls[i]));
    }
    cr_expect_eq(brought.n_done, SEQUENCES);
    for (int i = 0; i < SEQUENCES; i++) cr_expect_eq(brought.order[i], i);
    expect_same(&there, &brought, what);
    expect_same(&there, &alone, what);
    cr_expect_eq(session_at_once(there.s, 1), 0);
    cr_expect_geq(session_at_once(brought.s, LONGEST), 1);
    close_bench(&there);
    close_bench(&brought);
    close_bench(&alone);
}

static void same_bits(const char *dir, int place, bool once, int chunk, const char *what)
{
    same_bits_at(dir, place, place, true, once, chunk, what);
}

/* Two streams of the longest fit a quarter of the bundled model, so the sequences pass in groups.
 */
static void all_shapes(int place)
{
    same_bits(DEMO, place, true, 0, "whole");
    same_bits(DEMO, place, true, 256, "in chunks");
    same_bits(DEMO, place, false, 256, "in chunks, with all keys kept");
}

Test(offload, gives_the_same_bits) { all_shapes(PLACE_CPU); }

Test(offload, a_layer_range_and_an_error_find_their_sequence)
{
    static struct bench b;
    int failed = -1;
    open_bench(&b, DEMO, PLACE_CPU, true, true, 0);
    b.calls[3].tokens = (const int32_t[]){b.w.config.vocab_size};
    cr_expect_eq(session_forward_each(b.s, b.calls, SEQUENCES, note_done, &b, &failed), ERR_ARG);
    cr_expect_eq(failed, 3);
    cr_expect_eq(b.n_done, 0, "what is wrong is found before anything runs");
    b.calls[3].tokens = b.ids;
    ((float *)b.w.layers[1].mlp_norm)[0] = NAN;
    cr_expect_eq(session_forward_each(b.s, b.calls + 1, 2, note_done, &b, &failed), ERR_NUMERIC);
    cr_expect_eq(failed, 0);
    cr_expect(strstr(status_message(), "layer 1"), "%s", status_message());
    close_bench(&b);
}

/* KiB of the mapped weights that are resident. */
static long resident_kib(const char *name)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[4096];
    bool ours = false;
    long all = 0, kib;
    while (fgets(line, sizeof line, f)) {
        if (strchr(line, '-') && strchr(line, '-') < strchr(line, ' '))
            ours = strstr(line, name) != NULL;
        if (ours && sscanf(line, "Rss: %ld", &kib) == 1) all += kib;
    }
    fclose(f);
    return all;
}

Test(offload, two_layers_are_resident)
{
    static struct bench b;
    long kib[2];
    int failed;
    for (int offload = 0; offload < 2; offload++) {
        char hash[FINGERPRINT_SIZE];
        open_bench(&b, DEMO, PLACE_CPU, offload, true, 0);
        CHECK(weights_fingerprint(&b.w, NULL, b.par, NULL, hash)); /* reads everything */
        CHECK(session_forward_each(b.s, b.calls, SEQUENCES, note_done, &b, &failed));
        kib[offload] = resident_kib("model.safetensors");
        size_t few = 2 * weights_layer_bytes(&b.w, 0) +
            2 * (size_t)b.w.config.vocab_size * (size_t)b.w.config.hidden_size * 2;
        if (offload) cr_expect_leq(kib[1], (long)(few / 1024) + 512, "%ld KiB", kib[1]);
        else cr_expect_geq(kib[0], (long)(b.w.weight_bytes / 1024 * 9 / 10));
        close_bench(&b);
    }
    cr_expect_lt(2 * kib[1], kib[0], "%ld KiB, all are %ld", kib[1], kib[0]);
}

Test(offload, is_planned)
{
    static struct bench b;
    struct offload_plan p;
    char text[256];
    open_bench(&b, DEMO, PLACE_CPU, true, true, 0);
    struct offload_args a = {.n_samples = 3, .n_tokens = 512, .n_runs = 2};
    CHECK(offload_plan(&b.w, b.par, &a, &p));
    cr_expect(p.layer_bytes == weights_layer_bytes(&b.w, 0) && p.at_once >= 1 && p.at_once <= 3);
    cr_expect(p.work_s > 0 && isfinite(p.work_s) && p.transfer_s >= 0);
    a.n_alone = 90;
    CHECK(offload_plan(&b.w, b.par, &a, &p));
    cr_expect_eq(p.at_once, 1, "what is written waits for the token before it");
    p = (struct offload_plan){
        .layer_bytes = (size_t)17 << 28, .at_once = 214, .transfer_s = 31.2, .work_s = 44};
    offload_plan_text(&p, text, sizeof text);
    cr_expect_str_eq(text,
        "layers of 4.25 GiB, two at a time, 214 samples a pass; 31 s of transfer hidden behind 44 "
        "s of work");
    close_bench(&b);
}

/* Layers cut over several places: the same bits as in one, one sequence behind the other and each
 * alone; sequences that begin or end inside; an error is that of the first sequence that has one.
 */
static void cut_over(int place, int cut)
{
    static struct bench b, there;
    int failed = -1;
    same_bits_at(DEMO, place, cut, false, true, 0, "cut, whole");
    same_bits_at(DEMO, place, cut, false, false, 256, "cut, in chunks");
    open_bench(&there, DEMO, place, false, true, 0);
    open_bench(&b, DEMO, cut, false, true, 0);
    CHECK(session_forward_each(there.s, there.calls, 1, note_done, &there, &failed));
    int last = b.w.config.n_layers - 1;
    for (int i = 0; i < 2; i++) {
        struct bench *x = i ? &b : &there;
        x->calls[2].first_layer = 3; /* what the first place has nothing to do with */
        x->calls[2].n = lengths[0];
        x->calls[2].residual_in = there.r[0].stream;
        x->calls[2].capture_layer = last;
        x->calls[1].end_layer = x->calls[1].capture_layer = 3; /* … and the last not with this */
        x->calls[1].last_logits = NULL;
        x->calls[0].residual_out = NULL; /* it is what the third begins with */
        x->n_done = 0;
        for (int k = 0; k < SEQUENCES; k++)
            memset(x->r[k].ledger, 0,
                sizeof *x->r[k].ledger * (size_t)b.w.config.n_layers * (size_t)b.w.config.n_heads);
        CHECK(session_forward_each(x->s, x->calls, SEQUENCES, note_done, x, &failed));
    }
    size_t rows = sizeof(float) * (size_t)lengths[0] * (size_t)b.w.config.hidden_size,
           fewer = sizeof(float) * (size_t)lengths[1] * (size_t)b.w.config.hidden_size;
    cr_expect(memcmp(there.r[2].hidden, b.r[2].hidden, rows) == 0);
    cr_expect(memcmp(there.r[2].stream, b.r[2].stream, rows) == 0);
    cr_expect(memcmp(there.r[1].stream, b.r[1].stream, fewer) == 0);
    there.r[0].stream[0] = NAN;
    b.n_done = 0;
    cr_expect_eq(
        session_forward_each(b.s, b.calls, SEQUENCES, note_done, &b, &failed), ERR_NUMERIC);
    cr_expect_eq(failed, 2);
    cr_expect_eq(b.n_done, 2);
    close_bench(&there);
    close_bench(&b);
}

Test(offload, cut_over_several_places_gives_the_same_bits)
{
    for (int n = 2; n <= 3; n++) cut_over(PLACE_CPU, PLACE_CPUS + n);
}

/* What --device may say of it. Without CUDA every GPU is refused, but for what is no device at all.
 */
Test(offload, places_are_named)
{
    static const char *const wrong[] = {
        "cuda:0+", "cuda:+1", "cuda:0+x", "cuda:0+0", "cuda:0,1+0", "cuda:1+-2"};
    struct device_list l;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_expect_eq(devices_parse(wrong[i], &l), ERR_ARG, "%s", wrong[i]);
    enum status st = devices_parse("cuda:0+1,2+3+4", &l);
#ifdef SG_HAVE_CUDA
    cr_expect_eq(st, OK);
#else
    cr_expect_eq(st, ERR_UNSUPPORTED);
#endif
    cr_assert_eq(l.n, 2);
    cr_expect(l.at[0].n == 2 && l.at[0].index[1] == 1);
    cr_expect(l.at[1].n == 3 && l.at[1].index[0] == 2 && l.at[1].index[2] == 4);
    CHECK(devices_parse("cpu", &l));
    cr_expect(l.n == 1 && l.at[0].n == 1 && l.at[0].index[0] == DEVICE_CPU);
}

/* The caller hears of every sequence, may end it all, and threads that run ahead end too. */
static enum status stop_at_two(void *ctx, int i, double seconds)
{
    (void)seconds;
    ((struct bench *)ctx)->n_done++;
    return i == 2 ? fail(ERR_CANCELLED, "enough") : OK;
}

Test(offload, a_caller_ends_what_runs_ahead)
{
    static struct bench b;
    int failed;
    open_bench(&b, DEMO, PLACE_CPUS + 3, false, true, 0);
    cr_expect_eq(
        session_forward_each(b.s, b.calls, SEQUENCES, stop_at_two, &b, &failed), ERR_CANCELLED);
    cr_expect_eq(b.n_done, 3);
    cr_expect_eq(failed, 2);
    close_bench(&b);
}

Test(offload, what_cannot_be_cut_is_refused)
{
    struct weights w;
    const int none[MAX_SPLIT + 1] = {0};
    CHECK(weights_open(&w, DEMO));
    w.device_options.offload = true;
    cr_expect_eq(weights_split(&w, none, 2, NULL, NULL), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "--offload"), "%s", status_message());
    w.device_options.offload = false;
    cr_expect_eq(weights_split(&w, none, w.config.n_layers + 1, NULL, NULL), ERR_ARG);
    cr_expect_null(w.on_device);
    weights_close(&w);
}

#ifdef SG_HAVE_CUDA
#include "kernels/cuda/device_cuda.h"

static bool no_gpu(void)
{
    if (device_cuda.count() > 0) return false;
    cr_skip_test("%s", status_message());
    return true;
}

Test(offload, gives_the_same_bits_on_a_gpu)
{
    if (no_gpu()) return;
    all_shapes(PLACE_CUDA);
}

Test(offload, other_types_become_bf16_on_their_way)
{
    if (no_gpu()) return;
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16};
    const struct synth_shape *shape;
    CHECK(synth_find("tiny", &shape));
    for (int i = 0; i < 2; i++) {
        struct synth_options o = synth_defaults();
        char *dir = dir_make();
        struct llama_config c = shape->config;
        c.n_layers = 5; /* odd: the last and the first share no place */
        o.dtype = types[i];
        CHECK(synth_write(dir, &c, &o));
        same_bits(dir, PLACE_CUDA, true, 0, dtype_name(types[i]));
        dir_remove(dir);
    }
}

Test(offload, a_gpu_too_small_is_refused)
{
    if (no_gpu()) return;
    struct weights w;
    struct device_options how = {.offload = true, .memory = 5 << 20};
    CHECK(weights_open_with(&w, DEMO, &how));
    cr_expect_eq(weights_place_cuda(&w, 0), ERR_MEMORY);
    cr_expect(strstr(status_message(), "two layers of") &&
            strstr(status_message(), "--device-memory") && strstr(status_message(), "--device cpu"),
        "%s", status_message());
    w.device_options.offload = false;
    cr_expect_eq(weights_place_cuda(&w, 0), ERR_MEMORY);
    cr_expect(strstr(status_message(), "--offload brings"), "%s", status_message());
    weights_close(&w);
}

Test(offload, cut_over_several_gpus_gives_the_same_bits)
{
    if (no_gpu()) return;
    if (device_cuda.count() < 2) cr_skip_test("one GPU");
    for (int n = 2; n <= 4 && n <= device_cuda.count(); n += 2) cut_over(PLACE_CUDA, n);
}
#endif
