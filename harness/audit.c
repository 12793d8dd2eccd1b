#include "harness/audit.h"

#include "kernels/cpu_ops.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct auditor {
    const struct model *m;
    struct par *par;
    const struct sample *x;
    const struct sparse_policy *policy;
    struct audit *out;
    int width, cut; /* tokens from `cut` on are the future */
    /* what the layer hook collects */
    double worst_value_leak;
    uint64_t tiles, tiles_possible, units_in_tiles;
};

static void add(struct auditor *a, const char *claim, const char *how, double found, double allowed, const char *unit,
                bool stated_only)
{
    a->out->checks[a->out->n++] = (struct audit_check){claim, how, found, allowed, unit, stated_only};
}

bool audit_passes(const struct audit_check *c) { return c->stated_only || c->found <= c->allowed; }

static float *rows_of(const struct auditor *a, int n) { return malloc(sizeof(float) * (size_t)n * (size_t)a->width); }

static enum status forward(const struct auditor *a, struct par *par, const int32_t *ids, const struct sparse_policy *policy,
                           int chunk, struct head_ledger *ledger, layer_hook *hook, float *hidden)
{
    struct session *s;
    TRY(session_open(&s, &a->m->weights, par, a->x->n, chunk, NULL));
    enum status st = session_forward(s, &(struct forward_args){.tokens = ids, .n = a->x->n, .policy = policy, .ledger = ledger,
                                                               .hidden = hidden, .hook = hook, .hook_ctx = (void *)a});
    session_close(&s);
    return st;
}

/* ‖a − b‖ / ‖a‖ of the worst row in [from, to). */
static double worst_row(const struct auditor *a, const float *x, const float *y, int from, int to)
{
    double worst = 0;
    for (int r = from; r < to; r++) {
        double diff = 0, norm = 0;
        for (int i = 0; i < a->width; i++) {
            double p = (double)x[(size_t)r * (size_t)a->width + (size_t)i], q = (double)y[(size_t)r * (size_t)a->width + (size_t)i];
            diff += (p - q) * (p - q);
            norm += p * p;
        }
        worst = fmax(worst, norm > 0 ? sqrt(diff / norm) : sqrt(diff));
    }
    return worst;
}

/* The same tiles over other future keys and values: outputs before the cut may not move by a bit. */
static enum status leak_of_layer(struct auditor *a, const struct attn_args *attn)
{
    size_t n = (size_t)attn_n_kv(attn), d = (size_t)attn->head_dim, plane = n * d, all = plane * (size_t)attn->n_kv_heads;
    size_t out_floats = (size_t)attn->n_q * (size_t)attn->n_heads * d;
    struct attn_args other = *attn;
    const struct attn_impl *impl;
    TRY(attn_choose(attn, NULL, &impl));
    float *k = malloc(all * sizeof *k), *v = malloc(all * sizeof *v), *o = malloc(out_floats * sizeof *o);
    void *ws = aligned_alloc(64, impl->workspace(attn) + 64);
    enum status st = k && v && o && ws ? OK : fail(ERR_MEMORY, "no memory to audit %zu tokens", n);
    for (int h = 0; h < attn->n_kv_heads && st == OK; h++)
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < d; i++) {
                /* a later token's key and value become something else altogether */
                float f = r < (size_t)a->cut ? 1 : -3;
                k[(size_t)h * plane + r * d + i] = f * ((const float *)attn->k)[h * attn->k_head + (ptrdiff_t)r * attn->k_row + (ptrdiff_t)i];
                v[(size_t)h * plane + r * d + i] = f * ((const float *)attn->v)[h * attn->v_head + (ptrdiff_t)r * attn->v_row + (ptrdiff_t)i];
            }
    if (st == OK) {
        other.k = k;
        other.v = v;
        other.o = o;
        other.k_head = other.v_head = (ptrdiff_t)plane;
        other.k_row = other.v_row = (ptrdiff_t)d;
        other.ledger = NULL;
        st = impl->run(&other, ws, a->par, NULL);
    }
    for (int r = 0; r < a->cut && st == OK; r++)
        for (int h = 0; h < attn->n_heads; h++) {
            const float *p = (const float *)attn->o + r * attn->o_row + h * attn->o_head, *q = o + r * attn->o_row + h * attn->o_head;
            for (size_t i = 0; i < d; i++) a->worst_value_leak = fmax(a->worst_value_leak, fabs((double)p[i] - (double)q[i]));
        }
    free(k);
    free(v);
    free(o);
    free(ws);
    return st;
}

