/* Attention and prediction on the caller's tensors. */
#include "library/parts.h"

#include <limits.h>
#include <math.h>
#include <string.h>

static enum status check_strides(const char *what, ptrdiff_t token, ptrdiff_t head, int n_tokens,
    int n_heads, int d, bool written)
{
    const ptrdiff_t most = PTRDIFF_MAX / 16 / ((ptrdiff_t)n_tokens + n_heads);
    if (token < 0 || head < 0 || token > most || head > most)
        return fail(ERR_ARG,
            "%s: found strides of %td elements a token and %td a head, expected 0 to %td", what,
            token, head, most);
    if (written && ((n_tokens > 1 && token < d) || (n_heads > 1 && head < d)))
        return fail(ERR_ARG,
            "%s: found strides of %td elements a token and %td a head, expected at least head_dim, "
            "%d: its rows would "
            "overlap",
            what, token, head, d);
    return OK;
}

static enum status check_device(const struct sg_attention *a)
{
    if (a->on_gpu == 0 && a->dtype == SG_F32) return OK;
    if (a->on_gpu == 0)
        return fail(ERR_UNSUPPORTED,
            "dtype: found %s on the host, expected f32: widen the tensors, or bring them to a GPU",
            a->dtype == SG_BF16 ? "bf16" : "an unknown type");
#ifdef SG_HAVE_CUDA
    if (a->dtype != SG_BF16)
        return fail(ERR_UNSUPPORTED, "dtype: found %s on a GPU, expected bf16",
            a->dtype == SG_F32 ? "f32" : "an unknown type");
    const uintptr_t at[] = {(uintptr_t)a->q, (uintptr_t)a->k, (uintptr_t)a->v, (uintptr_t)a->o};
    const ptrdiff_t strides[] = {
        a->q_token, a->q_head, a->k_token, a->k_head, a->v_token, a->v_head, a->o_token, a->o_head};
    for (int i = 0; i < 4; i++)
        if (at[i] % 16)
            return fail(ERR_ARG, "%c: found address %#zx, expected one on 16 bytes", "qkvo"[i],
                (size_t)at[i]);
    for (int i = 0; i < 8; i++)
        if (strides[i] % 8)
            return fail(ERR_ARG, "%c: found a stride of %td elements, expected a multiple of 8",
                "qkvo"[i / 2], strides[i]);
    return OK;
#else
    return fail(ERR_UNSUPPORTED,
        "this libsparsegauge was built without CUDA; build it with -DSG_CUDA=ON, or use f32 "
        "tensors on the host");
#endif
}

enum status attention_of(
    const struct sg_attention *a, const struct sg_policy *p, struct attn_args *out)
{
    if (a->n_heads < 1 || a->n_heads > ATTEND_MAX_HEADS || a->n_kv_heads < 1 ||
        a->n_heads % a->n_kv_heads)
        return fail(ERR_ARG,
            "n_heads %d and n_kv_heads %d: expected 1 to %d, the former a multiple of the latter",
            a->n_heads, a->n_kv_heads, ATTEND_MAX_HEADS);
    if (a->head_dim < 1 || a->head_dim > LLAMA_MAX_HEAD_DIM)
        return fail(
            ERR_ARG, "head_dim: found %d, expected 1 to %d", a->head_dim, LLAMA_MAX_HEAD_DIM);
    if (a->n_q < 1 || a->q_start < 0 || a->q_start > (INT_MAX >> 4) - a->n_q)
        return fail(ERR_ARG,
            "n_q %d at q_start %d: expected at least one row, at position 0 or behind, and under "
            "%d in all",
            a->n_q, a->q_start, INT_MAX >> 4);
    if (a->window < 0)
        return fail(ERR_ARG, "window: found %d, expected 0 (none) or tokens", a->window);
    if (!(a->scale >= 0) || isinf(a->scale))
        return fail(ERR_ARG, "scale: found %g, expected above 0, or 0 for 1/sqrt(head_dim)",
            (double)a->scale);
    if (!a->q || !a->k || !a->v || !a->o)
        return fail(ERR_ARG, "%s is NULL", !a->q ? "q" : !a->k ? "k" : !a->v ? "v" : "o");
    int n_kv = a->q_start + a->n_q, total = a->total > n_kv ? a->total : n_kv;
    TRY(check_strides("q", a->q_token, a->q_head, a->n_q, a->n_heads, a->head_dim, false));
    TRY(check_strides("k", a->k_token, a->k_head, n_kv, a->n_kv_heads, a->head_dim, false));
    TRY(check_strides("v", a->v_token, a->v_head, n_kv, a->n_kv_heads, a->head_dim, false));
    TRY(check_strides("o", a->o_token, a->o_head, a->n_q, a->n_heads, a->head_dim, true));
    TRY(check_device(a));
    if (p && a->n_heads != p->now.n_heads)
        return fail(ERR_ARG,
            "n_heads: found %d, expected %d as in the policy; it is of another model", a->n_heads,
            p->now.n_heads);
    if (p && (a->layer < 0 || a->layer >= p->now.n_layers))
        return fail(ERR_ARG,
            "layer: found %d, expected 0 to %d as in the policy; it is of another model", a->layer,
            p->now.n_layers - 1);
    *out = (struct attn_args){
        .dtype = a->dtype == SG_BF16 ? DTYPE_BF16 : DTYPE_F32,
        .n_q = a->n_q,
        .q_start = a->q_start,
        .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads,
        .head_dim = a->head_dim,
        .scale = a->scale > 0 ? a->scale : (float)(1 / sqrt((double)a->head_dim)),
        .q = a->q,
        .k = a->k,
        .v = a->v,
        .o = a->o,
        .q_row = a->q_token,
        .q_head = a->q_head,
        .k_row = a->k_token,
        .k_head = a->k_head,
        .v_row = a->v_token,
        .v_head = a->v_head,
        .o_row = a->o_token,
        .o_head = a->o_head,
        .block = p ? p->now.block : (struct block_shape)BLOCK_DEFAULT,
        .window = a->window < total ? a->window : 0,
    };
    return OK;
}

