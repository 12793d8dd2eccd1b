#include "harness/layer_errors.h"

#include "harness/progress.h"
#include "kernels/mask.h"
#include "kernels/registry.h"
#include "results/pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of one head against the dense output. */
struct sums {
    double diff, dense; /* sums of |o - o~| and |o| */
    double dot, dense_sq, other_sq;
};

struct errors {
    const struct evaluate_args *a;
    const struct sample *x;
    int n_layers, n_heads, head_dim;
    float *dense;              /* [n_layers, longest, n_heads, head_dim]: the outputs of the present sample */
    size_t layer_floats;
    struct sums *isolated, *propagated; /* [n_layers, n_heads] of the present sample */
    float *again;              /* [rows of a chunk, n_heads, head_dim] */
    void *scratch;
    size_t again_floats, scratch_bytes;
};

static void sums_add(struct sums *to, const struct sums *from)
{
    to->diff += from->diff;
    to->dense += from->dense;
    to->dot += from->dot;
    to->dense_sq += from->dense_sq;
    to->other_sq += from->other_sq;
}

static double l1_of(const struct sums *s) { return s->dense > 0 ? s->diff / s->dense : NAN; }

static double cosine_of(const struct sums *s)
{
    return s->dense_sq > 0 && s->other_sq > 0 ? s->dot / sqrt(s->dense_sq * s->other_sq) : NAN;
}

static float *dense_rows(const struct errors *e, int layer, int row)
{
    return e->dense + (size_t)layer * e->layer_floats + (size_t)row * (size_t)(e->n_heads * e->head_dim);
}

/* Rows of a call, packed or not, against the dense ones of the same positions. */
static void compare_rows(const struct errors *e, int layer, const struct attn_args *call, const float *o, ptrdiff_t o_row,
                         ptrdiff_t o_head, struct sums *to)
{
    for (int h = 0; h < e->n_heads; h++) {
        struct sums s = {0};
        for (int r = 0; r < call->n_q; r++) {
            const float *want = dense_rows(e, layer, call->q_start + r) + (size_t)h * (size_t)e->head_dim;
            const float *got = o + r * o_row + h * o_head;
            for (int i = 0; i < e->head_dim; i++) {
                double w = (double)want[i], g = (double)got[i];
                s.diff += fabs(w - g);
                s.dense += fabs(w);
                s.dot += w * g;
                s.dense_sq += w * w;
                s.other_sq += g * g;
            }
        }
        sums_add(&to[layer * e->n_heads + h], &s);
    }
}

static bool grow(void **memory, size_t *have, size_t want, size_t unit)
{
    if (want <= *have) return true;
    free(*memory);
    *memory = aligned_alloc(64, (want * unit + 63) / 64 * 64);
    *have = *memory ? want : 0;
    return *memory != NULL;
}

static size_t align64(size_t n) { return (n + 63) / 64 * 64; }

/* Where the session itself would run this call dense, there is no error. */
static bool runs_sparse(const struct errors *e, const struct layer_view *view)
{
    const struct sparse_policy *p = e->a->policy;
    if (!p->method || !p->layer_on[view->layer] || e->x->n < p->min_sparse_tokens) return false;
    if (view->attn->q_start % p->block.q) return false;
    for (int h = 0; h < e->n_heads; h++)
        if (p->heads[view->layer * e->n_heads + h].is_sparse) return true;
    return false;
}

/* The layer's attention once more, sparse, on what the dense run gave it. */
static enum status isolate(struct errors *e, const struct layer_view *view)
{
    const struct sparse_policy *p = e->a->policy;
    struct par *par = e->a->par;
    struct attn_args call = *view->attn;
    struct mask_args m = {.attn = &call, .heads = p->heads + view->layer * e->n_heads, .smooth_k = p->smooth_k,
                          .topk = p->topk, .window = p->window};
    struct tile_map map = tile_map_shape(p->block, e->n_heads, call.q_start, call.n_q);
    float lambda[1024];
    uint8_t sparse[1024];
    for (int h = 0; h < e->n_heads; h++) {
        lambda[h] = m.heads[h].pvthreshd;
        sparse[h] = m.heads[h].is_sparse;
    }
    size_t rows = (size_t)call.n_q * (size_t)(e->n_heads * e->head_dim);
    if (!grow((void **)&e->again, &e->again_floats, rows, sizeof(float)))
        return fail(ERR_MEMORY, "no memory for --attribution: %d rows of a layer", call.n_q);
    call.block = p->block;
    call.ledger = NULL;
    call.o = e->again;
    call.o_head = e->head_dim;
    call.o_row = (ptrdiff_t)e->n_heads * e->head_dim;
    call.tiles = &map;
    call.pv_threshold = lambda;
    call.head_sparse = sparse;
    const struct attn_impl *impl = view->impl; /* where the layer ran */
    if (!impl) TRY(attn_choose(&call, e->a->impl, &impl));
    size_t bits = align64(tile_map_bytes(&map)), mask = mask_workspace(p->method, &m, par_threads(par)),
           work = impl->workspace(&call);
    if (!grow(&e->scratch, &e->scratch_bytes, bits + align64(mask > work ? mask : work), 1))
        return fail(ERR_MEMORY, "no memory for --attribution: the tiles of %d rows", call.n_q);
    map.bits = e->scratch;
    TRY(mask_predict(p->method, &m, &map, (char *)e->scratch + bits, par));
    TRY(impl->run(&call, (char *)e->scratch + bits, par, NULL));
    compare_rows(e, view->layer, view->attn, e->again, call.o_row, call.o_head, e->isolated);
    return OK;
}

