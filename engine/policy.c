#include "engine/policy.h"

#include "kernels/eight.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool runs_sparse(const struct sparse_policy *p) { return p->method != NULL; }

enum status policy_set_precision(struct sparse_policy *p, enum precision qk, enum precision pv)
{
    if (pv == PRECISION_INT8)
        return fail(ERR_ARG, "--pv: found int8, expected full or fp8: P·V in int8 is not defined");
    p->qk = qk;
    p->pv = pv;
    if (!p->method) memset(p->layer_on, policy_acts(p), (size_t)p->n_layers);
    return OK;
}

enum status policy_init(
    struct sparse_policy *p, const struct mask_method *method, int n_layers, int n_heads)
{
    *p = (struct sparse_policy){
        .method = method,
        .block = BLOCK_DEFAULT,
        .smooth_k = SMOOTH_K_RUNNING,
        .min_sparse_tokens = MIN_SPARSE_TOKENS,
        .n_layers = n_layers,
        .n_heads = n_heads,
        .layer_on = malloc((size_t)n_layers),
        .heads = malloc((size_t)n_layers * (size_t)n_heads * sizeof(struct head_params)),
    };
    if (!p->layer_on || !p->heads) {
        policy_clear(p);
        return fail(
            ERR_MEMORY, "no memory for the thresholds of %d layers x %d heads", n_layers, n_heads);
    }
    memset(p->layer_on, runs_sparse(p), (size_t)n_layers);
    policy_set_thresholds(p, .6f, .98f, 50);
    return OK;
}

void policy_clear(struct sparse_policy *p)
{
    free(p->layer_on);
    free(p->heads);
    *p = (struct sparse_policy){0};
}

enum status policy_copy(struct sparse_policy *to, const struct sparse_policy *from)
{
    TRY(policy_init(to, from->method, from->n_layers, from->n_heads));
    uint8_t *layer_on = to->layer_on;
    struct head_params *heads = to->heads;
    *to = *from;
    to->layer_on = layer_on;
    to->heads = heads;
    memcpy(layer_on, from->layer_on, (size_t)from->n_layers);
    memcpy(heads, from->heads, (size_t)from->n_layers * (size_t)from->n_heads * sizeof *heads);
    return OK;
}

enum status policy_copy_dense(struct sparse_policy *to, const struct sparse_policy *from)
{
    TRY(policy_init(to, NULL, from->n_layers, from->n_heads));
    to->block = from->block;
    to->min_sparse_tokens = from->min_sparse_tokens;
    to->qk = from->qk;
    to->pv = from->pv;
    if (policy_acts(to)) memcpy(to->layer_on, from->layer_on, (size_t)from->n_layers);
    return OK;
}

void policy_set_thresholds(struct sparse_policy *p, float theta, float tau, float lambda)
{
    for (int i = 0; i < p->n_layers * p->n_heads; i++)
        p->heads[i] = (struct head_params){theta, tau, lambda, runs_sparse(p), 0, 0, 0};
}

void policy_choose_thresholds(struct sparse_policy *p, double theta, double tau, double lambda)
{
    if (isnan(theta)) theta = p->topk > 0 ? -.1 : .6;
    if (isnan(tau)) tau = p->method && p->method->keep > 0 ? (double)p->method->keep : .98;
    if (isnan(lambda)) lambda = NEVER_SKIP;
    policy_set_thresholds(p, (float)theta, (float)tau, (float)lambda);
}

static enum status bad_layers(const char *text, int n_layers)
{
    return fail(ERR_ARG,
        "--layers: found \"%s\", expected all, none, a layer \"7\", a range \"8-15\", the guide's "
        "\"16,32\" "
        "(16 to 31), or several joined by +; this model has layers 0 to %d",
        text, n_layers - 1);
}

/* Digits only, at most six: no sign, no space, no overflow. */
static bool read_layer(const char **s, int *out)
{
    int n = 0, digits = 0;
    for (; **s >= '0' && **s <= '9' && digits < 6; (*s)++, digits++) n = 10 * n + (**s - '0');
    *out = n;
    return digits > 0;
}

enum status policy_set_layers(struct sparse_policy *p, const char *text)
{
    bool all = strcmp(text, "all") == 0, none = strcmp(text, "none") == 0;
    /* look first, then write: a refused text changes nothing */
    for (int pass = 0; pass < 2; pass++) {
        if (pass) memset(p->layer_on, all && policy_acts(p), (size_t)p->n_layers);
        for (const char *s = text; !all && !none;) {
            int first, last;
            if (!read_layer(&s, &first)) return bad_layers(text, p->n_layers);
            last = first;
            if (*s == '-' || *s == ',') {
                bool half_open = *s++ == ',';
                if (!read_layer(&s, &last)) return bad_layers(text, p->n_layers);
                last -= half_open;
            }
            if (last < first || last >= p->n_layers || (*s && *s != '+'))
                return bad_layers(text, p->n_layers);
            if (pass) memset(p->layer_on + first, policy_acts(p), (size_t)(last - first + 1));
            if (!*s++) break;
        }
    }
    return OK;
}

