/* What backends share. */
#include "engine/session_backend.h"

#include "kernels/eight.h"

#include <stdio.h>
#include <string.h>

void session_note_impl(struct str *impls, const struct attn_impl *impl)
{
    if (!strstr(str_get(impls), impl->name))
        str_addf(impls, "%s%s", impls->len ? "+" : "", impl->name);
}

void session_note_impls(struct str *impls, const char *others)
{
    for (size_t n; *others; others += n + (others[n] == '+')) {
        char name[128];
        n = strcspn(others, "+");
        snprintf(name, sizeof name, "%.*s", (int)n, others);
        if (!strstr(str_get(impls), name)) str_addf(impls, "%s%s", impls->len ? "+" : "", name);
    }
}

int session_window(const struct llama_config *c, int layer, int total_len)
{
    int window = llama_window(c, layer);
    return window < total_len ? window : 0;
}

enum status session_fail_windowed(
    const struct llama_config *c, int layer, const struct sparse_policy *p)
{
    _Static_assert(
        (int)MAX_MODEL_LAYERS >= (int)LLAMA_MAX_LAYERS, "a policy has every layer of a model");
    struct str what = {0}, how = {0};
    uint8_t on[MAX_MODEL_LAYERS];
    char text[LAYERS_TEXT_SIZE];
    struct sparse_policy full = {.n_layers = c->n_layers, .layer_on = on};
    for (int l = 0; l < c->n_layers; l++) on[l] = p->layer_on[l] && !llama_window(c, l);
    if (policy_first_sparse_layer(&full) < c->n_layers)
        str_addf(
            &how, "leave such layers dense with --layers %s, or ", policy_layers_text(&full, text));
    if (p->method) str_addf(&what, "method %s", p->method->name);
    else
        str_addf(
            &what, "attention with --qk %s --pv %s", precision_name(p->qk), precision_name(p->pv));
    enum status st = fail(ERR_UNSUPPORTED,
        "layer %d sees a sliding window of %d tokens, which %s is not defined for; %sstay within "
        "%d tokens with --max-length",
        layer, c->window, str_get(&what), str_get(&how), c->window);
    str_clear(&what);
    str_clear(&how);
    return st;
}

enum status session_check_policy(
    const struct llama_config *c, const struct sparse_policy *p, int n_tokens)
{
    for (int l = 0; l < c->n_layers; l++)
        if (session_window(c, l, n_tokens) &&
            !layer_way_is_plain(policy_layer_way(p, l, n_tokens, 0, n_tokens, NULL, NULL)))
            return session_fail_windowed(c, l, p);
    return OK;
}

struct layer_way session_layer_way(
    const struct forward_args *f, int layer, int total_len, int q_start, struct call_place at)
{
    struct head_ledger *ledger = f->ledger ? f->ledger + layer * at.n_heads : NULL;
    return policy_layer_way(f->policy, layer, f->n, q_start, total_len, &at, ledger);
}

void forward_times_add(struct forward_times *to, const struct forward_times *from)
{
    to->predict_s += from->predict_s;
    to->attention_s += from->attention_s;
    to->attention_dense_s += from->attention_dense_s;
    to->linear_s += from->linear_s;
    to->rest_s += from->rest_s;
    to->has_split |= from->has_split;
    to->qk_s += from->qk_s;
    to->pv_s += from->pv_s;
}

bool values_are_finite(const float *x, size_t n)
{
    /* by the bits of the exponent: nothing that a compiler could take for granted */
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}