static enum status keep_dense(void *ctx, const struct layer_view *view)
{
    struct errors *e = ctx;
    const struct attn_args *a = view->attn;
    for (int r = 0; r < a->n_q; r++)
        for (int h = 0; h < e->n_heads; h++)
            memcpy(dense_rows(e, view->layer, a->q_start + r) + (size_t)h * (size_t)e->head_dim,
                   (const float *)a->o + r * a->o_row + h * a->o_head, sizeof(float) * (size_t)e->head_dim);
    if (runs_sparse(e, view)) return isolate(e, view);
    compare_rows(e, view->layer, a, a->o, a->o_row, a->o_head, e->isolated); /* no error, and counted so */
    return OK;
}

static enum status compare_sparse(void *ctx, const struct layer_view *view)
{
    struct errors *e = ctx;
    compare_rows(e, view->layer, view->attn, view->attn->o, view->attn->o_row, view->attn->o_head, e->propagated);
    return OK;
}

static enum status run_passes(struct errors *e, struct session *session)
{
    struct forward_args f = {.tokens = e->x->ids, .n = e->x->n, .hook = keep_dense, .hook_ctx = e, .stop = e->a->stop,
                             .stop_ctx = e->a->stop_ctx};
    session_reset(session);
    TRY(session_forward(session, &f));
    f.policy = e->a->policy;
    f.hook = compare_sparse;
    session_reset(session);
    return session_forward(session, &f);
}

static struct layer_error_record row_of(int sample, int layer, int head, const struct sums *isolated,
                                        const struct sums *propagated)
{
    return (struct layer_error_record){sample, layer, head, l1_of(isolated), cosine_of(isolated), l1_of(propagated),
                                       cosine_of(propagated)};
}

/* Heads that ran sparse in the sample; the others' isolated error is 0 by construction. */
static size_t add_sample(const struct errors *e, int sample, struct layer_error_record *rows)
{
    const struct sparse_policy *p = e->a->policy;
    size_t n = 0;
    if (e->x->n < p->min_sparse_tokens) return 0;
    for (int c = 0; c < e->n_layers * e->n_heads; c++)
        if (p->layer_on[c / e->n_heads] && p->heads[c].is_sparse)
            rows[n++] = row_of(sample, c / e->n_heads, c % e->n_heads, &e->isolated[c], &e->propagated[c]);
    return n;
}

static size_t add_totals(const struct errors *e, const struct sums *isolated, const struct sums *propagated,
                         struct layer_error_record *rows)
{
    size_t n = 0;
    for (int l = 0; l < e->n_layers; l++) {
        struct sums whole[2] = {0};
        for (int h = 0; h < e->n_heads; h++) {
            const struct sums *i = &isolated[l * e->n_heads + h], *p = &propagated[l * e->n_heads + h];
            sums_add(&whole[0], i);
            sums_add(&whole[1], p);
            rows[n++] = row_of(-1, l, h, i, p);
        }
        rows[n++] = row_of(-1, l, -1, &whole[0], &whole[1]);
    }
    return n;
}

enum status layer_errors_measure(const struct evaluate_args *a, struct session *session, struct pool **pool,
                                 struct layer_error_record **rows, size_t *n)
{
    const struct llama_config *c = &a->model->weights.config;
    struct errors e = {.a = a, .n_layers = c->n_layers, .n_heads = c->n_heads, .head_dim = c->head_dim};
    size_t n_cells = (size_t)c->n_layers * (size_t)c->n_heads, longest = 0;
    double tokens = 0, done = 0;
    for (int i = 0; i < a->set->n_samples; i++) {
        if ((size_t)a->set->samples[i].n > longest) longest = (size_t)a->set->samples[i].n;
        tokens += a->set->samples[i].n;
    }
    e.layer_floats = longest * (size_t)c->n_heads * (size_t)c->head_dim;
    e.dense = malloc(sizeof(float) * e.layer_floats * (size_t)c->n_layers);
    struct sums *all = calloc(4 * n_cells, sizeof *all), *isolated = all, *propagated = all ? all + n_cells : NULL;
    enum status st = OK;
    if (!e.dense || !all)
        st = fail(ERR_MEMORY, "--attribution needs %.1f GiB for the attention outputs of one sample; lower --max-length, or "
                  "leave it out", (double)(sizeof(float) * e.layer_floats) * c->n_layers / (1 << 30));
    *rows = pool_alloc(pool, sizeof **rows * (n_cells * (size_t)(a->set->n_samples + 1) + (size_t)c->n_layers));
    *n = 0;
    struct layer_error_record *of_samples = *rows + n_cells + (size_t)c->n_layers; /* behind the totals */
    struct progress progress;
    progress_begin(&progress, "attribution", "tokens", tokens, a->quiet);
    for (int i = 0; i < a->set->n_samples && st == OK; i++) {
        e.x = &a->set->samples[i];
        e.isolated = all + 2 * n_cells;
        e.propagated = all + 3 * n_cells;
        memset(e.isolated, 0, 2 * n_cells * sizeof *all);
        st = run_passes(&e, session);
        if (st != OK) break;
        *n += add_sample(&e, i, of_samples + *n);
        for (size_t k = 0; k < n_cells; k++) {
            sums_add(&isolated[k], &e.isolated[k]);
            sums_add(&propagated[k], &e.propagated[k]);
        }
        progress_update(&progress, done += e.x->n);
    }
    progress_end(&progress);
    if (st == OK) *n += add_totals(&e, isolated, propagated, *rows);
    free(e.dense);
    free(e.again);
    free(e.scratch);
    free(all);
    return st;
}
