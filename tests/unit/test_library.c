/* libsparsegauge beside the engine that it is made of: the shared object is linked, and knows
 * nothing of the other copy here. */
#include "engine/engine.h"
#include "engine/tuner/tuner.h"
#include "library/sparsegauge.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
#define CALL(call) cr_assert_eq((call), SG_OK, "%s: %s", #call, sg_message())
#define MODEL SG_SOURCE_DIR "/suites/demo/model"
enum { N = 700 };

static void ids_fill(int32_t *ids, int n, int vocab, int seed)
{
    for (int i = 0; i < n; i++) ids[i] = (i / 3 * 31 + i * seed + 7) % vocab;
}

static bool ledgers_same(const struct head_ledger *a, const struct sg_ledger *b, int n)
{
    for (int i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0) return false;
    return true;
}

/* The same text, once in the engine, and attention by attention in the library. */
struct twin {
    struct sg_context *context;
    struct sg_policy *policy;
    const struct head_ledger *ledger; /* of the engine, [n_layers, n_heads], at the end */
    struct sg_ledger *counted;        /* [n_layers, n_heads] */
    int n_sparse;
};

static struct sg_attention call_of(const struct layer_view *view)
{
    const struct attn_args *x = view->attn;
    return (struct sg_attention){.size = sizeof(struct sg_attention),
        .n_q = x->n_q,
        .q_start = x->q_start,
        .n_heads = x->n_heads,
        .n_kv_heads = x->n_kv_heads,
        .head_dim = x->head_dim,
        .scale = x->scale,
        .q = x->q,
        .k = x->k,
        .v = x->v,
        .o = x->o,
        .q_token = x->q_row,
        .q_head = x->q_head,
        .k_token = x->k_row,
        .k_head = x->k_head,
        .v_token = x->v_row,
        .v_head = x->v_head,
        .o_token = x->o_row,
        .o_head = x->o_head,
        .layer = view->layer,
        .total = N};
}

static enum status compare_layer(void *ctx, const struct layer_view *view)
{
    struct twin *t = ctx;
    struct sg_attention a = call_of(view);
    size_t n = (size_t)a.n_q * (size_t)a.o_token;
    float *o = calloc(n, sizeof *o);
    a.o = o;
    CALL(sg_attention_forward(
        t->context, &a, t->policy, t->counted + view->layer * a.n_heads, NULL));
    cr_expect(memcmp(o, view->attn->o, n * sizeof *o) == 0, "layer %d: other outputs", view->layer);
    free(o);
    int n_q = sg_q_blocks(&a, t->policy), n_k = sg_k_blocks(&a, t->policy);
    uint8_t *tiles = calloc((size_t)(a.n_heads * n_q * n_k), 1);
    CALL(sg_attention_predict(t->context, &a, t->policy, tiles, NULL));
    const struct tile_map *m = view->tiles;
    t->n_sparse += m != NULL;
    int n_wrong = 0;
    for (int i = 0; m && i < a.n_heads * n_q * n_k; i++) {
        int head = i / (n_q * n_k), q = i / n_k % n_q, k = i % n_k;
        n_wrong += (tile_map_row(m, head, q)[k / 64] >> (k % 64) & 1) != tiles[i];
    }
    cr_expect(!m || (m->n_qblocks == n_q && m->n_kblocks == n_k));
    cr_expect_eq(n_wrong, 0, "layer %d: %d tiles differ", view->layer, n_wrong);
    free(tiles);
    return OK;
}