enum status attention_runs_dense(const struct sg_attention *a, const struct sg_policy *p,
    struct attn_args *attn, struct head_ledger *ledger, bool *dense)
{
    int n_kv = attn_n_kv(attn), total = a->total > n_kv ? a->total : n_kv;
    struct layer_way way =
        policy_layer_way(p ? &p->now : NULL, a->layer, attn->n_q, attn->q_start, total,
            &(struct call_place){
                a->head_dim, a->n_heads, a->on_gpu && attention_cuda_is_sm90(a->device)},
            ledger);
    *dense = !way.sparse;
    attn->qk = way.qk;
    attn->pv = way.pv;
    if (layer_way_is_plain(way) || !attn->window) return OK;
    return fail(ERR_UNSUPPORTED,
        "layer %d sees a sliding window of %d tokens, which %s%s is not defined for; leave such "
        "layers dense, or stay within %d tokens",
        a->layer, attn->window, p->now.method ? "method " : "attention in eight bits",
        p->now.method ? p->now.method->name : "", attn->window);
}

struct call {
    struct sg_context *context;
    const struct sg_attention *asked;
    const struct sg_policy *policy;
    struct sg_ledger *ledger;
    void *gpu_ledger;
    uint8_t *tiles; /* prediction alone */
    size_t bytes;
};

static enum status run_host(
    struct call *c, const struct sg_attention *a, struct attn_args *attn, bool dense)
{
    struct attend t;
    TRY(attend_begin(&t, attn, c->policy ? &c->policy->now : NULL, a->layer, !dense, a->kernel,
        c->context->par));
    TRY(context_scratch(c->context, t.scratch_bytes));
    TRY(attend_predict(&t, c->context->scratch));
    return attend_run(&t, c->context->scratch);
}

static enum status forward_body(void *args)
{
    struct call *c = args;
    struct sg_attention a;
    struct attn_args attn;
    struct head_ledger ledger[ATTEND_MAX_HEADS];
    bool dense;
    TRY(SG_TAKE(a, c->asked, kernel));
    TRY(attention_of(&a, c->policy, &attn));
    memset(ledger, 0, sizeof *ledger * (size_t)a.n_heads);
    TRY(attention_runs_dense(&a, c->policy, &attn, ledger, &dense));
#ifdef SG_HAVE_CUDA
    if (a.on_gpu) {
        TRY(attention_cuda(&a, c->policy, &attn, dense, c->gpu_ledger));
        ledger_give(c->ledger, ledger, (size_t)a.n_heads);
        return OK;
    }
#endif
    if (c->gpu_ledger)
        return fail(ERR_ARG, "gpu_ledger: found one for a call on the host, expected NULL");
    attn.ledger = ledger;
    TRY(run_host(c, &a, &attn, dense));
    ledger_give(c->ledger, ledger, (size_t)a.n_heads);
    return OK;
}

enum sg_status sg_attention_forward(struct sg_context *context, const struct sg_attention *a,
    const struct sg_policy *policy, struct sg_ledger *ledger, void *gpu_ledger)
{
    return border_in(
        context, forward_body, &(struct call){context, a, policy, ledger, gpu_ledger, NULL, 0});
}

