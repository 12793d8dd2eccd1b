#include "engine/attend.h"

static size_t align64(size_t n) { return (n + 63) / 64 * 64; }

static enum status begin(struct attend *t, struct attn_args *a, const struct sparse_policy *policy,
    int layer, bool sparse, const char *impl, int n_threads)
{
    t->args = a;
    t->mask = (struct mask_args){.attn = a};
    t->method = NULL;
    t->map_bytes = 0;
    if (a->n_heads > ATTEND_MAX_HEADS)
        return fail(
            ERR_UNSUPPORTED, "%d heads, at most %d are offered", a->n_heads, ATTEND_MAX_HEADS);
    size_t mask_bytes = 0;
    if (sparse) {
        t->method = policy->method;
        t->mask.heads = policy->heads + (size_t)layer * (size_t)a->n_heads;
        t->mask.smooth_k = policy->smooth_k;
        t->mask.topk = policy->topk;
        t->mask.window = policy->window;
        t->map = tile_map_shape(policy->block, a->n_heads, a->q_start, a->n_q);
        t->map_bytes = align64(tile_map_bytes(&t->map));
        mask_bytes = mask_workspace(t->method, &t->mask, n_threads);
        for (int h = 0; h < a->n_heads; h++) {
            t->lambda[h] = t->mask.heads[h].lambda;
            t->sparse[h] = t->mask.heads[h].is_sparse;
        }
        a->tiles = &t->map;
        a->correct_mean = t->method->correct_mean;
        a->pv_threshold = t->lambda;
        a->head_sparse = t->sparse;
    }
    TRY(attn_choose(a, impl, &t->impl));
    size_t work = t->impl->workspace(a);
    t->scratch_bytes = t->map_bytes + (mask_bytes > work ? mask_bytes : work);
    return OK;
}

enum status attend_begin(struct attend *t, struct attn_args *a, const struct sparse_policy *policy,
    int layer, bool sparse, const char *impl, struct par *par)
{
    t->par = par;
    return begin(t, a, policy, layer, sparse, impl, par_threads(par));
}

size_t attend_bytes(const struct attn_args *a, const struct sparse_policy *policy, int n_threads)
{
    size_t most = 0;
    for (int sparse = 0; sparse <= (policy && policy->method); sparse++) {
        struct attn_args call = *a;
        struct attend t;
        enum status st = begin(&t, &call, policy, 0, sparse, NULL, n_threads);
        if (st == OK && t.scratch_bytes > most) most = t.scratch_bytes;
    }
    return most;
}

enum status attend_predict(struct attend *t, void *scratch)
{
    if (!t->method) return OK;
    t->map.bits = scratch;
    return mask_predict(t->method, &t->mask, &t->map, (char *)scratch + t->map_bytes, t->par);
}

enum status attend_run(struct attend *t, void *scratch)
{
    return t->impl->run(t->args, (char *)scratch + t->map_bytes, t->par, NULL);
}
