#include "harness/measure/recall.h"

#include "base/stats.h"
#include "base/xmalloc.h"
#include "kernels/mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 1000 };

struct head_sums {
    double recall, oracle;
    int64_t n;
    int64_t bins[BINS + 1]; /* of the recall of its blocks of rows, in steps of a thousandth */
};

struct pass {
    const struct evaluate_args *a;
    const struct mask_method *truth; /* the oracle, rows of a block joined by their mean */
    struct head_sums *heads;         /* [n_layers, n_heads], of all samples */
    struct head_sums *of_sample;     /* the same of the present one */
    /* of the present layer: */
    const struct layer_view *view;
    struct mask_args args;
    size_t ws_bytes;
};

static bool set(const uint64_t *row, int j) { return row[j / 64] >> (j % 64) & 1; }

static int larger_first(const void *x, const void *y)
{
    float a = *(const float *)x, b = *(const float *)y;
    return (a < b) - (a > b);
}

static void add_row(struct head_sums *s, const struct mask_row *row, const uint64_t *tiles)
{
    double all = 0, held = 0, best = 0;
    int count = 0;
    for (int j = 0; j < row->n; j++) {
        all += (double)row->p[j];
        if (!set(tiles, j)) continue;
        held += (double)row->p[j];
        count++;
    }
    if (count == row->n || all <= 0) return; /* nothing was left out */
    qsort(row->p, (size_t)row->n, sizeof *row->p, larger_first);
    for (int j = 0; j < count; j++) best += (double)row->p[j];
    double recall = held / all;
    s->recall += recall;
    s->oracle += best / all;
    s->n++;
    s->bins[(int)(recall < 0 ? 0 : recall > 1 ? BINS : recall * BINS)]++;
}

static void weigh_head(void *ctx, int head, int worker)
{
    (void)worker;
    struct pass *p = ctx;
    const struct attn_args *at = p->view->attn;
    const struct tile_map *t = p->view->tiles;
    struct head_sums *s = &p->of_sample[p->view->layer * at->n_heads + head];
    void *ws = xaligned(p->ws_bytes);
    int n_kv = attn_n_kv(at), first = at->q_start / t->block.q;
    struct mask_row row = {.n_qblocks = first + t->n_qblocks,
        .n_kblocks = t->n_kblocks,
        .p = xmalloc((size_t)t->n_kblocks * sizeof *row.p),
        .forced = xmalloc((size_t)t->n_kblocks)};
    p->truth->prepare(&p->args, head, ws);
    for (int i = 0; i < t->n_qblocks; i++) {
        row.qb = first + i;
        row.n = tiles_possible(t->block, row.qb, n_kv);
        p->truth->row(&p->args, head, i, 0, ws, &row);
        add_row(s, &row, tile_map_row(t, head, i));
    }
    free(row.p);
    free(row.forced);
    free(ws);
}

static enum status weigh_layer(void *ctx, const struct layer_view *view)
{
    struct pass *p = ctx;
    if (!view->tiles) return OK;
    struct attn_args attn = *view->attn;
    struct head_params *heads = xcalloc((size_t)attn.n_heads, sizeof *heads);
    attn.block = view->tiles->block;
    attn.tiles = NULL;
    for (int h = 0; h < attn.n_heads; h++)
        heads[h] = (struct head_params){.tau = 1, .lambda = NEVER_SKIP, .is_sparse = true};
    struct layer_view here = *view;
    here.attn = &attn;
    p->view = &here;
    p->args = (struct mask_args){
        .attn = &attn, .heads = heads, .smooth_k = SMOOTH_K_OFF, .values = p->truth->values};
    const char *why = p->truth->refuses(&p->args);
    if (!why) {
        p->ws_bytes = p->truth->workspace(&p->args);
        par_for(p->a->par, attn.n_heads, weigh_head, p);
    }
    p->view = NULL;
    free(heads);
    return why ? fail(ERR_UNSUPPORTED, "recall of attention: %s", why) : OK;
}

static void fold(struct head_sums *to, const struct head_sums *from)
{
    to->recall += from->recall;
    to->oracle += from->oracle;
    to->n += from->n;
    for (int b = 0; b <= BINS; b++) to->bins[b] += from->bins[b];
}

/* heads [n_layers, n_heads] */
static struct recall_figures sum_up(const struct head_sums *heads, const struct llama_config *c)
{
    struct head_sums *all = xcalloc(1, sizeof *all);
    int cells = c->n_layers * c->n_heads, group = c->n_heads / c->n_kv_heads, n_groups = 0;
    double worst_sum = 0;
    for (int i = 0; i < cells; i++) fold(all, &heads[i]);
    for (int g = 0; g < cells / group; g++) {
        double worst = NAN;
        for (int i = g * group; i < (g + 1) * group; i++) {
            double mean = heads[i].n ? heads[i].recall / (double)heads[i].n : NAN;
            if (!isnan(mean) && !(worst <= mean)) worst = mean;
        }
        if (isnan(worst)) continue;
        worst_sum += worst;
        n_groups++;
    }
    int64_t below = 0, want = all->n / 20;
    int bin = 0;
    while (bin < BINS && (below += all->bins[bin]) <= want) bin++;
    struct recall_figures out = {NAN, NAN, NAN, NAN, all->n};
    if (all->n)
        out = (struct recall_figures){all->recall / (double)all->n, all->oracle / (double)all->n,
            (bin + .5) / BINS, worst_sum / n_groups, all->n};
    free(all);
    return out;
}

enum status recall_measure(const struct evaluate_args *a, struct session *session,
    struct arena **arena, struct recall *out)
{
    const struct llama_config *c = &a->model->weights.config;
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads;
    struct pass p = {.a = a};
    TRY(mask_method_parse("oracle+over=mean", &p.truth));
    *out = (struct recall){
        .samples = arena_alloc(arena, (size_t)a->set->n_samples * sizeof *out->samples)};
    p.heads = xcalloc(cells, sizeof *p.heads);
    p.of_sample = xcalloc(cells, sizeof *p.of_sample);
    enum status st = OK;
    size_t n = (size_t)a->set->n_samples;
    double *predict = xcalloc(2 * n, sizeof *predict), *attention = predict + n;
    for (size_t i = 0; i < n && st == OK; i++) {
        const struct sample *x = &a->set->samples[i];
        struct forward_times sparse = {0}, dense = {0};
        struct forward_args pass = {.tokens = x->ids,
            .n = x->n_prompt ? x->n_prompt : x->n,
            .times = &dense,
            .stop = a->stop,
            .stop_ctx = a->stop_ctx};
        session_reset(session);
        st = session_forward(session, &pass);
        if (st != OK) break;
        pass.policy = a->policy;
        pass.hook = weigh_layer;
        pass.hook_ctx = &p;
        pass.times = &sparse;
        memset(p.of_sample, 0, cells * sizeof *p.of_sample);
        session_reset(session);
        st = session_forward(session, &pass);
        predict[i] = sparse.predict_s;
        attention[i] = dense.attention_dense_s;
        for (size_t k = 0; k < cells; k++) fold(&p.heads[k], &p.of_sample[k]);
        out->samples[i] = sum_up(p.of_sample, c);
    }
    if (st == OK) out->all = sum_up(p.heads, c);
    out->predict_s = quantile(predict, n, .5);
    out->attention_s = quantile(attention, n, .5);
    free(predict);
    free(p.heads);
    free(p.of_sample);
    return st;
}