char *policy_layers_text(const struct sparse_policy *p, char out[LAYERS_TEXT_SIZE])
{
    const size_t size = LAYERS_TEXT_SIZE;
    assert(p->n_layers <= MAX_MODEL_LAYERS);
    size_t at = 0;
    int on = 0;
    out[0] = 0;
    for (int l = 0; l < p->n_layers; l++) on += p->layer_on[l];
    if (on == p->n_layers || on == 0) {
        snprintf(out, size, on ? "all" : "none");
        return out;
    }
    for (int l = 0; l < p->n_layers; l++) {
        if (!p->layer_on[l]) continue;
        int first = l;
        while (l + 1 < p->n_layers && p->layer_on[l + 1]) l++;
        int n =
            snprintf(out + at, size - at, l > first ? "%s%d-%d" : "%s%d", at ? "+" : "", first, l);
        at += (size_t)n;
    }
    return out;
}

int policy_first_sparse_layer(const struct sparse_policy *p)
{
    int l = 0;
    while (l < p->n_layers && !p->layer_on[l]) l++;
    return l;
}

enum status block_shape_parse(const char *text, struct block_shape *out)
{
    static const struct block_shape offered[] = {BLOCK_DEFAULT, {64, 64}, {64, 128}, {128, 128}};
    static const char *const names[] = {"128x64", "64x64", "64x128", "128x128"};
    for (int i = 0; i < 4; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = offered[i];
            return OK;
        }
    return fail(ERR_ARG,
        "--block: found \"%s\", expected 128x64, 64x64, 64x128 or 128x128 (query x key rows)",
        text);
}

void policy_hash(const struct sparse_policy *p, struct hash *h)
{
    hash_add_str(h, p->method ? p->method->name : "dense");
    if (!policy_acts(p)) return;
    if (policy_is_eight(p)) {
        hash_add_str(h, precision_name(p->qk));
        hash_add_str(h, precision_name(p->pv));
    }
    if (!p->method) { /* every tile is kept: no more than where eight bits are used is asked */
        hash_add_u64(h, (uint64_t)p->min_sparse_tokens);
        hash_add(h, p->layer_on, (size_t)p->n_layers);
        return;
    }
    if (p->where_it_pays) {
        hash_add_str(h, "where it pays");
        hash_add(h, &p->promised, sizeof p->promised);
    }
    hash_add_u64(h, (uint64_t)p->block.q << 32 | (uint64_t)p->block.k);
    hash_add_str(h, smooth_k_name(p->smooth_k));
    hash_add_u64(h, (uint64_t)p->min_sparse_tokens);
    hash_add(h, &p->topk, sizeof p->topk);
    hash_add_u64(h, (uint64_t)p->window);
    hash_add(h, p->layer_on, (size_t)p->n_layers);
    for (int i = 0; i < p->n_layers * p->n_heads; i++) {
        const struct head_params *head = &p->heads[i];
        /* -0 is 0 */
        float thresholds[3] = {head->theta + 0.f, head->tau + 0.f, head->lambda + 0.f};
        hash_add(h, thresholds, sizeof thresholds);
        hash_add_u64(h, head->is_sparse);
        if (p->method->n_parts || head->part) hash_add_u64(h, head->part);
        if (head->vertical) hash_add_u64(h, (uint64_t)head->vertical << 32 | (uint64_t)head->slash);
    }
}

struct layer_way policy_layer_way(const struct sparse_policy *p, int layer, int n, int q_start,
    int total_len, const struct call_place *at, struct head_ledger *ledger)
{
    struct layer_way way = {0};
    if (!p || !policy_acts(p)) return way;
    bool outside = !p->layer_on[layer];
    bool small = total_len < p->min_sparse_tokens || n == 1 || q_start % p->block.q != 0;
    bool dear = !outside && !small && p->where_it_pays && !payoff_pays(at, p, total_len);
    if (!outside && !small && !dear) way.qk = p->qk, way.pv = p->pv;
    for (int h = 0; h < p->n_heads; h++) {
        bool head_dense = !p->heads[layer * p->n_heads + h].is_sparse;
        way.sparse |= !head_dense && !outside && !small && !dear;
        if (!ledger) continue;
        struct head_ledger *l = &ledger[h];
        if (outside) l->calls_dense_layer++;
        else if (small) l->calls_dense_short++;
        else if (dear) l->calls_dense_cost++;
        else if (head_dense) l->calls_dense_head++;
        else l->calls_sparse++;
        l->calls_eight += way.qk || way.pv;
    }
    return way;
}