Test(library, attention_tiles_ledgers_and_logits_are_the_engines)
{
    struct model m;
    struct par *par;
    struct session *s;
    struct sg_model *model;
    struct twin t = {0};
    struct sparse_policy p;
    int32_t ids[N];
    CHECK(par_open(&par, 2));
    CHECK(model_open(&m, MODEL, par));
    const struct llama_config *c = &m.weights.config;
    int n_cells = c->n_layers * c->n_heads, vocab = c->vocab_size;
    ids_fill(ids, N, vocab, 1);
    struct head_ledger *ledger = calloc((size_t)n_cells, sizeof *ledger);
    t.counted = calloc((size_t)n_cells, sizeof *t.counted);
    CHECK(policy_init(&p, &mask_sparge, c->n_layers, c->n_heads));
    CHECK(policy_set_layers(&p, "2-6"));
    p.heads[3 * c->n_heads + 1].is_sparse = false;
    for (int i = 0; i < n_cells; i++)
        p.heads[i].theta = -1, p.heads[i].tau = .6f, p.heads[i].lambda = 6;
    CALL(sg_open(&t.context, 3)); /* another number of threads changes no bit */
    CALL(sg_policy_open(&t.policy, NULL, c->n_layers, c->n_heads));
    CALL(sg_policy_set(
        t.policy, &(struct sg_setting){.size = sizeof(struct sg_setting), .layers = "2-6"}));
    for (int i = 0; i < n_cells; i++)
        CALL(sg_policy_set_head(t.policy, i / c->n_heads, i % c->n_heads,
            &(struct sg_head){.size = sizeof(struct sg_head),
                .is_sparse = p.heads[i].is_sparse,
                .simthreshd1 = -1,
                .cdfthreshd = .6f,
                .pvthreshd = 6}));
    CHECK(session_open(&s, &m.weights, par, N, 0, NULL));
    float *logits = malloc(sizeof *logits * (size_t)vocab),
          *all = malloc(sizeof *all * (size_t)vocab * N);
    CHECK(session_forward(s,
        &(struct forward_args){.tokens = ids,
            .n = N,
            .policy = &p,
            .ledger = ledger,
            .hook = compare_layer,
            .hook_ctx = &t,
            .last_logits = logits}));
    cr_expect_eq(t.n_sparse, 5);
    cr_expect(ledgers_same(ledger, t.counted, n_cells), "the ledgers differ");
    struct sg_ledger sum = {0};
    for (int i = 0; i < n_cells; i++) sg_ledger_add(&sum, &t.counted[i]);
    cr_expect(sg_sparsity(&sum) > .02 && sum.calls_dense_head == 1 &&
            sum.calls_dense_layer == 3u * (unsigned)c->n_heads,
        "%g", sg_sparsity(&sum));

    memset(t.counted, 0, sizeof *t.counted * (size_t)n_cells);
    CALL(sg_model_open(&model, t.context, MODEL));
    cr_expect_str_eq(sg_model_fingerprint(model), m.fingerprint);
    CALL(sg_model_logits(model, ids, N, t.policy, all, t.counted));
    cr_expect(ledgers_same(ledger, t.counted, n_cells), "the ledgers of the whole model differ");
    double worst = 0, size = 0;
    for (int i = 0; i < vocab; i++) {
        worst = fmax(worst,
            fabs((double)all[(size_t)(N - 1) * (size_t)vocab + (size_t)i] - (double)logits[i]));
        size = fmax(size, fabs((double)logits[i]));
    }
    cr_expect(worst < 1e-4 * size, "%g of %g", worst, size); /* another number of rows at once */
    /* The loss is that of the logits. */
    float nll[N - 1];
    double mean, by_hand = 0;
    CALL(sg_model_loss(model, ids, N, t.policy, nll, &mean, NULL));
    for (int r = 0; r < N - 1; r++) {
        const float *z = all + (size_t)r * (size_t)vocab;
        double sum_exp = 0;
        for (int i = 0; i < vocab; i++) sum_exp += exp((double)z[i]);
        double own = log(sum_exp) - (double)z[ids[r + 1]];
        cr_assert(fabs(own - (double)nll[r]) < 1e-3, "row %d: %g, %g", r, own, (double)nll[r]);
        by_hand += own;
    }
    cr_expect(fabs(by_hand / (N - 1) - mean) < 1e-4);
    sg_model_close(&model);
    sg_policy_close(&t.policy);
    sg_close(&t.context);
    free(t.counted);
    free(ledger);
    free(logits);
    free(all);
    session_close(&s);
    policy_clear(&p);
    model_close(&m);
    par_close(&par);
}