/* Tiles and 64-row units from the map alone, with nothing of the kernel's counting. */
static void count_layer(struct auditor *a, const struct tile_map *t, const struct attn_args *attn)
{
    for (int h = 0; h < t->n_heads; h++)
        for (int i = 0; i < t->n_qblocks; i++)
            for (int j = 0; j < t->n_kblocks; j++) {
                int first = i * t->block.q, last = first + t->block.q - 1 < attn->n_q - 1 ? first + t->block.q - 1 : attn->n_q - 1;
                if (j * t->block.k > last) continue;
                a->tiles_possible++;
                if (!(tile_map_row(t, h, i)[j / 64] >> (j % 64) & 1)) continue;
                a->tiles++;
                for (int u = first; u <= last; u += PV_UNIT_ROWS) {
                    int end = u + PV_UNIT_ROWS - 1 < last ? u + PV_UNIT_ROWS - 1 : last;
                    a->units_in_tiles += j * t->block.k <= end;
                }
            }
}

static enum status look(void *ctx, const struct layer_view *view)
{
    struct auditor *a = ctx;
    if (!view->tiles) return OK;
    count_layer(a, view->tiles, view->attn);
    return leak_of_layer(a, view->attn);
}

static enum status check_attention(struct auditor *a)
{
    const struct llama_config *c = &a->m->weights.config;
    size_t n_cells = (size_t)c->n_layers * (size_t)c->n_heads;
    struct head_ledger *ledger = calloc(n_cells, sizeof *ledger), total = {0};
    float *again = rows_of(a, a->x->n);
    struct sparse_policy all_pv = {0}; /* λ = 50 everywhere, so that units can be counted from the map */
    enum status st = ledger && again ? policy_copy(&all_pv, a->policy) : fail(ERR_MEMORY, "no memory to audit");
    for (size_t i = 0; i < n_cells && st == OK; i++) all_pv.heads[i].pvthreshd = 50;
    if (st == OK) st = forward(a, a->par, a->x->ids, &all_pv, 0, ledger, look, again);
    if (st == OK) {
        for (size_t i = 0; i < n_cells; i++)
            if (all_pv.layer_on[i / (size_t)c->n_heads]) head_ledger_add(&total, &ledger[i]);
        add(a, "later keys and values do not reach earlier outputs", "every layer and head, same tiles, future tensors replaced",
            a->worst_value_leak, 0, "absolute", false);
        add(a, "the ledger counts what the map holds", "tiles computed by the kernel against bits set",
            fabs((double)total.tiles_computed - (double)a->tiles), 0, "tiles", false);
        add(a, "the ledger knows what was possible", "tiles under the triangle, counted one by one",
            fabs((double)total.tiles_possible - (double)a->tiles_possible), 0, "tiles", false);
        add(a, "P·V units are counted", "with pvthreshd 50 every unit of a computed tile",
            fabs((double)total.pv_units_computed - (double)a->units_in_tiles), 0, "units", false);
    }
    policy_clear(&all_pv);
    free(ledger);
    free(again);
    return st;
}

static enum status check_tokens(struct auditor *a, const float *dense, const float *sparse)
{
    int n = a->x->n, block = a->policy->block.q;
    int32_t *ids = malloc(sizeof *ids * (size_t)n);
    float *other = rows_of(a, n);
    enum status st = ids && other ? OK : fail(ERR_MEMORY, "no memory to audit");
    if (st == OK) {
        memcpy(ids, a->x->ids, sizeof *ids * (size_t)n);
        for (int i = a->cut; i < n; i++) ids[i] = a->x->ids[n - 1 - (i - a->cut)];
        st = forward(a, a->par, ids, NULL, 0, NULL, NULL, other);
    }
    if (st == OK) {
        add(a, "dense: later tokens do not reach earlier states", "tokens behind the cut replaced", worst_row(a, dense, other, 0, a->cut),
            0, "relative", false);
        st = forward(a, a->par, ids, a->policy, 0, NULL, NULL, other);
    }
    if (st == OK) {
        int whole = a->cut / block * block;
        add(a, "sparse: later tokens do not reach earlier query blocks", "the same, blocks that end before the cut",
            worst_row(a, sparse, other, 0, whole), 0, "relative", false);
        add(a, "sparse: the mask of a block sees its own later rows", "the same, rows of the block that holds the cut",
            worst_row(a, sparse, other, whole, a->cut), 0, "relative", true);
    }
    free(ids);
    free(other);
    return st;
}

