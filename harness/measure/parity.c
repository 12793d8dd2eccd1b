#include "harness/measure/parity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct logged_map {
    int layer, q_start;
    struct tile_map map; /* its bits owned */
};

struct kept_sample {
    float *states[2]; /* dense, sparse: [n, width] */
    struct map_log log;
};

enum status map_log_add(struct map_log *l, const struct layer_view *view)
{
    if (!view->tiles) return OK;
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 64;
        struct logged_map *more = realloc(l->maps, sizeof *more * (size_t)cap);
        if (!more) return fail(ERR_MEMORY, "no memory for %d maps", cap);
        l->maps = more;
        l->cap = cap;
    }
    struct logged_map *m = &l->maps[l->n];
    *m = (struct logged_map){view->layer, view->attn->q_start, *view->tiles};
    m->map.bits = malloc(tile_map_bytes(view->tiles));
    if (!m->map.bits) return fail(ERR_MEMORY, "no memory for a map");
    memcpy(m->map.bits, view->tiles->bits, tile_map_bytes(view->tiles));
    l->n++;
    return OK;
}

void map_log_clear(struct map_log *l)
{
    for (int i = 0; i < l->n; i++) free(l->maps[i].map.bits);
    free(l->maps);
    *l = (struct map_log){0};
}

/* Rows of b against those of a from `first` on. */
static double head_jaccard(const struct tile_map *a, const struct tile_map *b, int first, int head)
{
    int64_t both = 0, either = 0;
    int common = a->words_per_row < b->words_per_row ? a->words_per_row : b->words_per_row;
    for (int i = 0; i < b->n_qblocks; i++) {
        const uint64_t *x = tile_map_row(a, head, first + i), *y = tile_map_row(b, head, i);
        for (int w = 0; w < common; w++) {
            both += __builtin_popcountll(x[w] & y[w]);
            either += __builtin_popcountll(x[w] | y[w]);
        }
        for (int w = common; w < a->words_per_row; w++) either += __builtin_popcountll(x[w]);
        for (int w = common; w < b->words_per_row; w++) either += __builtin_popcountll(y[w]);
    }
    return either ? (double)both / (double)either : 1;
}

/* The entry of `a` that holds the rows of y, and its row where they begin. */
static const struct logged_map *find_rows(
    const struct map_log *a, const struct logged_map *y, int *first)
{
    for (int i = 0; i < a->n; i++) {
        const struct logged_map *x = &a->maps[i];
        int behind = y->q_start - x->q_start;
        *first = behind / y->map.block.q;
        if (x->layer == y->layer && behind >= 0 && x->map.block.q == y->map.block.q &&
            x->map.block.k == y->map.block.k && *first + y->map.n_qblocks <= x->map.n_qblocks)
            return x;
    }
    return NULL;
}

static int64_t rows_of(const struct map_log *l)
{
    int64_t n = 0;
    for (int i = 0; i < l->n; i++) n += l->maps[i].map.n_qblocks;
    return n;
}

enum status map_log_compare(const struct map_log *a, const struct map_log *b,
    const struct sparse_policy *policy, struct jaccard *out)
{
    bool same = rows_of(a) == rows_of(b);
    if (out->n == 0) out->min = 1;
    for (int i = 0; i < b->n && same; i++) {
        const struct logged_map *y = &b->maps[i];
        int first;
        const struct logged_map *x = find_rows(a, y, &first);
        same = x != NULL;
        for (int h = 0; h < policy->n_heads && same; h++) {
            if (!policy->heads[y->layer * policy->n_heads + h].is_sparse) continue;
            double j = head_jaccard(&x->map, &y->map, first, h);
            out->sum += j;
            out->n++;
            out->min = fmin(out->min, j);
        }
    }
    return same ? OK
                : fail(ERR_ARG,
                      "the maps of two passes do not belong together: %d and %d of them, of %lld "
                      "and %lld rows of blocks",
                      a->n, b->n, (long long)rows_of(a), (long long)rows_of(b));
}