static enum status workspace_body(void *args)
{
    struct call *c = args;
    struct sg_attention a;
    struct attn_args attn;
    TRY(SG_TAKE(a, c->asked, kernel));
    bool dense;
    TRY(attention_of(&a, c->policy, &attn));
    TRY(attention_runs_dense(&a, c->policy, &attn, NULL, &dense));
    c->bytes = 0;
#ifdef SG_HAVE_CUDA
    if (a.on_gpu) TRY(attention_cuda_workspace(&a, c->policy, &attn, dense, &c->bytes));
#endif
    return OK;
}

enum sg_status sg_attention_workspace(
    const struct sg_attention *a, const struct sg_policy *policy, size_t *bytes)
{
    struct call c = {NULL, a, policy, NULL, NULL, NULL, 0};
    enum sg_status st = border(workspace_body, &c);
    *bytes = c.bytes;
    return st;
}

/* Blocks of the call, counted at absolute positions: it need not begin on one when it runs dense.
 */
static int q_blocks(const struct attn_args *a)
{
    return (attn_n_kv(a) - 1) / a->block.q - a->q_start / a->block.q + 1;
}
static int k_blocks(const struct attn_args *a)
{
    return (attn_n_kv(a) + a->block.k - 1) / a->block.k;
}

static enum status predict_body(void *args)
{
    struct call *c = args;
    struct sg_attention a;
    struct attn_args attn;
    struct head_ledger ledger[ATTEND_MAX_HEADS];
    bool dense;
    float unused[1] = {0};
    TRY(SG_TAKE(a, c->asked, kernel));
    if (a.on_gpu)
        return fail(
            ERR_UNSUPPORTED, "prediction alone works on tensors of the host; copy q and k there");
    if (!a.v) { /* looked at by nobody */
        a.v = a.k;
        a.v_token = a.k_token;
        a.v_head = a.k_head;
    }
    if (!a.o) {
        a.o = unused;
        a.o_token = a.head_dim;
        a.o_head = (ptrdiff_t)a.head_dim * (a.n_q > 0 ? a.n_q : 1);
    }
    TRY(attention_of(&a, c->policy, &attn));
    TRY(attention_runs_dense(&a, c->policy, &attn, NULL, &dense));
    memset(ledger, 0, sizeof *ledger * (size_t)a.n_heads);
    attn.ledger = ledger;
    int first = attn.q_start / attn.block.q, n_qblocks = q_blocks(&attn),
        n_kblocks = k_blocks(&attn);
    struct attend t;
    if (!dense) {
        TRY(attend_begin(&t, &attn, &c->policy->now, a.layer, true, NULL, c->context->par));
        TRY(context_scratch(c->context, t.scratch_bytes));
        TRY(attend_predict(&t, c->context->scratch));
    }
    for (int h = 0; h < attn.n_heads; h++)
        for (int i = 0; i < n_qblocks; i++) {
            uint8_t *to =
                c->tiles + ((size_t)h * (size_t)n_qblocks + (size_t)i) * (size_t)n_kblocks;
            const uint64_t *row = dense ? NULL : tile_map_row(&t.map, h, i);
            int n = tiles_possible(attn.block, first + i, attn_n_kv(&attn));
            for (int j = 0; j < n_kblocks; j++)
                to[j] = (uint8_t)(row ? row[j / 64] >> (j % 64) & 1 : j < n);
        }
    ledger_give(c->ledger, ledger, (size_t)a.n_heads);
    return OK;
}

enum sg_status sg_attention_predict(struct sg_context *context, const struct sg_attention *a,
    const struct sg_policy *policy, uint8_t *tiles, struct sg_ledger *ledger)
{
    if (!tiles) return (enum sg_status)fail(ERR_ARG, "tiles is NULL");
    return border_in(
        context, predict_body, &(struct call){context, a, policy, ledger, NULL, tiles, 0});
}

/* 0 where the call makes no sense. */
static bool blocks_of(
    const struct sg_attention *a, const struct sg_policy *p, struct attn_args *out)
{
    struct block_shape block = p ? p->now.block : (struct block_shape)BLOCK_DEFAULT;
    *out = (struct attn_args){.n_q = a->n_q, .q_start = a->q_start, .block = block};
    return a->n_q > 0 && a->q_start >= 0 && a->q_start <= (INT_MAX >> 4) - a->n_q;
}

int sg_q_blocks(const struct sg_attention *a, const struct sg_policy *policy)
{
    struct attn_args attn;
    return blocks_of(a, policy, &attn) ? q_blocks(&attn) : 0;
}

int sg_k_blocks(const struct sg_attention *a, const struct sg_policy *policy)
{
    struct attn_args attn;
    return blocks_of(a, policy, &attn) ? k_blocks(&attn) : 0;
}