/* Tuning from tensors finds what tuning the model finds. */
enum { N_TEXTS = 4, TUNED_LAYER = 3 };

struct kept {
    float *q, *k, *v;
    int n;
};

static enum status keep(void *ctx, const struct layer_view *view)
{
    struct kept *x = ctx;
    const struct attn_args *a = view->attn;
    if (view->layer != TUNED_LAYER) return OK;
    size_t d = (size_t)a->head_dim, n = (size_t)a->n_q;
    for (size_t r = 0; r < n;
         r++) { /* the heads of k and v first here, the tokens first there: strides are for that */
        memcpy(x->q + r * (size_t)a->n_heads * d, (const float *)a->q + (ptrdiff_t)r * a->q_row,
            (size_t)a->n_heads * d * sizeof(float));
        for (int h = 0; h < a->n_kv_heads; h++) {
            size_t to = (r * (size_t)a->n_kv_heads + (size_t)h) * d;
            memcpy(x->k + to, (const float *)a->k + h * a->k_head + (ptrdiff_t)r * a->k_row,
                d * sizeof(float));
            memcpy(x->v + to, (const float *)a->v + h * a->v_head + (ptrdiff_t)r * a->v_row,
                d * sizeof(float));
        }
    }
    return OK;
}

Test(library, tuning_from_tensors_is_tuning)
{
    struct model m;
    struct par *par;
    struct session *s;
    struct sparse_policy p;
    struct tuned tuned;
    struct tune_times times;
    int32_t ids[N_TEXTS][N];
    struct tune_sample samples[N_TEXTS];
    struct kept kept[N_TEXTS];
    struct sg_sample given[N_TEXTS] = {{0}};
    struct head_error *errors;
    CHECK(par_open(&par, 2));
    CHECK(model_open(&m, MODEL, par));
    const struct llama_config *c = &m.weights.config;
    int d = c->head_dim, q_width = c->n_heads * d, kv_width = c->n_kv_heads * d;
    CHECK(session_open(&s, &m.weights, par, N, 768, NULL));
    for (int i = 0; i < N_TEXTS; i++) {
        int n = N - 50 * i;
        ids_fill(ids[i], n, c->vocab_size, i + 1);
        samples[i] = (struct tune_sample){.ids = ids[i], .n = n, .name = "x", .check = i == 2};
        kept[i] = (struct kept){malloc(sizeof(float) * (size_t)(n * q_width)),
            malloc(sizeof(float) * (size_t)(n * kv_width)),
            malloc(sizeof(float) * (size_t)(n * kv_width)), n};
        session_reset(s);
        CHECK(session_forward(s,
            &(struct forward_args){.tokens = ids[i], .n = n, .hook = keep, .hook_ctx = &kept[i]}));
        given[i] = (struct sg_sample){.size = sizeof *given,
            .n_tokens = n,
            .use = i < 2 ? SG_CHOOSE
                : i == 2 ? SG_CHECK
                         : SG_HELD_OUT,
            .q = kept[i].q,
            .k = kept[i].k,
            .v = kept[i].v,
            .q_token = q_width,
            .q_head = d,
            .k_token = kv_width,
            .k_head = d,
            .v_token = kv_width,
            .v_head = d};
    }
    CHECK(policy_init(&p, &mask_sparge, c->n_layers, c->n_heads));
    CHECK(policy_set_layers(&p, "3"));
    struct tune_args a = {.weights = &m.weights,
        .par = par,
        .policy = &p,
        .rule = RULE_L1,
        .samples = samples,
        .n_samples = 3,
        .bounds = &(struct tune_bounds){.06, .07},
        .n_bounds = 1,
        .min_sparsity = .01};
    CHECK(tune(&a, &tuned, &times));
    errors = malloc(sizeof *errors * (size_t)(c->n_layers * c->n_heads));
    a.samples += 3;
    a.n_samples = 1;
    CHECK(tune_errors(&a, &tuned, 1, errors));

    struct sg_context *context;
    struct sg_policy *policy;
    struct sg_tuning t = {.size = sizeof t,
        .layer = TUNED_LAYER,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = d,
        .samples = given,
        .n_samples = N_TEXTS,
        .l1 = .06,
        .pv_l1 = .07,
        .min_sparsity = .01};
    CALL(sg_open(&context, 1));
    CALL(sg_policy_open(&policy, NULL, c->n_layers, c->n_heads));
    CALL(sg_tune(context, &t, policy));
    int n_sparse = 0;
    for (int i = 0; i < c->n_layers * c->n_heads; i++) {
        struct sg_head got = {.size = sizeof got};
        const struct tuned_head *h = &tuned.heads[i];
        CALL(sg_policy_head(policy, i / c->n_heads, i % c->n_heads, &got));
        cr_assert_eq(got.in_range, h->in_range, "%d", i);
        if (!h->in_range) continue;
        cr_assert_eq(got.is_sparse, h->params.is_sparse, "%d", i);
        if (!got.is_sparse) continue;
        n_sparse++;
        cr_expect(got.simthreshd1 == h->params.theta && got.cdfthreshd == h->params.tau &&
            got.pvthreshd == h->params.lambda);
        cr_expect(got.error == h->tune.l1 && got.error_check == h->check.l1 &&
                got.error_held_out == errors[i].l1,
            "head %d: %g %g %g, %g %g %g", i, got.error, got.error_check, got.error_held_out,
            h->tune.l1, h->check.l1, errors[i].l1);
        cr_expect(got.sparsity == h->sparsity && got.back_offs == h->back_offs);
    }
    cr_expect(n_sparse > 0, "nothing was sparse, so nothing was compared");
    cr_expect(strstr(sg_policy_verdict(policy), "pairs of a head and a text"), "%s",
        sg_policy_verdict(policy));
    /* What belongs to other bounds does not go into the same policy. */
    t.layer = 4;
    t.l1 = .05;
    cr_expect_eq(sg_tune(context, &t, policy), SG_ERR_ARG);
    cr_expect(strstr(sg_message(), "other layers of this policy were tuned under l1 with 0.06"),
        "%s", sg_message());
    /* The text is the file, and says the same when it is read. */
    char *text;
    struct sg_policy *back;
    CALL(sg_policy_text(policy, &text));
    CALL(sg_policy_parse(&back, text, strlen(text)));
    struct sg_setting x = {.size = sizeof x};
    CALL(sg_policy_get(back, &x));
    cr_expect_str_eq(x.layers, "3");
    sg_free(text);
    sg_policy_close(&back);
    sg_policy_close(&policy);
    sg_close(&context);
    for (int i = 0; i < N_TEXTS; i++) {
        free(kept[i].q);
        free(kept[i].k);
        free(kept[i].v);
    }
    free(errors);
    tuned_clear(&tuned);
    policy_clear(&p);
    session_close(&s);
    model_close(&m);
    par_close(&par);
}