enum status parity_open(struct parity *p, const struct llama_config *c,
    const struct sample_set *set, const struct sparse_policy *policy)
{
    *p = (struct parity){
        .set = set, .policy = policy, .width = (size_t)c->hidden_size, .result.masks.min = 1};
    p->samples = calloc((size_t)set->n_samples, sizeof *p->samples);
    return p->samples ? OK : fail(ERR_MEMORY, "no memory to keep %d samples", set->n_samples);
}

void parity_close(struct parity *p)
{
    for (int i = 0; p->samples && i < p->set->n_samples; i++) {
        for (int side = 0; side < 2; side++) free(p->samples[i].states[side]);
        map_log_clear(&p->samples[i].log);
    }
    free(p->samples);
    map_log_clear(&p->log);
    *p = (struct parity){0};
}

enum status parity_layer(struct parity *p, int sample, const struct layer_view *view)
{
    return map_log_add(p->second ? &p->log : &p->samples[sample].log, view);
}

static enum status keep(struct parity *p, int sample, const float *dense, const float *sparse)
{
    size_t bytes = (size_t)p->set->samples[sample].n * p->width * sizeof(float);
    const float *from[2] = {dense, sparse};
    for (int side = 0; side < 2; side++) {
        float *to = malloc(bytes);
        if (!to)
            return fail(
                ERR_MEMORY, "no memory to keep a sample of %d tokens", p->set->samples[sample].n);
        p->samples[sample].states[side] = memcpy(to, from[side], bytes);
    }
    return OK;
}

enum status parity_sample(struct parity *p, int sample, struct session *s, const float *dense,
    const float *sparse, const int32_t *next)
{
    if (!p->second) return keep(p, sample, dense, sparse);
    struct kept_sample *cpu = &p->samples[sample];
    const float *gpu[2] = {dense, sparse};
    int n = p->set->samples[sample].n;
    struct token_metrics *rows = malloc(sizeof *rows * (size_t)n);
    enum status st = rows ? OK : fail(ERR_MEMORY, "no memory to compare %d tokens", n);
    for (int side = 0; side < 2 && st == OK; side++) {
        st = session_compare(s, n, rows_of_host(cpu->states[side]), rows_of_host(gpu[side]), next,
            rows, &p->sums[side]);
        for (int i = 0; i < n && st == OK; i++) {
            p->agree[side] += rows[i].top1_agree;
            p->kl[side] += (double)rows[i].kl;
        }
    }
    free(rows);
    if (st == OK) st = map_log_compare(&cpu->log, &p->log, p->policy, &p->result.masks);
    if (st == OK) p->result.n_tokens += n;
    map_log_clear(&p->log);
    return st;
}

void parity_finish(struct parity *p, const struct head_ledger *total, struct metric_rows *m)
{
    static const char *const names[3][2] = {{"cpu_logits_error_dense", "cpu_logits_error_sparse"},
        {"cpu_top1_dense", "cpu_top1_sparse"}, {"cpu_kl_dense", "cpu_kl_sparse"}};
    struct parity_result *r = &p->result;
    r->sparsity[p->second] = ledger_sparsity(total);
    if (!p->second) {
        p->second = true;
        return;
    }
    for (int side = 0; side < 2; side++) {
        r->logits_error[side] = sqrt(p->sums[side].sq_diff / p->sums[side].dense_sq);
        r->top1[side] = p->agree[side] / (double)r->n_tokens;
        r->kl[side] = p->kl[side] / (double)r->n_tokens;
        double values[3] = {r->logits_error[side], r->top1[side], r->kl[side]};
        for (int i = 0; i < 3; i++)
            metric_rows_add(m, "overall", names[i][side], r->n_tokens)->mean = values[i];
    }
    if (r->masks.n) {
        struct metric_record *j = metric_rows_add(m, "overall", "cpu_mask_jaccard", r->masks.n);
        j->mean = r->masks.sum / (double)r->masks.n;
        j->min = r->masks.min;
    }
    metric_rows_add(m, "overall", "cpu_sparsity_difference", r->n_tokens)->mean =
        r->sparsity[1] - r->sparsity[0];
}