static enum status check_equalities(struct auditor *a, const float *dense, const float *sparse)
{
    struct sparse_policy keep_all = {0};
    struct par *one = NULL;
    float *other = rows_of(a, a->x->n);
    enum status st = other ? policy_copy(&keep_all, a->policy) : fail(ERR_MEMORY, "no memory to audit");
    if (st != OK) goto done;
    keep_all.topk = keep_all.method->ranked ? 1 : 0;
    if (keep_all.method == &mask_window) keep_all.window = a->x->n + keep_all.block.q;
    policy_set_thresholds(&keep_all, -1, 1, 50);
    TRY_GOTO(st, done, forward(a, a->par, a->x->ids, &keep_all, 0, NULL, NULL, other));
    add(a, "sparse with every tile kept is dense", "final hidden states", worst_row(a, dense, other, 0, a->x->n), 1e-5, "relative", false);
    TRY_GOTO(st, done, par_open(&one, 1));
    TRY_GOTO(st, done, forward(a, one, a->x->ids, a->policy, 0, NULL, NULL, other));
    add(a, "the number of threads changes nothing", "one thread against all", worst_row(a, sparse, other, 0, a->x->n), 0, "relative", false);
    if (a->policy->block.k <= a->policy->block.q && a->policy->smooth_k != SMOOTH_K_GLOBAL) {
        TRY_GOTO(st, done, forward(a, a->par, a->x->ids, a->policy, 256, NULL, NULL, other));
        add(a, "prefill in chunks is prefill at once", "chunks of 256 tokens", worst_row(a, sparse, other, 0, a->x->n), 1e-4, "relative",
            false);
    }
done:
    par_close(&one);
    policy_clear(&keep_all);
    free(other);
    return st;
}

/* Another instruction set rounds otherwise: stated, since a near-tie may pick another tile. */
static enum status check_kernels(struct auditor *a, const float *dense)
{
    const char *present = cpu_ops()->name;
    float *other = rows_of(a, a->x->n);
    enum status st = other ? OK : fail(ERR_MEMORY, "no memory to audit");
    if (st == OK && strcmp(present, "base") != 0) {
        st = cpu_ops_choose("base");
        if (st == OK) st = forward(a, a->par, a->x->ids, NULL, 0, NULL, NULL, other);
        enum status back = cpu_ops_choose(present);
        if (st == OK) st = back;
        if (st == OK) add(a, "another instruction set agrees", "dense, plain x86-64 kernels", worst_row(a, dense, other, 0, a->x->n), 1e-3,
                          "relative", false);
    }
    free(other);
    return st;
}

enum status audit_run(const struct model *m, struct par *par, const struct sample *x, const struct sparse_policy *policy,
                      struct audit *out)
{
    *out = (struct audit){0};
    if (!policy->method) return fail(ERR_ARG, "audit needs a sparse --method");
    if (x->n < policy->min_sparse_tokens)
        return fail(ERR_ARG, "%s has %d tokens; sparse attention starts at %d", x->name, x->n, policy->min_sparse_tokens);
    struct auditor a = {.m = m, .par = par, .x = x, .policy = policy, .out = out, .width = m->weights.config.hidden_size};
    a.cut = x->n / 2 + policy->block.q / 3; /* inside a block, on no boundary */
    float *dense = rows_of(&a, x->n), *sparse = rows_of(&a, x->n);
    enum status st = dense && sparse ? OK : fail(ERR_MEMORY, "no memory to audit %d tokens", x->n);
    if (st == OK) st = forward(&a, par, x->ids, NULL, 0, NULL, NULL, dense);
    if (st == OK) st = forward(&a, par, x->ids, policy, 0, NULL, NULL, sparse);
    if (st == OK) st = check_attention(&a);
    if (st == OK) st = check_tokens(&a, dense, sparse);
    if (st == OK) st = check_equalities(&a, dense, sparse);
    if (st == OK) st = check_kernels(&a, dense);
    free(dense);
    free(sparse);
    return st;
}