/* A wrong call is a sentence, not an end. */
enum { SMALL_N = 256, SMALL_D = 32 };
static float small[4][2 * SMALL_N * SMALL_D];

static struct sg_attention small_call(void)
{
    struct sg_attention a = {
        .size = sizeof a, .n_q = SMALL_N, .n_heads = 2, .n_kv_heads = 2, .head_dim = SMALL_D};
    a.q = small[0], a.k = small[1], a.v = small[2], a.o = small[3];
    a.q_token = a.k_token = a.v_token = a.o_token = SMALL_D;
    a.q_head = a.k_head = a.v_head = a.o_head = SMALL_N * SMALL_D;
    return a;
}

Test(library, refuses_what_makes_no_sense)
{
    struct sg_context *c;
    struct sg_policy *p;
    CALL(sg_open(&c, 1));
    CALL(sg_policy_open(&p, "sparge", 2, 2));
    struct sg_attention a = small_call();
    CALL(sg_attention_forward(c, &a, p, NULL, NULL));
#define WRONG(change, says)                                                                    \
    do {                                                                                       \
        a = small_call();                                                                      \
        change;                                                                                \
        cr_expect_neq(sg_attention_forward(c, &a, p, NULL, NULL), SG_OK, "%s", #change);       \
        cr_expect(strstr(sg_message(), says), "%s: %s", #change, sg_message());                \
        cr_expect_neq(                                                                         \
            sg_attention_predict(c, &a, p, (uint8_t[2 * 64]){0}, NULL), SG_OK, "%s", #change); \
    } while (0)
    WRONG(a.size = 0, "size: found 0");
    WRONG(a.size = 8, "size: found 8");
    WRONG(a.dtype = SG_BF16, "found bf16 on the host");
    WRONG(a.dtype = (enum sg_dtype)9, "an unknown type");
    WRONG(a.on_gpu = 1, sg_has_cuda() ? "found f32 on a GPU" : "without CUDA");
    WRONG(a.q = NULL, "q is NULL");
    WRONG(a.k = NULL, "k is NULL");
    WRONG(a.n_heads = 3; a.n_kv_heads = 3, "expected 2 as in the policy");
    WRONG(a.n_heads = 3, "the former a multiple");
    WRONG(a.n_kv_heads = 0, "n_kv_heads 0");
    WRONG(a.head_dim = -4, "head_dim: found -4");
    WRONG(a.head_dim = 2000, "head_dim: found 2000");
    WRONG(a.n_q = 0, "n_q 0");
    WRONG(a.q_start = -1, "q_start -1");
    WRONG(a.q_start = 0x7fffff00, "under");
    WRONG(a.layer = 2, "layer: found 2");
    WRONG(a.layer = -1, "layer: found -1");
    WRONG(a.scale = NAN, "scale");
    WRONG(a.window = -3, "window");
    WRONG(a.k_token = -SMALL_D, "strides of -32");
    WRONG(a.o_token = 8, "rows would overlap");
    WRONG(a.o_head = 0, "rows would overlap");
    WRONG(a.window = 64, "sliding window of 64 tokens");
    a = small_call();
    a.kernel = "attn_of_tomorrow";
    cr_expect_eq(sg_attention_forward(c, &a, p, NULL, NULL), SG_ERR_UNSUPPORTED);
    cr_expect_eq(sg_attention_forward(NULL, &a, p, NULL, NULL), SG_ERR_ARG);
    /* A struct of a newer header: fine while what is new is zero. */
    struct {
        struct sg_attention a;
        uint64_t more[4];
    } newer = {small_call(), {0}};
    newer.a.size = sizeof newer;
    CALL(sg_attention_forward(c, &newer.a, p, NULL, NULL));
    newer.more[1] = 7;
    cr_expect_eq(sg_attention_forward(c, &newer.a, p, NULL, NULL), SG_ERR_UNSUPPORTED);
    cr_expect(strstr(sg_message(), "install a newer libsparsegauge"), "%s", sg_message());

    struct sg_policy *bad;
    cr_expect_eq(sg_policy_open(&bad, "sparge", 0, 2), SG_ERR_ARG);
    cr_expect_null(bad);
    cr_expect_eq(sg_policy_open(&bad, "magic", 2, 2), SG_ERR_ARG);
    cr_expect_eq(sg_policy_read(&bad, "/nowhere/tuned.json", 0, 0, NULL), SG_ERR_IO);
    cr_expect_eq(sg_policy_read(&bad, MODEL "/config.json", 0, 0, NULL), SG_ERR_FORMAT);
    cr_expect_eq(sg_policy_read(&bad, "/nowhere/x.pt", 0, 0, NULL), SG_ERR_ARG);
    cr_expect_eq(
        sg_policy_set(p, &(struct sg_setting){.size = sizeof(struct sg_setting), .block_q = 100}),
        SG_ERR_ARG);
    cr_expect_eq(
        sg_policy_set(p, &(struct sg_setting){.size = sizeof(struct sg_setting), .layers = "9"}),
        SG_ERR_ARG);
    cr_expect_eq(
        sg_policy_set(p, &(struct sg_setting){.size = sizeof(struct sg_setting), .topk = 2}),
        SG_ERR_ARG);
    cr_expect_eq(sg_policy_set_head(
                     p, 0, 0, &(struct sg_head){.size = sizeof(struct sg_head), .cdfthreshd = 2}),
        SG_ERR_ARG);
    cr_expect_eq(
        sg_policy_set_head(p, 2, 0, &(struct sg_head){.size = sizeof(struct sg_head)}), SG_ERR_ARG);
    struct sg_sample sample = {.size = sizeof sample,
        .n_tokens = 100,
        .q = small[0],
        .k = small[1],
        .v = small[2],
        .q_token = SMALL_D};
    struct sg_tuning t = {.size = sizeof t,
        .n_kv_heads = 2,
        .head_dim = SMALL_D,
        .samples = &sample,
        .n_samples = 1,
        .l1 = .06,
        .pv_l1 = .07};
    cr_expect_eq(sg_tune(c, &t, p), SG_ERR_ARG);
    cr_expect(strstr(sg_message(), "needs at least 256"), "%s", sg_message());
    t.pv_l1 = .01;
    cr_expect_eq(sg_tune(c, &t, p), SG_ERR_ARG);
    struct sg_model *m;
    cr_expect_neq(sg_model_open(&m, c, "/nowhere"), SG_OK);
    cr_expect(strstr(sg_message(), "/nowhere"), "%s", sg_message());
    cr_expect_null(m);
    CALL(sg_model_open(&m, c, MODEL));
    cr_expect_eq(sg_model_logits(m, (int32_t[]){-1}, 1, NULL, small[3], NULL), SG_ERR_ARG);
    cr_expect_eq(sg_model_loss(m, (int32_t[]){1}, 1, NULL, NULL, NULL, NULL), SG_ERR_ARG);
    cr_expect_eq(sg_model_logits(m, (int32_t[]){1}, 1, p, small[3], NULL), SG_ERR_ARG);
    cr_expect(strstr(sg_message(), "the policy is of 2 layers x 2 heads"), "%s", sg_message());
    sg_model_close(&m);
    sg_policy_close(&p);
    sg_close(&c);
}

/* Threads share a context, a policy and the order of nothing. */
static struct sg_context *shared;
static struct sg_policy *shared_policy;

static void *many_calls(void *out)
{
    for (int i = 0; i < 20; i++) {
        struct sg_attention a = small_call();
        a.o = out;
        if (sg_attention_forward(shared, &a, shared_policy, NULL, NULL) != SG_OK)
            return (void *)sg_message();
    }
    return NULL;
}

Test(library, threads_share_a_context_and_a_child_is_told)
{
    enum { N_THREADS = 4 };
    static float out[N_THREADS][2 * SMALL_N * SMALL_D];
    pthread_t threads[N_THREADS];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 2 * SMALL_N * SMALL_D; k++) small[i][k] = sinf((float)(k * (i + 1)));
    CALL(sg_open(&shared, 2));
    CALL(sg_policy_open(&shared_policy, "sparge", 1, 2));
    for (int i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, many_calls, out[i]), 0);
    for (int i = 0; i < N_THREADS; i++) {
        void *message;
        pthread_join(threads[i], &message);
        cr_expect_null(message);
        cr_expect(memcmp(out[0], out[i], sizeof out[0]) == 0, "thread %d has other results", i);
    }
    pid_t child = fork();
    if (child == 0) {
        struct sg_attention a = small_call();
        struct sg_context *own;
        bool told = sg_attention_forward(shared, &a, NULL, NULL, NULL) == SG_ERR_ARG &&
            strstr(sg_message(), "open one behind fork()");
        bool works =
            sg_open(&own, 2) == SG_OK && sg_attention_forward(own, &a, NULL, NULL, NULL) == SG_OK;
        sg_close(&shared);
        sg_close(&own);
        _exit(told && works ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    sg_policy_close(&shared_policy);
    sg_close(&shared);
}
