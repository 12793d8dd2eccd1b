#include "kernels/mask.h"

#include "base/xmalloc.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *smooth_k_name(enum smooth_k s)
{
    return s == SMOOTH_K_RUNNING ? "running" : s == SMOOTH_K_GLOBAL ? "global" : "off";
}

bool smooth_k_parse(const char *text, enum smooth_k *out)
{
    for (int i = SMOOTH_K_RUNNING; i <= SMOOTH_K_OFF; i++) {
        if (strcmp(text, smooth_k_name((enum smooth_k)i)) != 0) continue;
        *out = (enum smooth_k)i;
        return true;
    }
    return false;
}

void mask_force_common(struct mask_row *row, struct block_shape b, int qb)
{
    for (int j = 0; j < row->n; j++)
        row->forced[j] =
            (uint8_t)((j == 0 ? FORCE_SINK : 0) | ((j + 1) * b.k > qb * b.q ? FORCE_DIAGONAL : 0));
}

struct ranked {
    float p;
    int j;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return (x->j > y->j) - (x->j < y->j);
}

int mask_order(const struct mask_row *row, int *order)
{
    struct ranked small[512], *r = row->n <= 512 ? small : xmalloc((size_t)row->n * sizeof *r);
    int n = 0;
    for (int j = 0; j < row->n; j++)
        if (row->p[j] > 0) r[n++] = (struct ranked){row->p[j], j};
    qsort(r, (size_t)n, sizeof *r, compare_ranked);
    for (int i = 0; i < n; i++) order[i] = r[i].j;
    if (r != small) free(r);
    return n;
}

int mask_keep(const struct mask_method *m, const struct mask_row *row, const int *order,
    int n_eligible, float keep)
{
    return m->ranked ? mask_rule_of(m)->count(row, order, n_eligible, keep) : n_eligible;
}

/* Memory of one worker: the method's, then p, order, forced for the longest row. */
static size_t row_entries(const struct mask_args *a)
{
    return (size_t)((attn_n_kv(a->attn) + a->attn->block.k - 1) / a->attn->block.k);
}

/* A method with its parameters. */
static struct mask_args args_for(const struct mask_args *a, const struct mask_method *m)
{
    struct mask_args own = *a;
    own.values = m->values;
    return own;
}

static size_t method_bytes(const struct mask_method *m, const struct mask_args *a)
{
    size_t most = 0;
    for (int i = 0; i < (m->n_parts ? m->n_parts : 1); i++) {
        struct mask_args own = args_for(a, mask_part(m, i));
        size_t bytes = mask_part(m, i)->workspace(&own);
        if (bytes > most) most = bytes;
    }
    return most;
}

static size_t worker_bytes(const struct mask_method *m, const struct mask_args *a)
{
    size_t n = row_entries(a);
    return method_bytes(m, a) + (n * (sizeof(float) + sizeof(int) + 1) + 63) / 64 * 64;
}

size_t mask_workspace(const struct mask_method *m, const struct mask_args *a, int n_workers)
{
    return worker_bytes(m, a) * (size_t)n_workers;
}

struct predict {
    const struct mask_method *m;
    const struct mask_args *a;
    struct tile_map *tiles;
    char *ws;
    size_t stride;
    /* heads read the same q and k: what no threshold changes is prepared once, by the first that
     * needs it */
    bool alike;
    const struct mask_method *prepared;
};

static void count_forced(struct head_ledger *l, uint8_t reasons)
{
    l->forced_sink += (reasons & FORCE_SINK) != 0;
    l->forced_diagonal += (reasons & FORCE_DIAGONAL) != 0;
    l->forced_theta_q += (reasons & FORCE_THETA_Q) != 0;
    l->forced_theta_k += (reasons & FORCE_THETA_K) != 0;
}

static void set_all(uint64_t *bits, int n)
{
    for (int j = 0; j < n; j += 64)
        bits[j / 64] = n - j >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << (n - j)) - 1;
}

static void predict_head(void *ctx, int head, int worker)
{
    struct predict *c = ctx;
    const struct head_params *params = &c->a->heads[head];
    const struct mask_method *m = mask_part(c->m, params->part);
    const struct mask_args own = args_for(c->a, m), *a = &own;
    char *ws = c->ws + c->stride * (size_t)worker;
    int bq = a->attn->block.q, n_kv = attn_n_kv(a->attn);
    struct mask_row row = {.p = (float *)(ws + method_bytes(c->m, c->a)),
        .n_qblocks = (n_kv + bq - 1) / bq,
        .n_kblocks = (int)row_entries(a)};
    int *order = (int *)(row.p + row_entries(a));
    row.forced = (uint8_t *)(order + row_entries(a));
    struct head_ledger *ledger = a->attn->ledger ? &a->attn->ledger[head] : NULL;
    int first = a->attn->q_start / a->attn->block.q;
    if (params->is_sparse && c->prepared != m) {
        m->prepare(a, head, ws);
        if (c->alike) c->prepared = m;
    }
    for (int i = 0; i < c->tiles->n_qblocks; i++) {
        uint64_t *bits = tile_map_row(c->tiles, head, i);
        memset(bits, 0, (size_t)c->tiles->words_per_row * sizeof *bits);
        row.n = tiles_possible(a->attn->block, first + i, attn_n_kv(a->attn));
        if (!params->is_sparse) {
            set_all(bits, row.n);
            continue;
        }
        row.qb = first + i;
        m->row(a, head, i, params->theta, ws, &row);
        int n = mask_order(&row, order), keep;
        if (m->ranked && a->topk > 0) {
            int want = mask_topk_count(a->topk, row.n);
            keep = want < n ? want : n;
        } else {
            keep = mask_keep(m, &row, order, n, params->tau);
        }
        for (int r = 0; r < keep; r++) bits[order[r] / 64] |= (uint64_t)1 << (order[r] % 64);
        for (int j = 0; j < row.n; j++) {
            if (!row.forced[j]) continue;
            bits[j / 64] |= (uint64_t)1 << (j % 64);
            if (ledger) count_forced(ledger, row.forced[j]);
        }
    }
}

enum status mask_predict(const struct mask_method *m, const struct mask_args *a,
    struct tile_map *tiles, void *ws, struct par *par)
{
    for (int i = 0; i < (m->n_parts ? m->n_parts : 1); i++) {
        const struct mask_method *part = mask_part(m, i);
        struct mask_args own = args_for(a, part);
        const char *why = part->refuses(&own);
        if (why)
            return fail(ERR_UNSUPPORTED, "method %s, blocks %dx%d: %s", part->name,
                a->attn->block.q, a->attn->block.k, why);
    }
    bool alike = a->attn->q_head == 0 && a->attn->n_kv_heads == 1 && a->attn->n_heads > 1;
    struct predict c = {m, a, tiles, ws, worker_bytes(m, a), alike, NULL};
    par_for(alike ? NULL : par, a->attn->n_heads, predict_head, &c);
    return OK;
}
