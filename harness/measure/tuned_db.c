#include "harness/measure/tuned_db.h"

#include <math.h>
#include <stdlib.h>

enum status store_tuned(struct store *s, const struct tuned *t, const char *hash, const char *json)
{
    size_t n = (size_t)t->n_layers * (size_t)t->n_heads, at = 0;
    struct tuned_head_record *heads = calloc(n, sizeof *heads);
    if (!heads) return fail(ERR_MEMORY, "no memory for %zu tuned heads", n);
    for (size_t i = 0; i < n; i++) {
        const struct tuned_head *h = &t->heads[i];
        if (!h->in_range) continue;
        heads[at++] = (struct tuned_head_record){
            .layer = (int)i / t->n_heads,
            .head = (int)i % t->n_heads,
            .is_sparse = h->params.is_sparse,
            .theta = (double)h->params.theta,
            .tau = (double)h->params.tau,
            .lambda = (double)h->params.lambda,
            .l1_tune = h->tune.l1,
            .l1_held_out = h->held_out.l1,
            .tail_tune = h->tune.tail,
            .tail_held_out = h->held_out.tail,
            .qk_sparsity = h->qk_sparsity,
            .sparsity = h->sparsity,
            .back_offs = h->back_offs,
            .reason = h->reason[0] ? h->reason : NULL,
        };
    }
    struct str text = {0};
    if (!json) tuned_print(t, &text, -1);
    struct tuned_record r = {
        .hash = hash,
        .model_fingerprint = t->model_fingerprint,
        .data_fingerprint = t->data_fingerprint,
        .method = t->method,
        .rule = tune_rule_name(t->rule),
        .smooth_k = smooth_k_name(t->smooth_k),
        .layers = t->layers,
        .l1 = t->l1,
        .pv_l1 = t->pv_l1,
        .block_q = t->block.q,
        .block_k = t->block.k,
        .json = json ? json : str_get(&text),
        .wall_s = NAN,
        .heads = heads,
        .n_heads = at,
    };
    enum status st = store_tuned_put(s, &r);
    str_clear(&text);
    free(heads);
    return st;
}
